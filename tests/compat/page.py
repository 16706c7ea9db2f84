"""``docs/compatibility.md``: its text, and the table that a run of the bench fills in."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.support.servers import ROOT

from .stranger import COSTS, Stranger
from .strangers import STRANGERS

PAGE = ROOT / "docs" / "compatibility.md"
PINS = ROOT / "requirements-compat.txt"
REMEDIES = Path(__file__).parent / "project" / "remedies"

#: The remedies in the page's order, and what it says of each.
SHOWN = {
    "newrelic": "The handler for New Relic",
    "datadog": "The handler for Datadog, beside its `TraceMiddleware`",
    "structlog": "The middleware for django-structlog, instead of its own",
}

#: How the package hears of an exception in ``stream()``, as the table says it.
HEARD = {"reported": "reported", "span": "a failed span", "log": "in the log"}

_HANDLERS = (
    "django_sse logs an exception in `stream()` to the logger `django_sse`, and the client sees the "
    "response end. Sentry reports what is logged, and so does Elastic APM's `LoggingHandler`. For New "
    "Relic and Datadog, copy a handler, and name it in the settings:"
)
_BEGIN = "<!-- Written by `make compat ARGS=--write`. -->\n"


@dataclass(frozen=True)
class Result:
    """What a trial found, as far as the page shows it."""

    failures: Mapping[str, str]
    costs: frozenset[str]
    heard: str


def pinned() -> dict[str, str]:
    """Return the versions of ``requirements-compat.txt``, by name."""
    found = {}
    for line in PINS.read_text(encoding="utf-8").splitlines():
        match = re.match(r"([\w.-]+)(?:\[[\w,]+\])?==([^;\s]+)", line)
        if match:
            found[match[1]] = match[2]
    return found


def written(results: Mapping[str, Result]) -> str:
    """Return the page with the rows of these results; rows of others are as they are there."""
    text = PAGE.read_text(encoding="utf-8")
    head, _, old = text.partition(_BEGIN)
    found = rows(old)
    found |= {s.name: row(s, results[s.name]) for s in STRANGERS if s.name in results}
    lines = [
        "| package | version | switched on by | verdict | an error in `stream()` | what was seen of it | cost |",
        "|---|---|---|---|---|---|---|",
        *(found[s.name] for s in STRANGERS if s.name in found),
    ]
    return "\n".join([head + _BEGIN, *lines, "", *_costs(), *_remedies()]) + "\n"


def row(stranger: Stranger, result: Result) -> str:
    """Return the line of a stranger."""
    versions = pinned()
    verdict = "works" if not result.failures else f"**fails**: {', '.join(result.failures)}"
    cells = [
        stranger.name,
        ", ".join(f"{name} {versions[name]}" for name in stranger.packages),
        stranger.switched_on,
        verdict,
        HEARD[result.heard],
        stranger.sees,
        ", ".join(COSTS[cost] for cost in COSTS if cost in result.costs),
    ]
    return f"| {' | '.join(cells)} |"


def rows(text: str) -> dict[str, str]:
    """Return the lines of the table in a text, by the names of their strangers."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return {line.split(" | ")[0].removeprefix("| "): line for line in lines}


def _costs() -> list[str]:
    """What packages cost a stream, and what to do: those of one text together."""
    lines = ["## Costs and remedies", ""]
    texts: dict[tuple[str, str], list[str]] = {}
    for stranger in STRANGERS:
        for cost, text in stranger.costs.items():
            texts.setdefault((cost, text), []).append(stranger.name)
    for (cost, text), names in texts.items():
        who = "; ".join(names)
        lines.append(f"- **{who}: {COSTS[cost]}.** {text}")
    return [*lines, ""]


def _remedies() -> list[str]:
    """The modules of ``remedies``, as they run on the bench."""
    lines = [
        "## The handlers and the middleware",
        "",
        _HANDLERS,
        "",
        "```python",
        'LOGGING["handlers"]["reporting"] = {"class": "project.reporting.NewRelicHandler", "level": "ERROR"}',
        'LOGGING["loggers"]["django_sse"] = {"handlers": ["reporting"]}',
        "```",
        "",
    ]
    for name, title in SHOWN.items():
        text = (REMEDIES / f"{name}.py").read_text(encoding="utf-8").rstrip()
        lines += [f"{title}:", "", "```python", text, "```", ""]
    return lines[:-1]


def unequal(stranger: Stranger, costs: Iterable[str]) -> str:
    """Say where the costs that were measured are not those that the table explains; or nothing."""
    more, less = set(costs) - set(stranger.costs), set(stranger.costs) - set(costs)
    said = [f"costs {COSTS[cost]}, which strangers.py does not explain" for cost in sorted(more)]
    said += [f"does not cost {COSTS[cost]}, which strangers.py says" for cost in sorted(less)]
    return "; ".join(said)
