"""Jobs on real servers: the connection breaks, the process ends, another one takes part."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from django_sse.wire.events import EventDecoder, ServerSentEvent
from tests.integration.topics.conftest import environment, in_database, memory, redis
from tests.support.databases import new_database
from tests.support.redis_server import RedisServer
from tests.support.servers import ROOT, Server

LEASE = 1.5  # seconds
FAILED = '{"state": "failed"}'

Serve = Callable[..., Server]


class Reader:
    """Reads a response event by event; what it has seen is in ``events``."""

    def __init__(self, response: httpx.Response) -> None:
        assert response.status_code == 200, response.read()
        self.job = response.headers["SSE-Job"]
        self.events: list[ServerSentEvent] = []
        self._chunks = response.iter_raw()
        self._decoder = EventDecoder()
        self._waiting: list[ServerSentEvent] = []

    def read(self, words: int | None = None) -> list[ServerSentEvent]:
        """Read so many words, or up to the end of the response; return all events so far."""
        while words is None or sum(it.event == "word" for it in self.events) < words:
            if not self._waiting:
                try:
                    self._waiting = self._decoder.feed(next(self._chunks))
                except StopIteration:
                    break
                continue
            event = self._waiting.pop(0)
            if event.data is not None:
                self.events.append(event)
        return self.events


@contextmanager
def start(server: Server, number: int, path: str = "/counting/", **data: Any) -> Iterator[Reader]:
    with httpx.stream("POST", server.url + path, json={"number": number, **data}) as response:
        yield Reader(response)


@contextmanager
def read(server: Server, job: str, seen: Any = None, path: str = "/counting/") -> Iterator[Reader]:
    headers = {} if seen is None else {"Last-Event-ID": str(seen)}
    with httpx.stream("GET", f"{server.url}{path}{job}/", headers=headers) as response:
        yield Reader(response)


def cancel(server: Server, job: str, path: str = "/counting/") -> None:
    assert httpx.delete(f"{server.url}{path}{job}/").status_code == 204


def words(events: list[ServerSentEvent]) -> list[int]:
    return [int(str(it.data)) for it in events if it.event == "word"]


@pytest.fixture(params=["redis", "sqlite"])
def two_processes(
    request: pytest.FixtureRequest, serve_jobs: Serve, tmp_path: Path
) -> Iterator[tuple[Server, Server]]:
    """Daphne and Uvicorn, which share a broker."""
    with ExitStack() as stack:
        if request.param == "redis":
            server = request.getfixturevalue("redis_server")
            env = environment(redis(server), JOB_LEASE=LEASE)
        else:
            alias = stack.enter_context(new_database("sqlite", request, tmp_path))
            env = environment(in_database(POLL=0.02), database=alias, JOB_LEASE=LEASE)
        yield serve_jobs("daphne", env), serve_jobs("uvicorn", env)


def test_cut_connection_goes_on_at_another_process(two_processes: tuple[Server, Server]) -> None:
    for here, there in (two_processes, two_processes[::-1]):
        with start(here, 30) as reader:
            seen = reader.read(words=7)
        assert words(seen) == list(range(7))
        with read(there, reader.job, seen[-1].id) as other, read(there, reader.job) as watcher:
            assert words(other.read()) == list(range(7, 30))
            assert words(watcher.read()) == list(range(30))
            assert str(other.events[-1].data) == str(watcher.events[-1].data) == '{"state": "done"}'
        last = {"Last-Event-ID": str(other.events[-1].id)}
        for server in two_processes:
            answer = httpx.get(f"{server.url}/counting/{reader.job}/", headers=last)
            assert answer.status_code == 204


def test_other_process_cancels(two_processes: tuple[Server, Server]) -> None:
    here, there = two_processes
    with start(here, 1000) as reader, read(there, reader.job) as watcher:
        reader.read(words=3)
        cancel(there, reader.job)
        for it in (reader, watcher):
            assert str(it.read()[-1].data) == '{"state": "cancelled"}'
            assert words(it.events) == list(range(len(words(it.events))))
            assert len(words(it.events)) < 200


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("first", ["daphne", "uvicorn"])
def test_server_ends_in_the_middle(
    first: str, end: int, redis_server: RedisServer, serve_jobs: Serve
) -> None:
    env = environment(redis(redis_server), JOB_LEASE=LEASE)
    here, there = serve_jobs(first, env), serve_jobs("uvicorn", env)
    with start(here, 1000) as reader, read(there, reader.job) as watcher:
        seen = reader.read(words=3)
        watcher.read(words=3)
        began = time.monotonic()
        here.stop(signal=end)
        assert str(watcher.read()[-1].data) == FAILED
        took = time.monotonic() - began
        # Only a process that was killed leaves it to the lease.
        assert took < 3 * LEASE
    here.start()
    with read(here, reader.job, seen[-1].id) as again:
        assert words(again.read()) == words(watcher.events)[3:]
        assert str(again.events[-1].data) == FAILED


def test_stopped_server_tells_the_end_at_once(redis_server: RedisServer, serve_jobs: Serve) -> None:
    env = environment(redis(redis_server), JOB_LEASE=60)
    for name in ("daphne", "uvicorn"):
        here, there = serve_jobs(name, env), serve_jobs("uvicorn", env)
        with start(here, 1000) as reader:
            reader.read(words=1)
        # No stream is open at the first server, which could keep it from ending.
        with read(there, reader.job) as watcher:
            watcher.read(words=3)
            here.stop()
            assert str(watcher.read()[-1].data) == FAILED


def test_client_that_comes_after_the_crash_is_told(
    redis_server: RedisServer, serve_jobs: Serve
) -> None:
    env = environment(redis(redis_server), JOB_LEASE=LEASE)
    here, there = serve_jobs("daphne", env), serve_jobs("uvicorn", env)
    with start(here, 1000) as reader:
        reader.read(words=3)
        here.stop(signal=signal.SIGKILL)
    with read(there, reader.job) as later:
        assert str(later.read()[-1].data) == FAILED


def test_restarted_server_with_its_broker_in_memory_knows_no_job(serve_jobs: Serve) -> None:
    server = serve_jobs("uvicorn", environment(memory()))
    with start(server, 1000) as reader:
        reader.read(words=3)
        server.stop()
    server.start()
    assert httpx.get(f"{server.url}/counting/{reader.job}/").status_code == 404


@pytest.fixture
def celery(
    redis_server: RedisServer, serve_jobs: Serve, tmp_path: Path
) -> Iterator[tuple[Server, subprocess.Popen[bytes]]]:
    """A server, and a worker of Celery over the same Redis."""
    env = environment(redis(redis_server), JOB_LEASE=LEASE)
    env["CELERY_BROKER"] = redis_server.url()
    server = serve_jobs("uvicorn", env)
    command = [sys.executable, "-m", "celery", "-A", "tests.integration.jobs.worker", "worker"]
    command += ["--pool", "prefork", "--concurrency", "1", "--without-mingle", "--without-gossip"]
    with (tmp_path / "celery.log").open("wb") as log:
        worker = subprocess.Popen(
            command, cwd=ROOT, env=env, stdout=log, stderr=log, start_new_session=True
        )
        try:
            yield server, worker
        finally:
            if worker.poll() is None:
                os.killpg(worker.pid, signal.SIGKILL)
            worker.wait()


def test_celery_works_and_is_cancelled(
    celery: tuple[Server, subprocess.Popen[bytes]],
) -> None:
    server, _ = celery
    with start(server, 20, "/celery/", pause=0.01) as reader:
        seen = reader.read(words=5)
    with read(server, reader.job, seen[-1].id, "/celery/") as again:
        assert words(again.read()) == list(range(5, 20))
        assert str(again.events[-1].data) == '{"state": "done"}'
        assert [it.data for it in again.events if it.event == "progress"][-1] == (
            '{"done": 20, "total": 20}'
        )
    with start(server, 1000, "/celery/") as reader:
        reader.read(words=2)
        cancel(server, reader.job, "/celery/")
        assert str(reader.read()[-1].data) == '{"state": "cancelled"}'
    # The worker is free again.
    with start(server, 2, "/celery/") as reader:
        assert words(reader.read()) == [0, 1]


def test_killed_worker_fails_its_job(celery: tuple[Server, subprocess.Popen[bytes]]) -> None:
    server, worker = celery
    with start(server, 1000, "/celery/") as reader:
        reader.read(words=2)
        os.killpg(worker.pid, signal.SIGKILL)
        assert str(reader.read()[-1].data) == FAILED
