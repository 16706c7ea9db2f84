"""The process's own sockets, found by their addresses."""

from __future__ import annotations

import asyncio
import os
import runpy
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from django_sse.servers import base, sockets
from django_sse.servers.sockets import close_soon, queued
from tests.support.waiting import eventually


class Pair(NamedTuple):
    """Both ends of a connection, and what ASGI says of it."""

    client: socket.socket
    accepted: socket.socket
    scope: dict[str, Any]

    def fill(self) -> int:
        """Write until the connection takes no more."""
        written = 0
        while True:
            try:
                written += self.accepted.send(b"." * 65536)
            except BlockingIOError:
                return written

    def drain(self) -> int:
        """Read what is there."""
        read = 0
        while True:
            try:
                read += len(self.client.recv(1 << 20))
            except BlockingIOError:
                return read


@pytest.fixture
def pairs() -> Iterator[list[Pair]]:
    """Two connections to one server, and sockets of other kinds beside them."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX):
        made = []
        for _ in range(2):
            client = socket.create_connection(server.getsockname())
            accepted, address = server.accept()
            client.setblocking(False)
            accepted.setblocking(False)
            scope = {"client": address, "server": server.getsockname()}
            made.append(Pair(client, accepted, scope))
        yield made
        for pair in made:
            pair.client.close()
            pair.accepted.close()


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at the sockets again for each question."""
    monkeypatch.setattr(sockets, "FRESH_SECONDS", -1)


async def test_queued_is_what_the_peer_has_not_acknowledged(pairs: list[Pair]) -> None:
    pair, other = pairs
    assert queued(pair.scope) == 0
    written = pair.fill()
    waiting = queued(pair.scope)
    assert waiting is not None
    assert 0 < waiting <= written
    assert queued(other.scope) == 0

    read = 0

    def drained() -> bool:
        nonlocal read
        read += pair.drain()
        return queued(pair.scope) == 0 and read == written

    await eventually(drained)


@pytest.mark.parametrize(
    "change",
    [
        {"client": None},
        {"server": None},
        {"client": ("", 0)},
        {"server": ("/run/server.sock", None)},
        {"client": ("192.0.2.1", 5)},
        {"server": ("127.0.0.1", 1)},
    ],
)
async def test_queued_is_unknown_of_other_connections(
    pairs: list[Pair], change: dict[str, Any]
) -> None:
    pair = pairs[0]
    scope = pair.scope | change
    assert queued(scope) is None
    close_soon(scope)
    await asyncio.sleep(0.01)
    assert pair.accepted.send(b"still there") == 11
    assert pair.client.recv(20) == b"still there"


def test_queues_are_read_once_for_all_who_ask(
    pairs: list[Pair], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert queued(pairs[0].scope) == 0
    monkeypatch.setattr(sockets, "FRESH_SECONDS", 60)
    for pair in pairs:
        pair.fill()
        assert queued(pair.scope) == 0
    monkeypatch.setattr(sockets, "FRESH_SECONDS", -1)
    assert queued(pairs[1].scope)


def test_looking_leaves_no_descriptor_open(pairs: list[Pair]) -> None:
    before = set(Path(sockets.DESCRIPTORS).iterdir())
    assert queued(pairs[0].scope) == 0
    assert set(Path(sockets.DESCRIPTORS).iterdir()) <= before


async def test_close_soon_drops_what_waits_and_wakes_both_sides(pairs: list[Pair]) -> None:
    loop = asyncio.get_running_loop()
    waiting = [loop.create_task(loop.sock_recv(pair.accepted, 1)) for pair in pairs]
    pairs[0].fill()
    for pair in pairs:
        close_soon(pair.scope)
    assert await asyncio.wait_for(asyncio.gather(*waiting), 5) == [b"", b""]
    for pair in pairs:
        pair.accepted.close()

    async def read() -> None:
        while await loop.sock_recv(pairs[0].client, 1 << 20):
            pass

    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(read(), 5)


async def test_close_soon_leaves_the_others_open(pairs: list[Pair]) -> None:
    pair, other = pairs
    close_soon(pair.scope)
    receiving = asyncio.get_running_loop().sock_recv(pair.accepted, 1)
    assert await asyncio.wait_for(receiving, 5) == b""
    assert other.accepted.send(b"still there") == 11
    assert other.client.recv(20) == b"still there"


async def test_close_soon_may_come_too_late(pairs: list[Pair]) -> None:
    close_soon(pairs[0].scope)
    pairs[0].accepted.close()
    pairs[0].client.close()
    # What raises in the loop's next turn is logged by it.
    faults: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: faults.append(context))
    await asyncio.sleep(0.01)
    assert faults == []


async def test_nothing_is_known_where_descriptors_are_not_listed(
    pairs: list[Pair], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sockets, "DESCRIPTORS", "/nowhere")
    pair = pairs[0]
    assert queued(pair.scope) is None
    close_soon(pair.scope)
    await asyncio.sleep(0.01)
    assert pair.accepted.send(b"x") == 1


def test_nothing_is_queued_where_the_system_does_not_tell(
    pairs: list[Pair], monkeypatch: pytest.MonkeyPatch
) -> None:
    # As on Windows.
    assert queued(pairs[0].scope) == 0
    monkeypatch.setattr(base, "fcntl", None)
    assert queued(pairs[0].scope) is None


def test_module_loads_where_there_is_no_fcntl(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fcntl", None)
    assert runpy.run_path(base.__file__)["send_queue"](0) is None


def test_sockets_of_a_process_with_a_default_time_limit_are_left_alone() -> None:
    one, other = socket.socketpair()
    with one, other:
        socket.setdefaulttimeout(5)
        try:
            assert list(sockets._connections()) == []
        finally:
            socket.setdefaulttimeout(None)
        assert os.get_blocking(one.fileno())
