"""A stranger: one package, switched on in one way, and what it costs a stream."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

SQLITE = "django.db.backends.sqlite3"
SWITCHES = "tests.compat.project.switches"
REMEDIES = "tests.compat.project.remedies"

#: What a package may do to a stream, by the names that ``Stranger.costs`` uses.
COSTS = {
    "thread": "a thread for each open stream",
    "memory": "memory that grows with each event",
    "spans": "a span for each event",
    "trace": "its trace lasts as long as the stream",
    "untraced": "no request is traced",
}


@dataclass(frozen=True)
class Stranger:
    """One row: a package, switched on in one way."""

    name: str
    #: The distributions whose versions the table shows.
    packages: tuple[str, ...] = ()
    #: How it is switched on, for the table.
    switched_on: str = ""
    apps_first: tuple[str, ...] = ()
    apps: tuple[str, ...] = ()
    middleware_first: tuple[str, ...] = ()
    middleware: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    #: Route → dotted name of a URLconf, or of a view.
    urls: dict[str, str] = field(default_factory=dict)
    #: Dotted name of what the settings call at their end.
    switch: str | None = None
    #: Dotted name of what ``asgi.py`` calls before it imports anything.
    before: str | None = None
    #: Dotted name of what wraps the ASGI application.
    wrapper: str | None = None
    #: What stands before the server's command. ``{collector}`` is the bench's host and port.
    command: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    server: str = "uvicorn"
    #: How the private stream's client shows who it is.
    credentials: str = "session"
    #: The database's engine; any but SQLite's is on the bench's PostgreSQL.
    engine: str = SQLITE
    #: The name of its function in ``sightings.py``, and what that looks for, for the table.
    sighting: str | None = None
    sees: str = ""
    #: What it does to a stream at a cost: a key of ``COSTS`` → why, and the remedy.
    costs: dict[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Its name as a file has it."""
        return "".join(c if c.isalnum() else "-" for c in self.name.lower())
