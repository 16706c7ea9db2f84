"""The command of the demo's background process."""

from __future__ import annotations

import asyncio
from typing import Any

from django.core.management.base import BaseCommand

from testproject.shop.backstage import run
from testproject.shop.processes import end_with_parent


class Command(BaseCommand):
    """Change prices and work on imports until SIGTERM."""

    help = "Change prices and work on imports, for the demo's pages."

    def handle(self, *args: Any, **options: Any) -> None:
        """Work until SIGTERM."""
        end_with_parent()
        asyncio.run(run())
