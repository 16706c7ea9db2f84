"""Try streams beside real packages, and compare the outcome with docs/compatibility.md."""

from __future__ import annotations

import argparse
import difflib
import importlib.metadata
import os
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from tests.support.postgres_server import PostgresServer, program

from . import sightings
from .page import PAGE, Result, pinned, unequal, written
from .stranger import SQLITE, Stranger
from .strangers import STRANGERS
from .trial import Trial


def main() -> int:
    """Run the chosen trials; return the process's status."""
    parser = argparse.ArgumentParser(prog="python -m tests.compat", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="rows with this in their name")
    parser.add_argument("--write", action="store_true", help="write the page's table")
    parser.add_argument("--log", action="store_true", help="show the servers' logs")
    parser.add_argument("--workers", type=int, default=3, help="trials at once (3)")
    options = parser.parse_args()
    chosen = [
        stranger
        for stranger in STRANGERS
        if not options.names or any(n.lower() in stranger.name.lower() for n in options.names)
    ]
    if not chosen:
        parser.error(f"No row has any of {options.names} in its name.")
    needing = [stranger for stranger in chosen if stranger.engine != SQLITE]
    if needing and program("initdb") is None:
        names = ", ".join(stranger.name for stranger in needing)
        text = f"PostgreSQL is not installed (apt-get install postgresql), which {names} needs."
        if os.environ.get("REQUIRE_SERVICES") == "1":
            sys.exit(text)
        print(f"{text} Its row is left out.")
        chosen, needing = [stranger for stranger in chosen if stranger not in needing], []
    print(f"Trying {len(chosen)} of {len(STRANGERS)} rows, {options.workers} at once.", flush=True)
    began = time.monotonic()
    with ExitStack() as stack:
        port = stack.enter_context(PostgresServer()).port if needing else 0
        threads = stack.enter_context(ThreadPoolExecutor(options.workers))
        trials = list(threads.map(partial(_run, port), chosen))
    print(f"They took {time.monotonic() - began:.0f} s.")
    if options.log:
        for trial in trials:
            print(f"\n== {trial.stranger.name}\n{trial.log}")
    return _conclude(trials, write=options.write)


def _run(port: int, stranger: Stranger) -> Trial:
    """Try a stranger, and once more where something went wrong: machines are busy at times."""
    for _ in range(2):
        with tempfile.TemporaryDirectory() as directory:
            trial = Trial(stranger, Path(directory), port)
            trial.run(getattr(sightings, stranger.sighting) if stranger.sighting else None)
        if not trial.failures and not unequal(stranger, trial.costs):
            break
    said = [f"{name}: {text}" for name, text in trial.failures.items()]
    said += [unequal(stranger, trial.costs)] if not trial.failures else []
    verdict = "works" if not any(said) else "FAILS"
    numbers = f"{trial.seconds:5.1f} s, event {trial.latency * 1000:5.1f} ms"
    print(f"{verdict}  {stranger.name} ({numbers})", *filter(None, said), sep="\n    ", flush=True)
    return trial


def _conclude(trials: list[Trial], *, write: bool) -> int:
    """Write the page, or say where it is not what was found."""
    versions = pinned()
    wrong = [
        f"{name} is {importlib.metadata.version(name)}, not {versions[name]}"
        for name in {name for trial in trials for name in trial.stranger.packages}
        if importlib.metadata.version(name) != versions[name]
    ]
    print(*wrong, sep="\n", end="\n" * bool(wrong))
    page = written(
        {t.stranger.name: Result(t.failures, frozenset(t.costs), t.heard) for t in trials}
    )
    before = PAGE.read_text(encoding="utf-8")
    if write:
        PAGE.write_text(page, encoding="utf-8")
        print(f"Wrote {PAGE.name}.")
    elif page != before:
        names = (f"{PAGE.name}, as it is", f"{PAGE.name}, as it was found")
        lines = difflib.unified_diff(before.splitlines(), page.splitlines(), *names, lineterm="")
        print(*lines, sep="\n")
        print("The page is not what was found: make compat ARGS=--write")
    failed = any(t.failures or unequal(t.stranger, t.costs) for t in trials)
    return int(failed or bool(wrong) or (page != before and not write))


if __name__ == "__main__":
    sys.exit(main())
