"""``sse_publish`` and ``sse_tail`` in processes of their own, on a real Redis."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from tests.support.databases import new_database
from tests.support.servers import ROOT, Server, free_port

from .conftest import environment, in_database, memory, redis
from .harness import Connection

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(params=["redis", "sqlite"])
def env(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    if request.param == "redis":
        server = request.getfixturevalue("shared_redis")
        return environment(redis(server, HISTORY=10, PREFIX=f"{request.node.name}:"))
    with new_database("sqlite", request, tmp_path) as alias:
        return environment(in_database(HISTORY=10), database=alias)


def run(
    env: dict[str, str], *args: str, input: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "django", *args],
        cwd=ROOT,
        env=env,
        input=input,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def publish(env: dict[str, str], *args: str, input: str | None = None) -> str:
    """Run ``sse_publish``, and return the id that it prints."""
    done = run(env, "sse_publish", *args, input=input)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


@contextmanager
def tail(env: dict[str, str], *args: str) -> Iterator[subprocess.Popen[str]]:
    """Start ``sse_tail``; it is ended with the block."""
    process = subprocess.Popen(
        [sys.executable, "-m", "django", "sse_tail", *args],
        cwd=ROOT,
        env=env | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def lines(process: subprocess.Popen[str], count: int) -> list[str]:
    """Return the next lines that a process prints."""
    assert process.stdout is not None
    return [process.stdout.readline() for _ in range(count)]


def test_command_publish_and_tail(env: dict[str, str]) -> None:
    first = publish(env, "a", "one", "--event", "created")
    second = publish(env, "b", "--json", '{"n": 1,\n "ä": [1, 2]}')
    third = publish(env, "a", input="line 1\nline 2\n")
    with tail(env, "a", "b", "--json", "--since", first) as process:
        got = [json.loads(line) for line in lines(process, 2)]
        assert got == [
            {"id": second, "event": None, "data": '{"n":1,"ä":[1,2]}', "topics": ["b"]},
            {"id": third, "event": None, "data": "line 1\nline 2", "topics": ["a"]},
        ]
        # It follows now.
        live = publish(env, "a", "live", "--event", "e")
        assert json.loads(lines(process, 1)[0]) == {
            "id": live,
            "event": "e",
            "data": "live",
            "topics": ["a"],
        }
        process.send_signal(signal.SIGINT)
        out, error = process.communicate(timeout=30)
        assert (out, error, process.returncode) == ("", "", 0)
    done = run(env, "sse_tail", "a", "--since", "0-0", "--count", "1")
    assert done.returncode == 1
    assert "does not hold everything since 0-0" in done.stderr
    done = run(env, "sse_tail", "a", "--since", first, "--count", "2")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (f"{third}  a  message\n    line 1\n    line 2\n{live}  a  e\n    live\n")


def test_command_tail_says_when_history_is_lost(env: dict[str, str]) -> None:
    first = publish(env, "a", "seen")
    job = json.dumps({"name": "n", "count": 11, "targets": [["a"]]})
    run(env, "publish_numbers", "plain", job)
    done = run(env, "sse_tail", "a", "--since", first)
    assert done.returncode == 1
    assert f"does not hold everything since {first}" in done.stderr
    assert "Traceback" not in done.stderr


def test_command_tail_ends_when_nobody_reads(env: dict[str, str]) -> None:
    first = publish(env, "a", "one")
    with tail(env, "a", "--since", first) as process:
        assert process.stdout is not None
        publish(env, "a", "two")
        lines(process, 2)
        process.stdout.close()
        publish(env, "a", "three")
        assert process.wait(timeout=30) in {0, 1}
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()
        process.stdout = None


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["sse_publish", "a\nb", "x"], "control characters"),
        (["sse_publish", "a", "{", "--json"], "DATA is no JSON"),
        (["sse_publish", "a", "x", "--event", "a\nb"], "event"),
        (["sse_tail", ""], "not empty"),
        (["sse_tail", "a", "--since", "yesterday"], "--since takes an event's id"),
    ],
)
def test_command_refuses_with_a_word(args: list[str], message: str) -> None:
    with pytest.raises(CommandError, match=message):
        call_command(*args, stderr=StringIO())


def redis_away() -> dict[str, object]:
    return {
        "BACKEND": "django_sse.brokers.redis.RedisBroker",
        "LOCATION": f"redis://127.0.0.1:{free_port()}/0",
    }


def test_command_publish_fails_in_time_when_redis_is_away() -> None:
    done = run(environment(redis_away(), PUBLISH_TIMEOUT=0.5), "sse_publish", "a", "x")
    assert done.returncode == 1
    assert "it is not stored" in done.stderr
    assert "Traceback" not in done.stderr


def test_command_warns_of_a_broker_in_memory() -> None:
    done = run(environment(memory()), "sse_publish", "a", "x")
    assert done.returncode == 0
    assert "belongs to one process" in done.stderr


async def test_command_publishes_to_a_server(
    env: dict[str, str], serve_numbers: Callable[..., Server]
) -> None:
    server = serve_numbers("daphne", env)
    client = await Connection.get(server.address, "/numbers/?topics=a")
    await client.until("snapshot")
    event_id = publish(env, "a", "from a command", "--event", "told")
    [event] = [block for block in await client.until("told") if block.data is not None]
    assert (event.data, event.id) == ("from a command", event_id)
    client.drop()


@pytest.mark.parametrize("data", ["NaN", '{"a": Infinity}', "{", "[" * 100_000])
def test_command_publishes_no_json_that_browsers_refuse(data: str) -> None:
    with pytest.raises(CommandError, match="DATA is no JSON"):
        call_command("sse_publish", "a", data, "--json")


def test_command_publishes_json_as_it_is(sse_published: list[Any]) -> None:
    data = '{ "a" : 12345678901234567890.123456789,\n "a": 2, "b c": "d \\" e", "x": [1, 2] }'
    call_command("sse_publish", "a", data, "--json", stdout=StringIO(), stderr=StringIO())
    [published] = sse_published
    assert published.event.data == (
        '{"a":12345678901234567890.123456789,"a":2,"b c":"d \\" e","x":[1,2]}'
    )


def test_command_tail_wants_a_number_of_events() -> None:
    with pytest.raises(CommandError, match="--count takes a number from 0 on, got -1"):
        call_command("sse_tail", "a", "--count=-1")
