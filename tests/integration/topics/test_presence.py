"""Who is there: over tabs, reloads, processes and their deaths."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from django_sse import Presence, aclose_streams, apresence, apublish
from django_sse.brokers.base import Broker
from django_sse.conf import PresenceSettings, conf
from django_sse.testing import StreamClient, connect
from django_sse.topics import attendance
from django_sse.topics.attendance import close_idle_register
from django_sse.topics.hub import get_hub
from tests.support.databases import new_database
from tests.support.http_client import Client
from tests.support.redis_server import RedisServer
from tests.support.servers import Server

from .conftest import environment, in_database, redis
from .project.streams import Numbers, Room

#: Seconds for what must come, also on a busy machine.
PATIENCE = 20.0


class Watcher(Numbers):
    """Follow without being there."""


@pytest.fixture
def grace(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """``grace(0.5)`` lets users leave half a second after their last stream."""

    def set_to(seconds: float) -> None:
        # Other settings would make another broker.
        monkeypatch.setitem(conf._parsed, "PRESENCE", PresenceSettings(60, seconds))

    return set_to


def enter(topic: str, user: str | None = None) -> AbstractAsyncContextManager[StreamClient]:
    return connect(Room, f"/?topics={topic}" + (f"&user={user}" if user else ""))


async def told(stream: StreamClient) -> tuple[str | None, Any]:
    """Return the next event that is not the snapshot."""
    while (event := await stream.receive(timeout=PATIENCE)).event == "snapshot":
        pass
    return event.event, json.loads(event.data or "")


async def until_present(topic: str, wanted: Presence) -> None:
    async with asyncio.timeout(PATIENCE):
        while await apresence(topic) != wanted:  # noqa: ASYNC110 - another task tells the broker
            await asyncio.sleep(0.02)


async def test_a_user_with_several_tabs_joins_and_leaves_once(
    broker: Broker, grace: Callable[[float], None]
) -> None:
    grace(0.2)
    async with connect(Watcher, "/?topics=room") as watcher:
        async with enter("room", "7") as tab:
            assert await told(watcher) == ("join", {"user": "7"})
            # The user is told, too.
            assert await told(tab) == ("join", {"user": "7"})
            async with enter("room", "7"), enter("room", "8"):
                assert await told(watcher) == ("join", {"user": "8"})
                await until_present("room", Presence(("7", "8"), 0))
            assert await told(watcher) == ("leave", {"user": "8"})
            assert await told(tab) == ("join", {"user": "8"})
            assert await told(tab) == ("leave", {"user": "8"})
            assert await apresence("room") == Presence(("7",), 0)
        assert await told(watcher) == ("leave", {"user": "7"})
        assert await apresence("room") == Presence((), 0)
        await apublish("room", "{}", event="end")
        assert await told(watcher) == ("end", {})


async def test_a_reload_is_no_leave(broker: Broker, grace: Callable[[float], None]) -> None:
    grace(30)
    async with connect(Watcher, "/?topics=room") as watcher:
        async with enter("room", "7"):
            assert await told(watcher) == ("join", {"user": "7"})
        await until_present("room", Presence(("7",), 0))
        async with enter("room", "7"):
            await until_present("room", Presence(("7",), 0))
        await apublish("room", "{}", event="end")
        assert await told(watcher) == ("end", {})
        assert await apresence("room") == Presence(("7",), 0)


async def test_anonymous_streams_are_counted_and_make_no_event(
    broker: Broker, grace: Callable[[float], None]
) -> None:
    grace(0.1)
    async with connect(Watcher, "/?topics=room") as watcher:
        async with enter("room"), enter("room"), enter("room,other"):
            await until_present("room", Presence((), 3))
            await until_present("other", Presence((), 1))
        await until_present("room", Presence((), 0))
        await apublish("room", "{}", event="end")
        assert await told(watcher) == ("end", {})


async def test_who_is_cut_off_leaves(broker: Broker, grace: Callable[[float], None]) -> None:
    grace(0.1)
    async with connect(Watcher, "/?topics=room") as watcher, enter("room", "7"):
        assert await told(watcher) == ("join", {"user": "7"})
        # The watcher has no user, and stays.
        await aclose_streams(user=7)
        assert await told(watcher) == ("leave", {"user": "7"})


async def test_a_client_that_resumes_gets_the_joins_that_it_missed(
    broker: Broker, grace: Callable[[float], None]
) -> None:
    grace(0.1)
    async with connect(Watcher, "/?topics=room,other") as other:
        async with connect(Watcher, "/?topics=room") as watcher:
            id = await apublish("room", "{}", event="begin")
            assert await told(watcher) == ("begin", {})
        async with enter("room", "7"):
            assert (await told(other))[0] == "begin"
            assert await told(other) == ("join", {"user": "7"})
        assert await told(other) == ("leave", {"user": "7"})
        headers = {"Last-Event-ID": id}
        async with connect(Watcher, "/?topics=room", headers=headers) as watcher:
            assert await told(watcher) == ("join", {"user": "7"})
            assert await told(watcher) == ("leave", {"user": "7"})


async def test_a_user_is_present_while_the_events_that_were_lost_are_made_up_for(
    broker: Broker, grace: Callable[[float], None]
) -> None:
    grace(0.1)
    async with connect(Watcher, "/?topics=room") as watcher, enter("room", "7") as tab:
        assert await told(watcher) == ("join", {"user": "7"})
        assert await told(tab) == ("join", {"user": "7"})
        get_hub()._lost(["room"])
        assert (await told(tab))[0] == "reset"
        assert (await tab.receive(timeout=PATIENCE)).event == "snapshot"
        await tab.receive_nothing(0.5)
        assert await apresence("room") == Presence(("7",), 0)


async def test_nobody_is_present_after_a_test_has_ended_its_streams(broker: Broker) -> None:
    """The grace is longer than a test's event loop lives."""
    async with enter("room", "7"), enter("room"):
        await until_present("room", Presence(("7",), 1))
    assert await apresence("room") == Presence((), 0)
    await close_idle_register()


class Some(Room):
    """Be there in one topic, if at all."""

    async def get_presence(self) -> list[str] | bool:
        return ["a"] if self.user.pk < 10 else False


class Wrong(Room):
    """Be where one is not."""

    async def get_presence(self) -> list[str]:
        return ["elsewhere"]


class Fleeting(Room):
    """End before it counts."""

    async def get_presence(self) -> bool:
        self.end("closed")
        return True


async def test_a_stream_that_has_ended_is_not_counted(broker: Broker) -> None:
    async with connect(Watcher, "/?topics=room") as watcher:
        async with connect(Fleeting, "/?topics=room&user=7") as stream:
            await stream.receive_end(timeout=PATIENCE)
        await apublish("room", "{}", event="end")
        assert await told(watcher) == ("end", {})
    assert not attendance._seats


async def test_a_view_decides_for_each_stream_where_it_is_present(broker: Broker) -> None:
    async with connect(Some, "/?topics=a,b&user=7"), connect(Some, "/?topics=a,b&user=70"):
        await until_present("a", Presence(("7",), 0))
        assert await apresence("b") == Presence((), 0)
    async with connect(Wrong, "/?topics=a&user=7") as stream:
        async with asyncio.timeout(PATIENCE):
            while stream.failure is None:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        assert "get_presence() returned ['elsewhere']" in str(stream.failure)


# Several processes.


@contextmanager
def stream(server: Server, path: str) -> Iterator[Client]:
    with Client(server.address) as client:
        client.request(path)
        assert client.event().event == "snapshot"
        yield client


def present(server: Server, topic: str = "room", *, how: str = "") -> dict[str, Any]:
    with Client(server.address) as client:
        client.request(f"/present/{how}?topic={topic}")
        return dict(json.loads(client.body()))


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def event(client: Client) -> tuple[str | None, Any]:
    found = client.event()
    return found.event, json.loads(found.data or "")


@pytest.fixture
def two_servers(
    redis_server: RedisServer, serve_numbers: Callable[..., Server]
) -> Callable[..., tuple[Server, Server]]:
    def start(second: str = "uvicorn", **settings: Any) -> tuple[Server, Server]:
        env = environment(redis(redis_server), PRESENCE=settings)
        return serve_numbers("uvicorn", env), serve_numbers(second, env)

    return start


@pytest.fixture
def in_postgresql(
    request: pytest.FixtureRequest, tmp_path: Path, serve_numbers: Callable[..., Server]
) -> Iterator[Callable[..., tuple[Server, Server]]]:
    with new_database("postgresql", request, tmp_path) as alias:

        def start(**settings: Any) -> tuple[Server, Server]:
            env = environment(in_database(), database=alias, PRESENCE=settings)
            return serve_numbers("uvicorn", env), serve_numbers("uvicorn", env)

        yield start


@pytest.mark.parametrize("servers", ["two_servers", "in_postgresql"])
def test_the_users_of_a_killed_process_leave_once_within_its_lease(
    request: pytest.FixtureRequest, servers: str
) -> None:
    lease = 3.0
    one, two = request.getfixturevalue(servers)(LEASE=lease, GRACE=1)
    with (
        stream(one, "/numbers/?topics=room") as watcher,
        stream(two, "/room/?topics=room&user=7"),
        stream(two, "/room/?topics=room&user=7"),
        stream(two, "/room/?topics=room"),
        stream(one, "/room/?topics=room&user=8"),
    ):
        joins = sorted(event(watcher)[1]["user"] for _ in range(2))
        assert joins == ["7", "8"]
        everybody = {"users": ["7", "8"], "anonymous": 1}
        until(lambda: present(one) == everybody)
        assert present(one, how="sync/") == everybody
        os.kill(two.pid, signal.SIGKILL)
        began = time.monotonic()
        assert event(watcher) == ("leave", {"user": "7"})
        # A lease is renewed each second, so two seconds of it were left at least.
        assert 1.5 < time.monotonic() - began < lease + 2
        assert present(one) == {"users": ["8"], "anonymous": 0}
        _publish_end(one)
        assert event(watcher) == ("end", {})


@pytest.mark.parametrize("name", ["uvicorn", "daphne"])
def test_a_rolling_restart_makes_neither_leaves_nor_joins(
    two_servers: Callable[..., tuple[Server, Server]], name: str
) -> None:
    one, two = two_servers(name, LEASE=3, GRACE=8)
    with stream(one, "/numbers/?topics=room") as watcher:
        with stream(two, "/room/?topics=room&user=7"):
            assert event(watcher) == ("join", {"user": "7"})
            two.stop()
        # After the lease of the process that ended, and before the grace is over.
        time.sleep(4)
        assert present(one) == {"users": ["7"], "anonymous": 0}
        with stream(one, "/room/?topics=room&user=7"):
            two.start()
            with stream(two, "/room/?topics=room&user=7"):
                time.sleep(5)
                assert present(one) == {"users": ["7"], "anonymous": 0}
                _publish_end(one)
                assert event(watcher) == ("end", {})


def test_presence_heals_after_redis_has_lost_everything(
    redis_server: RedisServer, two_servers: Callable[..., tuple[Server, Server]]
) -> None:
    one, two = two_servers(LEASE=1.5, GRACE=1)
    everybody = {"users": ["7", "8"], "anonymous": 1}
    with (
        stream(one, "/room/?topics=room&user=7"),
        stream(two, "/room/?topics=room&user=8"),
        stream(two, "/room/?topics=room"),
    ):
        until(lambda: present(one) == everybody)
        redis_server.flush()
        until(lambda: present(two) == everybody)
        redis_server.kill()
        redis_server.start()
        until(lambda: present(two) == everybody)


def _publish_end(server: Server) -> None:
    body = json.dumps({"topics": "room", "event": "end", "data": "{}"}).encode()
    with Client(server.address) as client:
        client._socket.sendall(
            b"POST /publish/one/ HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        )
        client.read_head()
        assert client.status == 200
