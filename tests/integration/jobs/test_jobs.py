"""Jobs on real servers: the connection breaks, the process ends, another one takes part."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import django
import httpx
import pytest

from django_sse.wire.events import EventDecoder, ServerSentEvent
from tests.integration.topics.conftest import environment, in_database, memory, redis
from tests.support.databases import database, new_database
from tests.support.mariadb_server import MariaDBServer
from tests.support.redis_server import RedisServer
from tests.support.servers import FAULTS, ROOT, Server

from .conftest import SETTINGS

LEASE = 1.5  # seconds
FAILED = '{"state": "failed"}'

Serve = Callable[..., Server]
Environment = Callable[..., Mapping[str, str]]

#: Without TLS. A client that loads the certificates takes 25 ms of CPU, more than the request.
ask = partial(httpx.stream, verify=False)


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
    with ask("POST", server.url + path, json={"number": number, **data}) as response:
        yield Reader(response)


@contextmanager
def read(server: Server, job: str, seen: Any = None, path: str = "/counting/") -> Iterator[Reader]:
    headers = {} if seen is None else {"Last-Event-ID": str(seen)}
    with ask("GET", f"{server.url}{path}{job}/", headers=headers) as response:
        yield Reader(response)


def start_once(
    server: Server, headers: Mapping[str, str], path: str = "/counting/", timeout: float = 20
) -> tuple[str, list[ServerSentEvent]]:
    data = {"number": 5, "pause": 0.01}
    url = server.url + path
    with ask("POST", url, json=data, headers=headers, timeout=timeout) as response:
        reader = Reader(response)
        return reader.job, reader.read()


def cancel(server: Server, job: str, path: str = "/counting/") -> None:
    assert httpx.delete(f"{server.url}{path}{job}/").status_code == 204


def words(events: list[ServerSentEvent]) -> list[int]:
    return [int(str(it.data)) for it in events if it.event == "word"]


@pytest.fixture(params=["redis", "sqlite", "postgresql", "mariadb"])
def shared_broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Environment]:
    """``shared_broker(**settings)`` is the environment of processes that share a broker.

    It is an empty one of each kind in turn.
    """
    if request.param == "redis":
        yield partial(environment, redis(request.getfixturevalue("redis_server")))
    else:
        with new_database(request.param, request, tmp_path) as alias:
            yield partial(environment, in_database(POLL=0.02), database=alias)


@pytest.fixture
def two_processes(shared_broker: Environment, serve_jobs: Serve) -> tuple[Server, Server]:
    """Daphne and Uvicorn, which share a broker."""
    env = shared_broker(JOB_LEASE=LEASE)
    return serve_jobs("daphne", env), serve_jobs("uvicorn", env)


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


def test_stopped_server_tells_the_end_at_once(
    shared_broker: Environment, serve_jobs: Serve
) -> None:
    env = shared_broker(JOB_LEASE=60)
    there = serve_jobs("uvicorn", env)
    for name in ("daphne", "uvicorn"):
        here = serve_jobs(name, env)
        with start(here, 1000) as reader, read(there, reader.job) as watcher:
            seen = reader.read(words=3)[-1].id
            watcher.read(words=3)
            here.stop()
            assert str(watcher.read()[-1].data) == FAILED
        here.start()
        with read(here, reader.job, seen) as again:
            assert words(again.read()) == words(watcher.events)[3:]
            assert str(again.events[-1].data) == FAILED
        with start(here, 1000) as reader:
            reader.read(words=1)
        # No stream is open at this server any more, which could keep it from ending.
        with read(there, reader.job) as watcher:
            watcher.read(words=3)
            here.stop()
            assert str(watcher.read()[-1].data) == FAILED


def test_killed_process_fails_its_jobs(two_processes: tuple[Server, Server]) -> None:
    here, there = two_processes
    with start(here, 1000) as left_alone, start(here, 1000) as watched:
        left_alone.read(words=3)
        with read(there, watched.job) as watcher:
            seen = watcher.read(words=3)[-1].id
            began = time.monotonic()
            here.stop(signal=signal.SIGKILL)
            assert str(watcher.read()[-1].data) == FAILED
            assert LEASE * 0.5 < time.monotonic() - began < 3 * LEASE
    # Nobody followed the other job when its process died.
    with read(there, left_alone.job) as later:
        assert str(later.read()[-1].data) == FAILED
    here.start()
    with read(here, watched.job, seen) as again:
        assert words(again.read()) == words(watcher.events)[3:]
        assert str(again.events[-1].data) == FAILED


def test_posts_with_one_key_at_once_start_one_job(two_processes: tuple[Server, Server]) -> None:
    with ThreadPoolExecutor(8) as threads:
        for attempt in range(5):
            key = {"Idempotency-Key": f"at random {attempt:06}"}
            started = [
                threads.submit(start_once, server, key)
                for _ in range(4)
                for server in two_processes
            ]
            jobs, events = zip(*(it.result() for it in started), strict=True)
            assert len(set(jobs)) == 1
            assert all(words(it) == list(range(5)) for it in events), events


def test_restarted_server_with_its_broker_in_memory_knows_no_job(serve_jobs: Serve) -> None:
    server = serve_jobs("uvicorn", environment(memory()))
    with start(server, 1000) as reader:
        reader.read(words=3)
        server.stop()
    server.start()
    assert httpx.get(f"{server.url}/counting/{reader.job}/").status_code == 404


@pytest.mark.parametrize("name", ["daphne", "uvicorn"])
def test_many_posts_at_once_start_as_many_jobs_as_the_process_takes(
    name: str, redis_server: RedisServer, serve_jobs: Serve
) -> None:
    server = serve_jobs(name, environment(redis(redis_server), MAX_JOBS=20))

    def post(_: int) -> tuple[int, str | None]:
        data = {"number": 1_000_000, "pause": 0.1}
        with ask("POST", server.url + "/counting/", json=data, timeout=60) as response:
            assert response.status_code == 200 or int(response.headers["Retry-After"]) > 0
            return response.status_code, response.headers.get("SSE-Job")

    with ThreadPoolExecutor(50) as threads:
        answers = list(threads.map(post, range(300)))
    jobs = [job for status, job in answers if status == 200]
    assert {status for status, _ in answers} == {200, 503}
    assert len(set(jobs)) == len(jobs) == 20
    # Each of them works, and makes room once it is cancelled.
    for job in jobs:
        with read(server, str(job)) as reader:
            reader.read(words=1)
            cancel(server, str(job))
            assert str(reader.read()[-1].data) == '{"state": "cancelled"}'
    assert words(start_once(server, {})[1]) == list(range(5))


@pytest.mark.parametrize("name", ["daphne", "uvicorn"])
def test_post_whose_connection_breaks_is_found_when_it_is_sent_again(
    name: str, redis_server: RedisServer, serve_jobs: Serve
) -> None:
    server = serve_jobs(name, environment(redis(redis_server)))
    headers = {"Idempotency-Key": "at random 0123456789"}
    with pytest.raises(httpx.ReadTimeout):
        start_once(server, headers, "/slowly/", timeout=0.2)
    _, events = start_once(server, headers, "/slowly/")
    assert [it.event for it in events] == ["job", *["word"] * 5, "end"]
    assert str(events[-1].data) == '{"state": "done"}'
    assert words(start_once(server, headers, "/slowly/")[1]) == list(range(5))


STRANGE = (
    *("%00" * 20, "0123456789abcdef%00", "..%2f..%2f..%2fetc%2fpasswd", "a" * 7000, "%1fjob:" * 4),
    *("%F0%9F%98%80" * 16, "%ff" * 16, "{}" * 10, "0" * 32, "job:0123456789abcdef"),
)


@pytest.mark.parametrize("name", ["daphne", "uvicorn"])
def test_strange_ids_are_unknown(name: str, redis_server: RedisServer, serve_jobs: Serve) -> None:
    server = serve_jobs(name, environment(redis(redis_server)))
    for job in STRANGE:
        for method in ("GET", "DELETE"):
            for path in (f"/counting/{job}/", f"/counting/?job={job}"):
                answer = httpx.request(method, server.url + path, verify=False)
                assert answer.status_code == 404, (method, path, answer.text)
    with start(server, 3, pause=0) as reader:
        reader.read()
    for seen in (
        "%00",
        "x" * 5000,
        "-1",
        "99999999999999999999-99999999999999999999",
        "é".encode(),
    ):
        headers: Any = {"Last-Event-ID": seen}
        with ask("GET", f"{server.url}/counting/{reader.job}/", headers=headers) as again:
            events = Reader(again).read()
        assert [it.event for it in events] == ["reset", "job", "word", "word", "word", "end"]


@pytest.mark.parametrize("kind", ["redis", "postgresql", "mariadb"])
def test_broker_is_away_in_the_middle_of_a_job(
    kind: str, request: pytest.FixtureRequest, serve_jobs: Serve, tmp_path: Path
) -> None:
    """For longer than the lease; then all goes on, and each event comes once."""
    with ExitStack() as stack:
        # After the outage, the work has a third of its lease to renew it. An attempt that the broker
        # has not answered takes a second of that, and a pause follows.
        lease = 6.0
        limits = {"JOB_LEASE": lease, "PUBLISH_TIMEOUT": 1}
        if kind == "redis":
            broker = request.getfixturevalue("redis_server")
            env = environment(redis(broker), **limits)
        else:
            if kind == "postgresql":
                broker = request.getfixturevalue("postgres_server")
            else:
                broker = stack.enter_context(MariaDBServer())
            stack.enter_context(request.getfixturevalue("django_db_blocker").unblock())
            alias = stack.enter_context(database(broker.new_database()))
            env = environment(in_database(POLL=0.02), database=alias, **limits)
        here, there = serve_jobs("uvicorn", env), serve_jobs("uvicorn", env)
        with start(here, 60, pause=0.02) as reader, read(there, reader.job) as watcher:
            reader.read(words=5)
            broker.pause()
            try:
                # A broker that is away is no 404, and no end.
                answer = httpx.get(f"{there.url}/counting/{reader.job}/", timeout=20)
                assert answer.status_code == 503
                assert int(answer.headers["Retry-After"]) > 0
                assert httpx.delete(f"{there.url}/counting/{reader.job}/").status_code == 503
                json = {"number": 5}
                assert httpx.post(here.url + "/counting/", json=json).status_code == 503
                time.sleep(lease)
            finally:
                broker.resume()
            for it in (reader, watcher):
                assert words(it.read()) == list(range(60))
                assert str(it.events[-1].data) == '{"state": "done"}'
        with start(here, 2) as reader:
            assert words(reader.read()) == [0, 1]


class Worker(NamedTuple):
    """A server, and a worker of another process that works on its jobs."""

    server: Server
    process: subprocess.Popen[bytes]
    path: str
    log: Path


CELERY = "-m celery -A tests.integration.jobs.worker worker --pool prefork --concurrency 1"
DJANGO = "manage.py db_worker --no-reload --no-startup-delay --interval 0.05"
#: The commands, the path of the view, and the databases of the broker.
WORKERS = {
    "celery": (f"{CELERY} --without-mingle --without-gossip", "/celery/", None),
    "django": (DJANGO, "/task/", "postgresql"),
    "django-coroutine": (DJANGO, "/coroutine/", "sqlite"),
}


@pytest.fixture(params=WORKERS)
def worker(request: pytest.FixtureRequest, serve_jobs: Serve, tmp_path: Path) -> Iterator[Worker]:
    """A worker of Celery over Redis, and one of Django's tasks over a database."""
    command, path, database = WORKERS[request.param]
    with ExitStack() as stack:
        if database is None:
            broker: RedisServer = request.getfixturevalue("redis_server")
            env = environment(redis(broker), JOB_LEASE=LEASE) | {"CELERY_BROKER": broker.url()}
        else:
            pytest.importorskip("django_tasks_db")
            alias = stack.enter_context(new_database(database, request, tmp_path))
            env = environment(in_database(POLL=0.02), database=alias, JOB_LEASE=LEASE)
        env["DJANGO_SETTINGS_MODULE"] = SETTINGS
        if database is not None:
            migrate = [sys.executable, "manage.py", "migrate", "-v", "0"]
            subprocess.run(migrate, cwd=ROOT, env=env, check=True, timeout=60)
        server = serve_jobs("uvicorn", env)
        log = stack.enter_context((tmp_path / "worker.log").open("wb"))
        process = subprocess.Popen(
            [sys.executable, "-W", "always", *command.split()],
            cwd=ROOT,
            env=env,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            yield Worker(server, process, path, tmp_path / "worker.log")
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def test_worker_sends_and_is_cancelled(worker: Worker) -> None:
    server, process, path, log = worker
    with start(server, 1, path) as reader:
        assert words(reader.read()) == [0]
    before = threads_and_files(process.pid)
    with start(server, 20, path, pause=0.01) as reader:
        seen = reader.read(words=5)
    with read(server, reader.job, seen[-1].id, path) as again:
        assert words(again.read()) == list(range(5, 20))
        assert str(again.events[-1].data) == '{"state": "done"}'
        assert [it.data for it in again.events if it.event == "progress"][-1] == (
            '{"done": 20, "total": 20}'
        )
    with start(server, 1000, path) as reader:
        reader.read(words=2)
        cancel(server, reader.job, path)
        assert str(reader.read()[-1].data) == '{"state": "cancelled"}'
    # The worker is free again, and no job leaves a thread or a connection behind in it.
    for _ in range(8):
        with start(server, 2, path) as reader:
            assert words(reader.read()) == [0, 1]
    deadline = time.monotonic() + 10
    while (held := threads_and_files(process.pid)) > before + 10:
        assert time.monotonic() < deadline, (before, held)
        time.sleep(0.05)
    process.terminate()
    assert process.wait(20) == 0
    assert [it for it in FAULTS if it in log.read_text()] == []
    assert "ResourceWarning" not in log.read_text()


def threads_and_files(process: int) -> int:
    """Return how many threads and open files a process and its children have."""
    here = Path(f"/proc/{process}")
    children = (here / f"task/{process}/children").read_text().split()
    own = len(list((here / "task").iterdir())) + len(list((here / "fd").iterdir()))
    return own + sum(threads_and_files(int(child)) for child in children)


def test_killed_worker_fails_its_job(worker: Worker) -> None:
    with start(worker.server, 1000, worker.path) as reader:
        reader.read(words=2)
        os.killpg(worker.process.pid, signal.SIGKILL)
        assert str(reader.read()[-1].data) == FAILED


@pytest.mark.parametrize("path", ["/task/", "/coroutine/"])
def test_immediate_task_works_within_its_post(path: str, serve_jobs: Serve) -> None:
    pytest.importorskip("django_tasks_db")
    module = "django_tasks" if django.VERSION < (6, 0) else "django.tasks"
    immediate = {"TASKS": f"{module}.backends.immediate.ImmediateBackend"}
    server = serve_jobs("uvicorn", environment(memory()) | immediate)
    with start(server, 3, path) as reader:
        # All is stored by then.
        with read(server, reader.job, path=path) as other:
            assert words(other.read()) == [0, 1, 2]
        assert words(reader.read()) == [0, 1, 2]
        assert str(reader.events[-1].data) == '{"state": "done"}'
