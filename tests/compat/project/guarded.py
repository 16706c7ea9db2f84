"""A stream for those who may see one object, with django-guardian."""

from __future__ import annotations

from asgiref.sync import sync_to_async
from django.contrib.auth.models import Group
from rest_framework.exceptions import PermissionDenied

from .streams import Private


class Guarded(Private):
    """The stream of one group, for whom the permission for this very group was given."""

    async def connect(self) -> None:
        group = await Group.objects.aget(pk=self.kwargs["pk"])
        # Its backend has no ahas_perm(), without which Django's passes it by.
        if not await sync_to_async(self.user.has_perm)("auth.view_group", group):
            raise PermissionDenied
