"""The trial of one stranger: a real server, real clients, and every promise of a stream in turn."""

from __future__ import annotations

import http.client
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from tests.support.http_client import Client
from tests.support.servers import HOST, ROOT

from .collector import Collector, Error, Span
from .server import BIN, BenchServer, resident_bytes, threads
from .stranger import SQLITE, Stranger

#: The median that an event may take from publish() to its client.
LATENCY_SECONDS = 0.1
#: How often that is measured before it counts as too slow.
TRIES = 3
EVENTS = 10
#: Streams that are open together, and from how many more threads on they count as a cost.
STREAMS = 20
THREADS = 5
#: Events of a batch; memory is compared between the last ones.
BATCH = 2000
BATCHES = 5
#: A span takes more; what grows with no event, takes less than a tenth.
BYTES_PER_EVENT = 800
#: For how long one stream stays open, at least, to see whether its trace does.
HOLD_SECONDS = 2.0
STOP_SECONDS = 6.0
#: Characters of a failure that are shown; the log has the rest.
LONGEST = 300


class Failed(Exception):
    """What was promised did not happen."""


def check(holds: Any, text: str) -> None:
    """Raise ``Failed`` unless it holds."""
    if not holds:
        raise Failed(text)


class Trial:
    """Tries one stranger. ``failures`` has what went wrong by name, ``costs`` what was measured."""

    def __init__(self, stranger: Stranger, directory: Path, postgres_port: int = 0) -> None:
        self.stranger = stranger
        self.failures: dict[str, str] = {}
        self.costs: set[str] = set()
        #: How the package heard of the exception in ``stream()``: "reported", "span" or "log".
        self.heard = "log"
        self.seconds = 0.0
        self.latency = 0.0
        self.log = ""
        self._directory = directory
        self.database = directory / "bench.sqlite3"
        self._postgres_port = postgres_port
        self._failed_streams = 0

    def run(self, sighting: Callable[[Trial], None] | None) -> None:
        """Try everything; nothing of the stranger's is raised here."""
        began = time.monotonic()
        with ExitStack() as stack:
            self.collector = stack.enter_context(Collector())
            env = self._environment()
            try:
                self.headers = self._prepare(env)
                self.server = BenchServer(self.stranger, self._directory, env)
                stack.enter_context(self.server)
            except (RuntimeError, subprocess.SubprocessError) as error:
                self.failures["handshake"] = f"It does not start: {error}"
                return
            self._try("handshake", self._handshake)
            self._try("event", self._event)
            self._try("leaving", self._leaving)
            self._try("error", self._error)
            self._try("costs", self._measure)
            self._try("error", self._listen)
            if sighting is not None:
                self._try("sees", lambda: sighting(self))
            self._try("stop", self._stop)
            self.log = self.server.log()
        self.seconds = time.monotonic() - began

    def _try(self, name: str, step: Callable[[], None]) -> None:
        try:
            step()
        except (Failed, AssertionError, OSError, RuntimeError, ValueError, LookupError) as error:
            self.failures.setdefault(name, f"{type(error).__name__}: {str(error)[:LONGEST]}")

    def _environment(self) -> dict[str, str]:
        env = {
            "PATH": os.pathsep.join([str(BIN), os.environ.get("PATH", os.defpath)]),
            "HOME": str(self._directory),
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            "DJANGO_SETTINGS_MODULE": "tests.compat.project.settings",
            "STRANGER": self.stranger.name,
            "DATABASE": str(self.database),
            "COLLECTOR": self.collector.address,
        }
        if self.stranger.engine != SQLITE:
            env["DATABASE"] = "postgres"
            env["DATABASE_PORT"] = str(self._postgres_port)
        for name, value in self.stranger.env.items():
            env[name] = value.format(collector=self.collector.address)
        return env

    def _prepare(self, env: dict[str, str]) -> dict[str, str]:
        # Without the agent's own variables: what is prepared is no part of the trial.
        env = {name: value for name, value in env.items() if name not in self.stranger.env}
        env["DJANGO_SETTINGS_MODULE"] = "tests.compat.project.settings"
        done = subprocess.run(
            [sys.executable, "-m", "tests.compat.project.prepare"],
            cwd=ROOT,
            env=env,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"The tables could not be made:\n{done.stdout}{done.stderr}")
        headers: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
        return headers

    # What sightings use besides.

    @property
    def traces(self) -> bool:
        """Whether the package is one that traces requests."""
        return self.stranger.sighting in TRACING

    def get(
        self,
        path: str,
        headers: dict[str, str] | None = None,
        *,
        method: str = "GET",
        body: str | None = None,
    ) -> tuple[int, dict[str, str], str]:
        """Ask for what ends; return status, headers in lower case, and text."""
        with closing(http.client.HTTPConnection(HOST, self.server.port, timeout=20)) as connection:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            if response.status == 200 and "private" in path:
                # A stream that should have been refused has no end to wait for.
                return response.status, found, ""
            return response.status, found, response.read().decode(errors="replace")

    def open(self, path: str = "/open/", headers: dict[str, str] | None = None) -> Client:
        """Open a stream; return its client, whose ``status`` says how it went."""
        client = Client(self.server.address)
        client.request(path, headers=headers)
        return client

    def state(self) -> dict[str, Any]:
        """Return what the project's process tells of itself."""
        state: dict[str, Any] = json.loads(self.get("/state/")[2])
        return state

    def spans(self) -> list[Span]:
        """Return what the agent has reported as ended; New Relic's says it in the process."""
        if self.stranger.sighting != "newrelic":
            return self.collector.spans()
        found = json.loads(self.get("/newrelic/")[2])["transactions"]
        return [
            Span(own["name"], f"{own['name']} {agent.get('request.uri')}", own["duration"], False)
            for own, _, agent in found
        ]

    def errors(self) -> list[Error]:
        """Return the exceptions that the agent has reported."""
        if self.stranger.sighting != "newrelic":
            return self.collector.errors()
        found = json.loads(self.get("/newrelic/")[2])["errors"]
        return [
            Error(own["error.class"].rpartition(":")[2], f"{own} {custom} {agent}")
            for own, custom, agent in found
        ]

    # What is tried.

    def _handshake(self) -> None:
        with self.open() as client:
            check(client.status == 200, f"/open/ answered {client.status}.")
            kind = client.headers.get("content-type")
            check(kind == "text/event-stream", f"The content type is {kind!r}.")
            piece = client.piece()
            check(piece == b":\n\n", f"The first bytes are {piece!r}.")
        status, headers, _ = self.get("/private/", {"Accept": "text/event-stream"})
        check(status in (401, 403), f"Without a user, /private/ answered {status}.")
        kind = headers.get("content-type", "")
        check(kind.startswith("application/json"), f"The refusal is of the type {kind!r}.")
        if self.stranger.credentials == "login":
            self.headers = self._log_in()
        elif self.stranger.credentials == "jwt":
            form = json.dumps({"username": "ada", "password": "secret"})
            kinds = {"Content-Type": "application/json"}
            answer = json.loads(self.get("/token/", kinds, method="POST", body=form)[2])
            self.headers = {"Authorization": f"Bearer {answer['access']}"}
        if "Authorization" in self.headers:
            wrong = {"Authorization": self.headers["Authorization"][:-6] + "AAAAAA"}
            status = self.get("/private/", wrong)[0]
            check(status == 401, f"With wrong credentials, /private/ answered {status}.")
        with self.open("/private/", self.headers) as client:
            check(client.status == 200, f"With a user, /private/ answered {client.status}.")
            data = client.event().data
            check(data == '{"user":"ada"}', f"The snapshot was {data!r}.")

    def _log_in(self) -> dict[str, str]:
        """Log in on allauth's page, as a browser does."""
        _, headers, text = self.get("/accounts/login/")
        token = text.partition('name="csrfmiddlewaretoken" value="')[2].partition('"')[0]
        cookie = headers["set-cookie"].partition(";")[0]
        form = f"login=ada&password=secret&csrfmiddlewaretoken={token}"
        kinds = {"Content-Type": "application/x-www-form-urlencoded", "Cookie": cookie}
        status, headers, _ = self.get("/accounts/login/", kinds, method="POST", body=form)
        check(status == 302, f"The login answered {status}.")
        session = headers["set-cookie"].partition("sessionid=")[2].partition(";")[0]
        return {"Cookie": f"sessionid={session}"}

    def _event(self) -> None:
        with self.open() as client:
            client.piece()
            # A machine that is busy with something else may be slow once, or twice.
            for _ in range(TRIES):
                times = []
                for _ in range(EVENTS):
                    self.get("/publish/")
                    data = json.loads(client.event().data or "")
                    times.append(time.monotonic() - data["at"])
                self.latency = statistics.median(times)
                if self.latency < LATENCY_SECONDS:
                    return
        raise Failed(f"An event takes {self.latency * 1000:.0f} ms.")

    def _leaving(self) -> None:
        self._settle()
        before = self.state()["ended"].count(["Open", "client"])
        with self.open() as client:
            client.piece()
        self._until(
            lambda: self.state()["ended"].count(["Open", "client"]) == before + 1,
            "A client left, and its stream went on.",
        )

    def _error(self) -> None:
        before = self.server.log().count("Boom: The stream failed on purpose.")
        with self.open("/failing/") as client:
            check(client.status == 200, f"/failing/ answered {client.status}.")
            self._failed_streams += 1
            check(client.event().data == "first", "The first event is missing.")
            check(client.body() == b"", "Something came after the exception.")
        self._until(
            lambda: ["Failing", "error"] in self.state()["ended"],
            "The stream did not end as failed.",
        )
        count = self.server.log().count("Boom: The stream failed on purpose.") - before
        check(count == 1, f"The exception was logged {count} times.")

    def _measure(self) -> None:
        """Find out what a stream costs: a thread, memory for each event, spans, a long trace."""
        self._settle()
        pid = self.state()["pid"]
        before = threads(pid)
        with ExitStack() as stack:
            for _ in range(STREAMS):
                stack.enter_context(self.open()).piece()
            if threads(pid) - before >= THREADS:
                self.costs.add("thread")
        self._settle()
        spans = 0
        if self.traces:
            _wait_until_quiet(self._count)
            spans = self._count()
        with self.open() as client:
            client.piece()
            began = time.monotonic()
            growth = []
            rss = 0
            for _ in range(BATCHES):
                self.get(f"/publish/many/?count={BATCH}")
                for _ in range(BATCH):
                    client.event()
                rss, last = resident_bytes(pid), rss
                growth.append((rss - last) / BATCH)
            # The first ones fill the topic's history, and the queues of agents.
            if min(growth[2:]) > BYTES_PER_EVENT:
                self.costs.add("memory")
            time.sleep(max(0.0, HOLD_SECONDS - (time.monotonic() - began)))
        self._settle()
        if self.traces:
            _wait_until_quiet(self._count)
            if self._count() - spans > BATCH / 8:
                self.costs.add("spans")
            ended = self.spans()
            if any(_is_stream(s) and s.seconds > HOLD_SECONDS * 0.75 for s in ended):
                self.costs.add("trace")
            if not any("state/" in span.place for span in ended):
                self.costs.add("untraced")

    def _count(self) -> int:
        """Return how many spans there are of streams and their sending."""
        spans = self.spans()
        return sum(not re.search("publish|state|newrelic", span.place) for span in spans)

    def _listen(self) -> None:
        """Find out how the package has heard of the exception."""
        if any(error.kind == "Boom" for error in self.errors()):
            self.heard = "reported"
        elif any(span.failed and "failing" in span.place.lower() for span in self.spans()):
            self.heard = "span"

    def _stop(self) -> None:
        with self.open() as client:
            client.piece()
            stopped = self.server.stop(timeout=STOP_SECONDS * 2)
            body = client.body()
        check(b"retry: " in body, f"The stream ended with {body!r}.")
        check(stopped.seconds < STOP_SECONDS, f"The end took {stopped.seconds:.1f} s.")
        faults = self.server.faults()
        check(len(faults) == self._failed_streams, f"The log has {faults}.")

    def _settle(self) -> None:
        self._until(lambda: self.state()["open"] == 0, "A stream has not ended.")

    def _until(self, condition: Callable[[], bool], text: str) -> None:
        deadline = time.monotonic() + 5
        while not condition():
            check(time.monotonic() < deadline, text)
            time.sleep(0.05)


#: The sightings of agents that trace.
TRACING = {
    "sentry",
    "newrelic",
    "datadog",
    "datadog_views",
    "elastic",
    "elastic_errors",
    "opentelemetry",
}


def _is_stream(span: Span) -> bool:
    # The span of a stream itself, which is made at its end, is none that was held open.
    return "open" in span.place.lower() and not span.name.startswith("stream ")


def _wait_until_quiet(count: Callable[[], int]) -> None:
    """Wait until an agent, which reports a few times a second, has nothing more to report."""
    last = -1
    for _ in range(20):
        before, last = last, count()
        if before == last:
            return
        time.sleep(1.0)
