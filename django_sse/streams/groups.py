"""Channel-layer groups of one stream: its membership, and a message's way to its handler."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

from asgiref.sync import iscoroutinefunction
from channels import DEFAULT_CHANNEL_LAYER
from channels.layers import get_channel_layer
from django.core.exceptions import ImproperlyConfigured

from django_sse.connection.stream import Stream, defines
from django_sse.exceptions import is_only_closed
from django_sse.monitoring.reports import log_error, tell_test

logger = logging.getLogger("django_sse")


# The group names that channel layers take (BaseChannelLayer.require_valid_group_name).
_GROUP = re.compile(r"[a-zA-Z0-9\-_.]{1,99}")


class Grouped(Stream):
    """A stream that hears channel-layer groups, by handlers that the view defines."""

    #: Channel-layer groups whose messages reach the handlers that the view defines.
    groups: ClassVar[Iterable[str]] = ()
    #: The channel layer of ``groups``.
    channel_layer_alias: str = DEFAULT_CHANNEL_LAYER

    _handlers: ClassVar[frozenset[str]] = frozenset()
    _members: GroupMember | None = None

    async def get_groups(self) -> Iterable[str]:
        """Return the channel-layer groups of this connection; by default, ``groups``."""
        return self.groups

    async def _prepare_groups(self) -> None:
        if self.groups or defines(type(self), Grouped, "get_groups"):
            where = f"{type(self).__qualname__}.get_groups()"
            names = check_groups(where, await self.get_groups())
            if names:
                self._members = GroupMember(self.channel_layer_alias, names, self._on_message)

    async def _on_message(self, message: Mapping[str, Any]) -> None:
        """Hand a group's message to the handler that the view defines for its type."""
        name = str(message.get("type", "")).replace(".", "_")
        if name not in self._handlers:
            text = (
                "%s has no handler for channel-layer messages of the type %r: define "
                "`async def %s(self, message)`."
            )
            log_error(self, text, message.get("type"), name if name.isidentifier() else "…")
            return
        try:
            await getattr(self, name)(message)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # Nothing cancelled this task. The handler waited for another task, which was cancelled.
            log_error(self, "%s.%s() failed.", name, error=error)
            failure = RuntimeError(f"{name}() was cancelled.")
            tell_test(self, failure.with_traceback(error.__traceback__))
            self.end("error")
        except Exception as error:
            if not is_only_closed(error):
                log_error(self, "%s.%s() failed.", name, error=error)
                tell_test(self, error)
                self.end("error")


def handler_names(cls: type, base: type) -> frozenset[str]:
    """Return the names of the coroutine functions that ``cls``, with its mixins, adds to ``base``.

    A message can reach only these, and never the protocol's own methods (a message of the type
    ``http.disconnect`` would name one), nor anything else that ``base`` or its parents define.
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
        """Enter the groups. From then on, their messages are delivered one after another."""
        self._channel = await self._layer.new_channel()
        for name in self._names:
            # Note the name first. If this task is cancelled in group_add(), the channel may be in
            # the group already.
            self._joined.append(name)
            await self._layer.group_add(name, self._channel)
        self._tasks.append(asyncio.create_task(self._listen()))
        if getattr(self._layer, "group_expiry", 0):
            self._tasks.append(asyncio.create_task(self._stay(self._layer.group_expiry / 2)))

    async def leave(self) -> None:
        """Leave the groups. Errors of the channel layer are logged; it forgets the channel by itself later."""
        tasks = set(self._tasks)
        while tasks:
            # Cancel again until they end. A client library may swallow a cancellation that comes at
            # the wrong moment (redis-py does), and would go on waiting for the next message.
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
        # Membership expires, after a day by default, and a stream may live longer.
        while True:
            await asyncio.sleep(period)
            for name in self._names:
                try:
                    await self._layer.group_add(name, self._channel)
                except Exception:
                    logger.exception("A stream could not stay in the group %r.", name)
