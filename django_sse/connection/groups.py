"""Channel-layer groups of a stream: membership, and the way of a message to its handler."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any

from asgiref.sync import iscoroutinefunction
from channels.layers import get_channel_layer
from django.core.exceptions import ImproperlyConfigured

logger = logging.getLogger("django_sse")

# What channel layers take (BaseChannelLayer.require_valid_group_name).
_GROUP = re.compile(r"[a-zA-Z0-9\-_.]{1,99}")


def handler_names(cls: type, base: type) -> frozenset[str]:
    """Return the names of the coroutines that ``cls``, with its mixins, added to ``base``.

    Only these can be reached by a message: never the protocol's own methods (a message of the
    type ``http.disconnect`` would name one), nor anything that ``base`` or its parents define.
    """
    return frozenset(
        name
        for owner in cls.__mro__
        if owner not in base.__mro__
        for name, member in vars(owner).items()
        if iscoroutinefunction(member) and not name.startswith("_") and not hasattr(base, name)
    )


def check_groups(where: str, groups: Any) -> tuple[str, ...]:
    """Return groups as a tuple; raise ``ImproperlyConfigured`` unless they are several names."""
    if isinstance(groups, (str, bytes)) or not isinstance(groups, Iterable):
        raise ImproperlyConfigured(
            f"{where} must be a list of channel-layer groups, got {groups!r}. Write [{groups!r}]."
        )
    names = tuple(groups)
    for name in names:
        if not isinstance(name, str) or not _GROUP.fullmatch(name):
            raise ImproperlyConfigured(
                f"{where} must have names of ASCII letters, digits, hyphens, underscores and "
                f"periods, less than 100 characters long, got {name!r}."
            )
    return names


class GroupMember:
    """One connection's channel and its membership in groups, for as long as it is open."""

    def __init__(
        self,
        alias: str,
        names: Sequence[str],
        deliver: Callable[[Mapping[str, Any]], Awaitable[None]],
    ) -> None:
        """Raise ``ImproperlyConfigured`` where there is no such channel layer."""
        self._layer: Any = get_channel_layer(alias)
        if self._layer is None:
            raise ImproperlyConfigured(
                f"CHANNEL_LAYERS has no {alias!r}, which a stream with groups needs."
            )
        self._names = names
        self._deliver = deliver
        self._channel = ""
        self._joined: list[str] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def join(self) -> None:
        """Enter the groups; their messages are delivered one after another from then on."""
        self._channel = await self._layer.new_channel()
        for name in self._names:
            # Noted first: whoever is cancelled in between may be in the group already.
            self._joined.append(name)
            await self._layer.group_add(name, self._channel)
        self._tasks.append(asyncio.create_task(self._listen()))
        if getattr(self._layer, "group_expiry", 0):
            self._tasks.append(asyncio.create_task(self._stay(self._layer.group_expiry / 2)))

    async def leave(self) -> None:
        """Leave the groups. A channel layer that is away is logged, and forgets by itself."""
        tasks = set(self._tasks)
        while tasks:
            # Again and again: a client library may swallow the cancellation that comes at the
            # wrong moment (redis-py does), and would wait on for the next message.
            for task in tasks:
                task.cancel()
            _, tasks = await asyncio.wait(tasks, timeout=0.05)
        for name in self._joined:
            try:
                await self._layer.group_discard(name, self._channel)
            except Exception:
                logger.exception("A stream could not leave the channel-layer group %r.", name)

    async def _listen(self) -> None:
        while True:
            try:
                message = await self._layer.receive(self._channel)
            except Exception:
                logger.exception("The channel layer failed; trying again in a second.")
                await asyncio.sleep(1)
            else:
                await self._deliver(message)

    async def _stay(self, period: float) -> None:
        # Membership expires (after a day, by default), and a stream may live longer.
        while True:
            await asyncio.sleep(period)
            for name in self._names:
                try:
                    await self._layer.group_add(name, self._channel)
                except Exception:
                    logger.exception("A stream could not stay in the group %r.", name)
