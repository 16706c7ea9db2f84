"""The page of compatibility is that of the bench, whose packages are not installed here."""

from __future__ import annotations

import pytest

from tests.compat import sightings
from tests.compat.page import PAGE, pinned, rows, written
from tests.compat.stranger import Stranger
from tests.compat.strangers import STRANGERS


def test_compatibility_page_has_the_texts_of_the_bench() -> None:
    assert PAGE.read_text(encoding="utf-8") == written({})


@pytest.mark.parametrize("stranger", STRANGERS, ids=lambda stranger: stranger.key)
def test_compatibility_row_is_of_the_pinned_version(stranger: Stranger) -> None:
    row = rows(PAGE.read_text(encoding="utf-8"))[stranger.name]
    versions = ", ".join(f"{name} {pinned()[name]}" for name in stranger.packages)
    assert f"| {stranger.name} | {versions} | {stranger.switched_on} | " in row
    assert stranger.sighting is None or hasattr(sightings, stranger.sighting)
