"""What is written to a connection, when, and in which pieces."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from django_sse.connection.outbox import HIGH_WATER, Outbox
from django_sse.servers.base import Server

BIG = b"x" * HIGH_WATER


class Connection:
    """An ASGI ``send`` that records, and takes nothing while it is shut."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.open = asyncio.Event()
        self.open.set()
        self.error: Exception | None = None

    async def send(self, message: Any) -> None:
        if not self.open.is_set():
            await self.open.wait()
        if self.error is not None:
            raise self.error
        self.messages.append(message)

    @property
    def bodies(self) -> list[bytes]:
        return [message["body"] for message in self.messages]


# A server's own send, which may be run without a task.
class SteppedConnection(Connection):
    pass


SteppedConnection.__module__ = "uvicorn.protocols.http.imaginary"


@pytest.fixture(params=[Connection, SteppedConnection], ids=["task", "stepped"])
def connection(request: pytest.FixtureRequest) -> Connection:
    return request.param()  # type: ignore[no-any-return]


@pytest.fixture
def make(connection: Connection) -> Callable[[], Outbox]:
    # Within the test's loop, which a synchronous fixture knows nothing of.
    return lambda: Outbox(connection.send, asyncio.get_running_loop())


async def turns(number: int = 5) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


async def test_what_is_put_in_one_turn_leaves_in_one_piece(
    make: Callable[[], Outbox], connection: Connection
) -> None:
    outbox = make()
    outbox.put(b"a")
    outbox.put(b"b")
    assert (connection.bodies, outbox.size) == ([], 2)
    await turns()
    outbox.put(b"c")
    await turns()
    assert connection.bodies == [b"ab", b"c"]
    assert all(message["more_body"] for message in connection.messages)
    assert (outbox.size, outbox.written) == (0, 3)
    await outbox.finish()


async def test_one_write_is_under_way_at_a_time(
    make: Callable[[], Outbox], connection: Connection
) -> None:
    outbox = make()
    connection.open.clear()
    for piece in (b"a", b"b", b"c"):
        outbox.put(piece)
        await turns()
    assert outbox.blocked
    assert (connection.bodies, outbox.size) == ([], 3)
    connection.open.set()
    await turns()
    assert connection.bodies == [b"a", b"bc"]
    assert not outbox.blocked
    assert outbox.size == 0


async def test_drain_waits_until_there_is_room(
    make: Callable[[], Outbox], connection: Connection
) -> None:
    outbox = make()
    connection.open.clear()
    outbox.put(b"a")
    await asyncio.wait_for(outbox.drain(), 5)
    outbox.put(BIG)
    draining = asyncio.create_task(outbox.drain())
    await turns()
    assert not draining.done()
    connection.open.set()
    await asyncio.wait_for(draining, 5)
    assert outbox.size < HIGH_WATER
    await turns()
    assert b"".join(connection.bodies) == b"a" + BIG


async def test_drain_lets_others_run(make: Callable[[], Outbox]) -> None:
    outbox = make()
    ran = []
    asyncio.get_running_loop().call_soon(ran.append, 1)
    await outbox.drain()
    assert ran == [1]


async def test_transport_that_is_full_is_not_written_to(
    make: Callable[[], Outbox], connection: Connection
) -> None:
    outbox = make()
    ready: list[int] = []
    outbox.on_ready = lambda: ready.append(outbox.size)
    outbox.pause()
    outbox.put(BIG)
    draining = asyncio.create_task(outbox.drain())
    finishing = asyncio.create_task(outbox.finish())
    await turns()
    assert outbox.blocked
    assert connection.bodies == []
    assert not draining.done()
    assert not finishing.done()
    outbox.resume()
    await asyncio.wait_for(asyncio.gather(draining, finishing), 5)
    assert connection.bodies == [BIG, b""]
    assert [message["more_body"] for message in connection.messages] == [True, False]
    assert ready


async def test_finish_writes_what_waits_and_nothing_after_it(
    make: Callable[[], Outbox], connection: Connection
) -> None:
    outbox = make()
    outbox.put(b"a")
    outbox.put(b"b")
    await outbox.finish()
    await outbox.finish()
    outbox.put(b"late")
    assert outbox.write({"type": "http.response.body", "body": b"later"}, 5)
    await turns()
    last = {"type": "http.response.body", "body": b"ab", "more_body": False}
    assert connection.messages == [last]
    await outbox.aclose()


async def test_shared_message_goes_behind_what_waits(
    make: Callable[[], Outbox], connection: Connection
) -> None:
    outbox = make()
    shared = {"type": "http.response.body", "body": b"shared", "more_body": True}
    assert outbox.write(shared, 6)
    await turns()
    assert connection.messages[0] is shared
    outbox.put(b"first ")
    assert outbox.write(shared, 6)
    await turns()
    assert connection.bodies == [b"shared", b"first shared"]
    assert outbox.written == 18
    connection.open.clear()
    outbox.put(b"blocks")
    outbox.flush()
    assert not outbox.write(shared, 6)
    outbox.abandon()
    await outbox.aclose()


@pytest.mark.parametrize("blocked_by", ["write", "transport"])
async def test_abandoning_drops_what_waits_and_wakes_who_waits(
    make: Callable[[], Outbox], connection: Connection, blocked_by: str
) -> None:
    outbox = make()
    connection.open.clear()
    if blocked_by == "transport":
        outbox.pause()
    outbox.put(BIG)
    waiting = [asyncio.create_task(outbox.drain()) for _ in range(2)]
    waiting.append(asyncio.create_task(outbox.finish()))
    await turns()
    outbox.put(b"more")
    outbox.abandon()
    outbox.abandon()
    await asyncio.wait_for(asyncio.gather(*waiting), 5)
    await outbox.aclose()
    assert outbox.gone
    assert outbox.size == 0
    outbox.put(b"late")
    await outbox.drain()
    await outbox.finish()
    connection.open.set()
    await turns()
    assert connection.messages == []


async def test_write_that_is_cancelled_before_its_first_step_leaves_no_warning(
    make: Callable[[], Outbox], connection: Connection
) -> None:
    outbox = make()
    connection.open.clear()
    outbox.put(b"a")
    outbox.flush()
    # In the same turn: "coroutine … was never awaited" would fail the test.
    await outbox.aclose()
    assert connection.messages == []


@pytest.mark.parametrize("late", [False, True])
async def test_connection_that_fails_is_gone(
    make: Callable[[], Outbox], connection: Connection, late: bool
) -> None:
    outbox = make()
    connection.error = OSError("client disconnected")
    if late:
        connection.open.clear()
    outbox.put(BIG)
    draining = asyncio.create_task(outbox.drain())
    await turns()
    connection.open.set()
    await asyncio.wait_for(draining, 5)
    assert outbox.gone
    await outbox.finish()
    assert connection.messages == []


async def test_finish_ends_when_the_client_leaves_during_the_last_write(
    make: Callable[[], Outbox], connection: Connection
) -> None:
    outbox = make()
    connection.open.clear()
    outbox.put(b"a")
    finishing = asyncio.create_task(outbox.finish())
    await turns()
    assert not finishing.done()
    outbox.abandon()
    await asyncio.wait_for(finishing, 5)
    await outbox.aclose()


async def test_send_may_be_any_awaitable() -> None:
    bodies: list[bytes] = []

    def send(message: Any) -> asyncio.Future[None]:
        bodies.append(message["body"])
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        future.set_result(None)
        return future

    outbox = Outbox(send, asyncio.get_running_loop())
    outbox.put(b"a")
    await turns()
    outbox.put(b"b")
    await outbox.finish()
    assert bodies == [b"a", b"b"]


async def test_bytes_taken_tells_of_progress(
    make: Callable[[], Outbox], connection: Connection
) -> None:
    outbox = make()
    assert outbox.bytes_taken() is None
    outbox.put(b"abc")
    await turns()
    assert outbox.bytes_taken() is None
    connection.open.clear()
    outbox.put(b"d")
    await turns()
    assert outbox.bytes_taken() == 3
    outbox.abort()
    assert outbox.gone
    await outbox.aclose()


async def test_shortcut_that_fails_is_the_failure_of_its_connection(
    connection: Connection,
) -> None:
    error = RuntimeError("the transport is broken")

    class Broken(Server):
        """A server whose short way fails."""

        may_be_stepped = True

        def write(self, chunk: bytes, size: int) -> bool:
            raise error

    outbox = Outbox(connection.send, asyncio.get_running_loop(), Broken(connection.send, {}))
    failures: list[BaseException] = []
    outbox.on_failed = failures.append
    message = {"type": "http.response.body", "body": b"shared", "more_body": True}
    # It was taken: there is nothing to be kept for a connection that is no more.
    assert outbox.write(message, 6, b"6\r\nshared\r\n")
    assert outbox.gone
    assert failures == [error]
    await turns()
    assert connection.messages == []
