"""The newest number that a process has seen."""

from __future__ import annotations


class Known:
    """The newest number that this process has read or written.

    A database whose newest number is lower has lost events: it was restored, emptied, or has failed
    over to a replica that was behind. It then begins a new epoch.
    """

    def __init__(self) -> None:
        """Begin without a known number."""
        self.number = 0

    def note(self, number: int) -> None:
        """Note a number. Two threads may overwrite each other's; the next number corrects that."""
        self.number = max(self.number, number)
