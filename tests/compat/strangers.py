"""The table of strangers.

Nothing is imported of the packages here: the table is read by the bench, by the project's settings,
and by the tests of the documentation, which have none of them.
"""

from __future__ import annotations

from .agents import AGENTS
from .packages import PACKAGES, SERVERS
from .stranger import Stranger

STRANGERS = (*SERVERS, *AGENTS, *PACKAGES)


def find(name: str) -> Stranger:
    """Return the stranger of a name."""
    return next(stranger for stranger in STRANGERS if stranger.name == name)
