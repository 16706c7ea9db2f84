"""Run the bench: ``python -m tests.compat [--write] [NAME …]``."""

from __future__ import annotations

import argparse
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from . import sightings
from .strangers import STRANGERS, Stranger
from .trial import Trial


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.compat", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="only rows with this in their name")
    parser.add_argument("--write", action="store_true", help="write the table of the page")
    parser.add_argument("--workers", type=int, default=3, help="trials at once (3)")
    options = parser.parse_args()
    chosen = [s for s in STRANGERS if not options.names or any(n.lower() in s.name.lower() for n in options.names)]
    with tempfile.TemporaryDirectory() as directory, ThreadPoolExecutor(options.workers) as threads:
        trials = list(threads.map(lambda s: run(s, Path(directory)), chosen))
    return 0


def run(stranger: Stranger, directory: Path) -> Trial:
    own = directory / stranger.key
    own.mkdir()
    trial = Trial(stranger, own)
    sighting = getattr(sightings, stranger.sighting) if stranger.sighting else None
    trial.run(sighting)
    print(stranger.name, f"{trial.seconds:.1f}s", f"{trial.latency*1000:.1f}ms", trial.failures, trial.costs, flush=True)
    import os
    if os.environ.get("SHOW"):
        print(trial.log[-6000:])
        if hasattr(trial, "collector"):
            from collections import Counter
            print(Counter((s.name, s.place, s.failed) for s in trial.collector.spans()), trial.collector.errors())
    return trial


sys.exit(main())
