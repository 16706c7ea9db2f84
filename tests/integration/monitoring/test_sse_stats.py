"""``manage.py sse_stats`` over two servers and one Redis."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from django_sse import close_streams, publish
from django_sse.topics.orders import reports
from tests.support.http_client import Client
from tests.support.redis_server import RedisServer
from tests.support.servers import Server


def test_sse_stats_adds_up_all_processes(
    serve: Callable[..., Server],
    redis_server: RedisServer,
    run: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(CommandError, match=r"No process answered within 0\.2 s"):
        run("sse_stats", "--wait", "0.2")
    with ExitStack() as stack:
        clients = []
        for name, count in (("daphne", 1), ("uvicorn", 2)):
            server = serve(name)
            for _ in range(count):
                client = stack.enter_context(Client(server.address))
                client.request("/numbers/?topics=a,b")
                assert client.event().data == "everything so far"
                clients.append(client)
        publish(["a", "b"], "one", on_commit=False)
        assert [client.event().data for client in clients] == ["one"] * 3

        answer = json.loads(run("sse_stats", "--json", "--wait", "0.5"))
        assert sorted(numbers["open"] for numbers in answer["processes"].values()) == [1, 2]
        assert answer["total"]["open"] == answer["total"]["opened"] == 3
        assert answer["total"]["sent"] == 6

        first, *rows, last = run("sse_stats", "--wait", "0.5").splitlines()
        assert first.split()[:3] == ["process", "open", "opened"]
        assert sorted(row.split()[0] for row in rows) == sorted(answer["processes"])
        assert last.split()[:3] == ["all", "3", "3"]

        rounds = 0

        def interrupt(seconds: float) -> None:
            nonlocal rounds
            assert seconds == 0.5
            rounds += 1
            if rounds == 2:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr("django_sse.management.commands.sse_stats.time.sleep", interrupt)
            watched = run("sse_stats", "--json", "--watch", "0.5", "--wait", "0.5").splitlines()
        assert [json.loads(line)["total"]["open"] for line in watched] == [3, 3]

        # One of them ends by its id, and the others stay.
        listed = [
            stream for report in reports(wait=0.5, streams=True) for stream in report["streams"]
        ]
        assert [stream["topics"] for stream in listed] == [["a", "b"]] * 3
        close_streams(stream=listed[0]["id"])
        left = [
            stream["id"]
            for report in reports(wait=0.5, streams=True)
            for stream in report["streams"]
        ]
        assert sorted(left) == sorted(stream["id"] for stream in listed[1:])

        # What was asked and answered does not pile up.
        replies = redis_server("KEYS", "*reply*")
        assert replies
        assert all(0 < int(redis_server("PTTL", key)) <= 60_000 for key in replies)

    redis_server.kill()
    began = time.monotonic()
    with pytest.raises(CommandError, match="The broker is away"):
        run("sse_stats")
    assert time.monotonic() - began < 3


def test_sse_stats_says_that_memory_is_one_process(settings: Any) -> None:
    settings.DJANGO_SSE = {}
    with pytest.raises(CommandError, match="The MemoryBroker belongs to one process"):
        call_command("sse_stats")
