"""An event store for the MCP Python SDK, with which the clients of an MCP server resume over the broker.

It needs the SDK, ``pip install mcp``, and is imported by projects that use it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from typing import Any
from urllib.parse import quote, unquote

from mcp.server.streamable_http import EventCallback, EventMessage
from mcp.server.streamable_http import EventStore as SDKEventStore
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.types import JSONRPCMessage
from pydantic import TypeAdapter

from django_sse.brokers.base import EventId
from django_sse.conf import conf
from django_sse.exceptions import BrokerError, HistoryLost
from django_sse.topics.hub import get_hub
from django_sse.topics.publishing import apublish
from django_sse.wire.events import EventDecoder

logger = logging.getLogger("django_sse")

_messages: TypeAdapter[Any] = TypeAdapter(JSONRPCMessage)
#: How many stored events are read from the broker at once.
_PAGE = 200


class EventStore(SDKEventStore):
    """Stores the events of **one** MCP session in the broker, so that its client can resume.

    The events of all streams of a session are in one topic, and so bounded by the broker's
    ``HISTORY`` and ``MAX_AGE``. A client that needs older ones gets none.

    Each session needs a store of its own: the SDK names a stream by the number of its request, which
    begins anew in each session. ``SessionManager`` sees to that.
    """

    def __init__(self, session: str | None = None) -> None:
        """Take a name of the session, which nobody can guess; by default, a new one."""
        self._topic = f"mcp:{session or secrets.token_hex(16)}"

    async def store_event(self, stream_id: str, message: JSONRPCMessage | None) -> str:
        """Store a message, or ``None`` for the mark of a stream's beginning; return its id.

        Raises ``PublishFailed``.
        """
        text = None if message is None else _text(message)
        data = json.dumps({"stream": stream_id, "message": text})
        event_id = await apublish(self._topic, data)
        # The SDK asks for what came after an id without saying on which stream.
        return f"{quote(stream_id, safe='')}:{event_id}"

    async def replay_events_after(
        self, last_event_id: str, send_callback: EventCallback
    ) -> str | None:
        """Send the messages of a stream that were stored after an id, and return the stream's id.

        Returns ``None``, and sends nothing, for an id that this session did not give, or whose
        following events are not stored any more. Raises ``BrokerError`` where the broker does not
        answer within ``PUBLISH_TIMEOUT`` seconds.
        """
        quoted, _, number = last_event_id.rpartition(":")
        stream_id, after = unquote(quoted), EventId.parse(number)
        if not quoted or after is None:
            return None
        try:
            while True:
                page = await self._read(after)
                for message in page:
                    [event] = EventDecoder().feed(message.encode())
                    stored = json.loads(event.data or "")
                    if stored["stream"] == stream_id and stored["message"] is not None:
                        found = _messages.validate_json(stored["message"])
                        event_id = f"{quoted}:{message.id}"
                        await send_callback(EventMessage(found, event_id))
                if len(page) < _PAGE:
                    return stream_id
                after = page[-1].id
        except HistoryLost:
            logger.warning("An MCP client cannot resume: its events are not stored any more.")
            return None

    async def _read(self, after: EventId) -> Any:
        hub = get_hub()
        try:
            with hub.kept_open():
                async with asyncio.timeout(conf.publish_timeout):
                    return await hub.listener.replay([self._topic], after, _PAGE)
        except TimeoutError as error:
            raise BrokerError(
                f"{hub.broker} did not answer within {conf.publish_timeout:g} s."
            ) from error


class SessionManager(StreamableHTTPSessionManager):
    """The SDK's manager of sessions, which gives each session an ``EventStore`` of its own.

    It takes the SDK's arguments, without ``event_store``.
    """

    @property
    def event_store(self) -> SDKEventStore | None:
        """A new store: the SDK asks for it once for each session."""
        return EventStore()

    @event_store.setter
    def event_store(self, given: SDKEventStore | None) -> None:
        if given is not None:
            raise TypeError("A SessionManager makes the event stores: leave event_store out.")


def _text(message: Any) -> str:
    text: str = message.model_dump_json(by_alias=True, exclude_unset=True)
    return text
