"""Processes over each database."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support.databases import new_database

from .process import Project


@pytest.fixture(params=["sqlite", "postgresql", "mariadb"])
def make_project(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[Callable[..., Project]]:
    projects: list[Project] = []
    with ExitStack() as stack:
        stack.enter_context(request.getfixturevalue("django_db_blocker").unblock())
        alias = stack.enter_context(new_database(request.param, request, tmp_path))

        def make(**options: Any) -> Project:
            projects.append(Project(alias, **options))
            return projects[-1]

        yield make
        for project in reversed(projects):
            project.close()
