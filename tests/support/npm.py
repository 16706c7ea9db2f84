"""Released packages of npm, for tests in browsers and in node."""

from __future__ import annotations

import fcntl
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import pytest

from tests.support.services import find

#: What the documentation was tried with. Two versions of one package have names of their own.
PACKAGES = (
    "htmx2@npm:htmx.org@2.0.11",
    "htmx-ext-sse@2.2.4",
    "htmx4@npm:htmx.org@4.0.1",
    "@microsoft/fetch-event-source@2.0.1",
    "@starfederation/datastar@1.0.0-beta.11",
    "@hotwired/turbo@8.0.23",
    "axe-core@4.14.1",
    "event-source-polyfill@1.0.31",
    "eventsource@4.1.1",
    "eventsource-parser@3.1.1",
    "puppeteer-core@24.43.1",
    "esbuild@0.25.12",
    "typescript@5.9.3",
    "react@19.2.0",
    "react-dom@19.2.0",
    "@types/react@19.2.2",
    "@types/react-dom@19.2.2",
    "vue@3.5.45",
    "sse.js@2.8.0",
    "ai@6.0.326",
    "zod@4.6.7",  # ai asks for it.
)

#: What says whether an AsyncAPI document is valid.
ASYNCAPI = ("@asyncapi/parser@3.6.6",)


def node() -> str:
    """Return the path of node, or skip the test."""
    return find("node", package="nodejs npm")


def install(
    tmp_path_factory: pytest.TempPathFactory, packages: Sequence[str] = PACKAGES, name: str = "npm"
) -> Path:
    """Return the ``node_modules`` with ``packages``, which all processes of a test run share.

    Other packages need another ``name``. The test is skipped where npm or its registry is not
    there, and fails under ``REQUIRE_SERVICES=1``.
    """
    npm = find("npm", package="nodejs npm")
    # pytest-xdist gives each process a folder in the one of the test run.
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    directory = base / name
    directory.mkdir(exist_ok=True)
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (directory / "done").exists():
            _install(npm, directory, packages)
            (directory / "done").touch()
    return directory / "node_modules"


def _install(npm: str, directory: Path, packages: Sequence[str]) -> None:
    options = ["--prefix", str(directory), "--no-audit", "--no-fund", "--ignore-scripts"]
    # htmx-ext-sse asks for a package named htmx.org beside it.
    options += ["--legacy-peer-deps", "--fetch-retries", "1"]
    try:
        done = subprocess.run(
            [npm, "install", *options, *packages],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
    except subprocess.TimeoutExpired:
        _not_there(packages, "npm did not end within 100 s")
    if done.returncode:
        _not_there(packages, done.stderr[-500:])


def _not_there(packages: Sequence[str], reason: str) -> NoReturn:
    text = f"npm cannot install {' '.join(packages)}: {reason}"
    if os.environ.get("REQUIRE_SERVICES") == "1":
        pytest.fail(text)
    pytest.skip(text)
