"""Released packages of npm, for tests in a browser."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

#: What the documentation was tried with. Two versions of one package have names of their own.
PACKAGES = (
    "htmx2@npm:htmx.org@2.0.11",
    "htmx-ext-sse@2.2.4",
    "htmx4@npm:htmx.org@4.0.1",
    "@microsoft/fetch-event-source@2.0.1",
)


def install(directory: Path) -> Path:
    """Install ``PACKAGES`` into a folder; the test is skipped where npm or the registry is not there."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed: apt-get install npm")
    options = ["--prefix", str(directory), "--no-audit", "--no-fund", "--ignore-scripts"]
    # htmx-ext-sse asks for a package named htmx.org beside it.
    options += ["--legacy-peer-deps", "--fetch-retries", "0"]
    done = subprocess.run(
        [npm, "install", *options, *PACKAGES],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"npm cannot install {' '.join(PACKAGES)}: {done.stderr[-500:]}")
    return directory / "node_modules"
