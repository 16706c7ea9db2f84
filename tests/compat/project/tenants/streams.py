"""A stream of a tenant's own rows, as docs/handshake.md has it."""

from __future__ import annotations

from asgiref.sync import sync_to_async
from django.contrib.auth.models import Group
from django_tenants.utils import schema_context

from tests.compat.project.streams import Open


class Groups(Open):
    """Sends the names of the groups in the tenant's schema."""

    topics: list[str] = []

    async def connect(self) -> None:
        self.schema_name = self.request.tenant.schema_name

    async def stream(self) -> None:
        for _ in range(3):
            await self.send(await sync_to_async(self._names)())

    def _names(self) -> list[str]:
        with schema_context(self.schema_name):
            return list(Group.objects.values_list("name", flat=True))
