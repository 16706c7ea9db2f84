"""Programs that some tests need beside Python: found, or the test is skipped with how to get them."""

from __future__ import annotations

import os
import shutil
from typing import NoReturn

import pytest


def find(*names: str, package: str) -> str:
    """Return the path of the first program that is there, also where daemons live.

    Without one the test is skipped, and fails where ``REQUIRE_SERVICES=1`` is set.
    """
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"])
    for name in names:
        if program := shutil.which(name, path=path):
            return program
    return missing(names[0], package=package)


def missing(name: str, *, package: str) -> NoReturn:
    """Skip the test for want of a program, or fail where ``REQUIRE_SERVICES=1`` is set."""
    text = f"{name} is not installed: apt-get install {package}"
    if os.environ.get("REQUIRE_SERVICES") == "1":
        pytest.fail(text)
    pytest.skip(text)
