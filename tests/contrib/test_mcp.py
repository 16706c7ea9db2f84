"""The event store for the MCP SDK; its real server and client are in ``tests/docs/test_docs.py``."""

from __future__ import annotations

from typing import Any

import pytest
from mcp.server.lowlevel import Server
from mcp.server.streamable_http import EventMessage
from mcp.types import JSONRPCMessage, JSONRPCNotification, JSONRPCResponse

from django_sse.brokers import use_broker
from django_sse.brokers.memory import MemoryBroker
from django_sse.contrib.mcp import EventStore, SessionManager
from django_sse.exceptions import BrokerError
from django_sse.topics.hub import close_idle_hub

pytestmark = pytest.mark.usefixtures("broker")


def notification(number: int) -> JSONRPCNotification:
    return JSONRPCNotification(jsonrpc="2.0", method="count", params={"number": number})


async def replayed(
    store: EventStore, after: str
) -> tuple[str | None, list[tuple[JSONRPCMessage, str | None]]]:
    found: list[tuple[JSONRPCMessage, str | None]] = []

    async def send(event: EventMessage) -> None:
        found.append((event.message, event.event_id))

    try:
        return await store.replay_events_after(after, send), found
    finally:
        await close_idle_hub()


async def test_messages_of_a_stream_are_replayed_once_in_order() -> None:
    store = EventStore()
    begun = await store.store_event("a:\n1", None)
    ids = []
    for number in range(450):
        ids.append(await store.store_event("a:\n1", notification(number)))
        await store.store_event("other", notification(-1))
    answer = JSONRPCResponse(jsonrpc="2.0", id=1, result={"x": None})
    ids.append(await store.store_event("a:\n1", answer))
    assert all(it.isprintable() and " " not in it for it in ids)
    everything: list[tuple[JSONRPCMessage, str | None]] = [
        *((notification(number), ids[number]) for number in range(450)),
        (answer, ids[-1]),
    ]
    assert await replayed(store, begun) == ("a:\n1", everything)
    assert await replayed(store, ids[100]) == ("a:\n1", everything[101:])
    assert await replayed(store, ids[-1]) == ("a:\n1", [])


async def test_sessions_do_not_mix() -> None:
    manager = SessionManager(Server[Any]("test"))
    first, second = manager.event_store, manager.event_store
    assert isinstance(first, EventStore)
    assert isinstance(second, EventStore)
    begun = await first.store_event("1", None)
    await second.store_event("1", notification(2))
    assert await replayed(first, begun) == ("1", [])
    assert (await replayed(EventStore("named"), begun))[1] == []


@pytest.mark.parametrize("wrong", ["", "nonsense", "1:x", ":1-0", "1:99999999999999-0"])
async def test_wrong_id_replays_nothing(wrong: str) -> None:
    assert await replayed(EventStore(), wrong) == (None, [])


async def test_lost_history_replays_nothing(caplog: pytest.LogCaptureFixture) -> None:
    use_broker(MemoryBroker("", {"HISTORY": 2}))
    store = EventStore()
    ids = [await store.store_event("1", notification(number)) for number in range(4)]
    assert await replayed(store, ids[0]) == (None, [])
    assert "cannot resume" in caplog.text


async def test_broker_that_is_away(settings: Any) -> None:
    class Away(MemoryBroker):
        def listen(self, *callbacks: Any) -> Any:
            listener: Any = super().listen(*callbacks)

            async def replay(*args: Any) -> Any:
                raise TimeoutError

            listener.replay = replay
            return listener

    use_broker(Away())
    store = EventStore()
    begun = await store.store_event("1", None)
    with pytest.raises(BrokerError, match="did not answer within 5 s"):
        await replayed(store, begun)


def test_session_manager_makes_the_stores() -> None:
    with pytest.raises(TypeError, match="leave event_store out"):
        SessionManager(Server[Any]("test"), event_store=EventStore())
