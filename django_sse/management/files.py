"""Write the result of a command to its output, or to a file."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path

from django.core.management.base import BaseCommand, CommandError


def add_output(parser: ArgumentParser) -> None:
    """Add ``--output``."""
    parser.add_argument("--output", "-o", metavar="FILE", help="a file instead of the output")


def write(command: BaseCommand, text: str, output: str | None) -> None:
    """Write to the file ``output``, or to the command's output.

    Raises ``CommandError`` where the file cannot be written.
    """
    if output is None:
        command.stdout.write(text)
        return
    try:
        Path(output).write_text(text if text.endswith("\n") else f"{text}\n", encoding="utf-8")
    except OSError as error:
        raise CommandError(f"{output} cannot be written: {error}") from error
