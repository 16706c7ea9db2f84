"""What servers tell of a connection, each by its own means; here by connections of theirs."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any

import pytest

from django_sse.connection.outbox import Outbox
from django_sse.servers import flow_control, sockets
from django_sse.servers.flow_control import abort, ending, lost, note_loss, unsent
from tests.support.connections import (
    REQUEST,
    arrived,
    body,
    everything,
    held,
    held_by_daphne,
    held_by_granian,
    http2_request,
    under_gunicorn,
    under_hypercorn,
    under_uvicorn,
)
from tests.support.waiting import eventually

#: More than the kernel takes for a client that does not read.
BIG = 8_000_000

Held = Callable[[], AbstractAsyncContextManager[tuple[Any, Any]]]

EACH: dict[str, Held] = {
    "uvicorn": partial(held, under_uvicorn),
    "hypercorn": partial(held, under_hypercorn),
    "daphne": held_by_daphne,
    "granian": held_by_granian,
    "gunicorn": partial(held, under_gunicorn),
}
SHARED: dict[str, Held] = {
    "hypercorn": partial(held, under_hypercorn, http2_request()),
    "granian": partial(held_by_granian, "2"),
}

each_server = pytest.mark.parametrize("holding", EACH.values(), ids=EACH)


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at the sockets again for each question."""
    monkeypatch.setattr(sockets, "FRESH_SECONDS", -1)


@each_server
async def test_unsent_is_what_the_client_has_not_taken(holding: Held) -> None:
    async with holding() as (connection, client):
        await eventually(lambda: unsent(connection.send, connection.scope) == 0)
        sending = asyncio.ensure_future(connection.send(body(b"." * BIG + b"end")))
        await eventually(lambda: unsent(connection.send, connection.scope))
        await arrived(client, b"end")
        await eventually(lambda: unsent(connection.send, connection.scope) == 0)
        await sending


@pytest.mark.parametrize("name", ["uvicorn", "hypercorn", "daphne"])
async def test_unsent_counts_what_the_server_itself_holds(name: str) -> None:
    async with EACH[name]() as (connection, client):
        sending = asyncio.ensure_future(connection.send(body(b"." * BIG + b"end")))
        await asyncio.sleep(0)
        # Whatever the kernel took of it, for itself and for a client that has not read.
        waiting = unsent(connection.send, connection.scope)
        assert waiting is not None
        with client:
            queued = sockets.queued(
                {"client": client.getsockname(), "server": client.getpeername()}
            )
            assert queued is not None
            assert queued < waiting <= BIG + 20
        await asyncio.wait([sending], timeout=5)


@each_server
async def test_abort_does_not_wait_for_the_client(holding: Held) -> None:
    async with holding() as (connection, client):
        sending = asyncio.ensure_future(connection.send(body(b"." * BIG * 2)))
        await eventually(lambda: unsent(connection.send, connection.scope))
        abort(connection.send, connection.scope)
        assert len(await everything(client)) < BIG * 2
        # There is nothing any more to be asked.
        await eventually(lambda: unsent(connection.send, connection.scope) is None)
        await asyncio.wait([sending], timeout=5)


@pytest.mark.parametrize("holding", SHARED.values(), ids=SHARED)
async def test_connection_of_several_streams_is_left_alone(holding: Held) -> None:
    async with holding() as (connection, client):
        assert unsent(connection.send, connection.scope) is None
        abort(connection.send, connection.scope)
        await asyncio.sleep(0.01)
        await connection.send(body(b"still there"))
        await arrived(client, b"still there")


async def test_nothing_is_known_of_other_servers() -> None:
    async def send(message: Any) -> None:
        """Some wrapper's."""

    assert unsent(send, {}) is None
    assert not lost(send)
    assert ending(send) is None
    abort(send, {})
    note_loss(send)


async def test_loss_is_seen_where_uvicorn_tells_another_request() -> None:
    async with held(under_uvicorn, REQUEST * 2) as (connection, client):
        cycle = connection.send.__self__
        assert not lost(connection.send)
        client.close()
        # Uvicorn does not read meanwhile, and sees it only when it writes.
        async with asyncio.timeout(5):
            while not lost(connection.send):
                await connection.send(body(b"beat"))
                await asyncio.sleep(0.01)
        assert not cycle.disconnected
        note_loss(connection.send)
        assert cycle.disconnected


async def test_nothing_is_unsent_where_the_system_does_not_tell(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # As on Windows.
    monkeypatch.setitem(sys.modules, "fcntl", None)
    spec = importlib.util.spec_from_file_location(
        "django_sse.servers.flow_control_elsewhere", flow_control.__file__
    )
    assert spec is not None
    assert spec.loader is not None
    elsewhere = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(elsewhere)
    async with held(under_uvicorn) as (connection, _):
        assert elsewhere.unsent(connection.send, connection.scope) is None
        assert unsent(connection.send, connection.scope) is not None


async def test_daphne_of_another_kind_has_no_flow_control_and_streams(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class WebRequest:
        channel = object()

        def registerProducer(self, producer: Any, streaming: bool) -> None:  # noqa: N802
            raise RuntimeError("Cannot register a producer: one is registered.")

    WebRequest.__module__ = "daphne.http_protocol"
    sent: list[Any] = []
    send = partial(lambda request, message: noted(sent, message), WebRequest())
    outbox = Outbox(send, asyncio.get_running_loop())
    outbox.put(b"data: x\n\n")
    outbox.flush()
    await asyncio.sleep(0)
    assert [message["body"] for message in sent] == [b"data: x\n\n"]
    assert "Daphne has no flow control for this stream." in caplog.text
    await outbox.aclose()


async def noted(sent: list[Any], message: Any) -> None:
    sent.append(message)


class Signs:
    """A server's word of its end, looked at often."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(flow_control.Sign, "SECONDS", 0.01)

    async def waiting(self, send: Any) -> asyncio.Task[None]:
        sign = ending(send)
        assert sign is not None
        task = asyncio.create_task(sign.wait())
        await asyncio.sleep(0.05)
        assert not task.done()
        return task


@pytest.fixture
def signs(monkeypatch: pytest.MonkeyPatch) -> Signs:
    return Signs(monkeypatch)


async def test_uvicorns_end_is_foreseen_by_the_requests_that_it_has_served(signs: Signs) -> None:
    async with held(partial(under_uvicorn)) as (application, _):
        cycle = application.send.__self__
        protocol = cycle.transport.get_protocol()
        assert ending(application.send) is None
        protocol.config.limit_max_requests = 5
        task = await signs.waiting(application.send)
        protocol.server_state.total_requests = 5
        await asyncio.sleep(0.05)
        # It may be allowed some more, at random.
        assert not task.done()
        protocol.shutdown()
        await asyncio.wait_for(task, 5)


async def test_gunicorns_end_is_foreseen(signs: Signs) -> None:
    async with held(under_gunicorn) as (application, _):
        worker = flow_control.gunicorns_protocol(application.send).worker
        task = await signs.waiting(application.send)
        worker.alive = False
        await asyncio.wait_for(task, 5)
        worker.max_requests = sys.maxsize
        assert ending(application.send) is None


async def test_server_that_is_another_than_known_is_not_asked(
    signs: Signs, caplog: pytest.LogCaptureFixture
) -> None:
    async with held(under_gunicorn) as (application, _):
        worker = flow_control.gunicorns_protocol(application.send).worker
        del worker.alive
        task = await signs.waiting(application.send)
        assert "cannot be foreseen" in caplog.text
        worker.alive = True
        task.cancel()


def test_function_that_only_looks_like_gunicorns_is_none_of_its() -> None:
    async def send(message: Any) -> None:
        raise AssertionError

    send.__module__ = "gunicorn.asgi.protocol"
    assert flow_control.gunicorns_protocol(send) is None
