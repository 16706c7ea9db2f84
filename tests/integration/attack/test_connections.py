"""Connections that come and go at every moment, in masses."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import pytest

from .target import STREAM, Attacker, Target

COUNT = 40
REQUEST = b"GET %b HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n\r\n"


def before_the_request_ends(client: Attacker) -> None:
    client.raw((REQUEST % b"/hesitant/a/")[: random.randrange(1, 50)])


def at_once(client: Attacker) -> None:
    client.raw(REQUEST % b"/hesitant/a/")


def during_the_handshake(client: Attacker) -> None:
    client.raw(REQUEST % b"/hesitant/a/")
    time.sleep(random.uniform(0, 0.02))


def after_the_headers(client: Attacker) -> None:
    client.raw(REQUEST % b"/hesitant/a/")
    client.read_head()


def in_the_middle_of_an_event(client: Attacker) -> None:
    client.raw(REQUEST % b"/ticking/")
    client.read_head()
    client._socket.recv(random.randrange(1, 300))


def without_reading(client: Attacker) -> None:
    client.raw(REQUEST % b"/flood/")


def half_closed(client: Attacker) -> None:
    client.raw(REQUEST % b"/ticking/")
    client._socket.shutdown(1)
    client.answer(0.01)


def with_the_next_request_behind(client: Attacker) -> None:
    client.raw(REQUEST % b"/ticking/" * 3)
    time.sleep(random.uniform(0, 0.02))


MOMENTS: list[Callable[[Attacker], None]] = [
    before_the_request_ends,
    at_once,
    during_the_handshake,
    after_the_headers,
    in_the_middle_of_an_event,
    without_reading,
    half_closed,
    with_the_next_request_behind,
]


@pytest.mark.parametrize("moment", MOMENTS, ids=lambda moment: moment.__name__)
def test_who_leaves_at_any_moment_leaves_nothing_behind(
    target: Target, moment: Callable[[Attacker], None]
) -> None:
    open_now: list[Attacker] = []
    for number in range(COUNT):
        client = target.client()
        moment(client)
        open_now.append(client)
        if len(open_now) > 10:
            leave(open_now.pop(0), bool(number % 2))
    while open_now:
        leave(open_now.pop(), bool(len(open_now) % 2))
    assert target.first_event("after") == "probe"


def leave(client: Attacker, torn: bool) -> None:
    if torn:
        client.reset()
    else:
        client.close()


def test_who_leaves_at_any_moment_leaves_other_servers_whole(other_target: Target) -> None:
    for moment in MOMENTS:
        if moment in (half_closed, with_the_next_request_behind):
            continue
        for number in range(15):
            client = other_target.client()
            moment(client)
            leave(client, bool(number % 2))
    assert other_target.first_event("after") == "probe"


def test_memory_does_not_grow_with_the_number_of_visits(target: Target) -> None:
    def visit(times: int) -> None:
        for _ in range(times):
            with target.client() as client:
                client.raw(REQUEST % b"/topics/visited/")
                client.read_head()

    visit(100)
    before = target.settle(target.level()._replace(open=0))
    visit(200)
    # A leak of a request and a view would be about 20 kB each.
    target.settle(before, megabytes=3)


def test_ended_streams_of_many_topics_are_forgotten(target: Target) -> None:
    for number in range(40):
        with target.open(f"/topics/once-{number}/") as client:
            assert client.status == 200
    with target.open("/topics/once-1/", {**STREAM, "Last-Event-ID": "1-1"}) as client:
        assert client.event().event == "reset"
