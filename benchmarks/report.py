"""The table of results."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(slots=True)
class Result:
    """One line of the table. A ``limit`` of ``None`` is a figure for information."""

    what: str
    server: str
    ours: float
    beside: float | None
    unit: str
    limit: float | None = None
    aim: float | None = None
    note: str = ""

    @property
    def ratio(self) -> float | None:
        return None if self.beside is None else self.ours / self.beside


def table(results: Iterable[Result]) -> str:
    """Return the results as a Markdown table."""
    lines = [
        "| | server | ours | beside it | ratio | limit | | |",
        "|---|---|---:|---:|---:|---:|---|---|",
    ]
    return "\n".join([*lines, *map(row, results)])


def row(result: Result) -> str:
    """Return one line of the table."""
    ratio = result.ratio
    limit = "" if result.limit is None else f"≤ {result.limit:g}"
    if result.aim is not None:
        limit += f" (aim {result.aim:g})"
    verdict = ""
    if result.limit is not None and ratio is not None:
        verdict = "ok" if ratio <= result.limit else "**missed**"
    cells = [
        result.what,
        result.server,
        f"{result.ours:.4g} {result.unit}",
        "" if result.beside is None else f"{result.beside:.4g} {result.unit}",
        "" if ratio is None else f"{ratio:.2f}",
        limit,
        verdict,
        result.note,
    ]
    return "| " + " | ".join(cells) + " |"
