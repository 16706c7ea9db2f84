"""Real ASGI servers as processes of their own, for tests that speak to them over sockets."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from .template import Forked, fork

ROOT = Path(__file__).resolve().parents[2]
HOST = "127.0.0.1"
START_SECONDS = 30.0
STOP_SECONDS = 15.0

#: Texts that no server may write to its log, whatever its streams and clients do.
FAULTS = (
    "Traceback (most recent call last)",
    "took too long to shut down",
    "Task was destroyed",
    "was never awaited",
    "exception was never retrieved",
    "Fatal Python error",
)

_GUNICORN = ("-b", f"{HOST}:{{port}}", "-w", "1", "--graceful-timeout", "5", "--no-control-socket")

_COMMANDS: dict[str, Sequence[str]] = {
    "daphne": ("-b", HOST, "-p", "{port}"),
    "uvicorn": ("--host", HOST, "--port", "{port}"),
    "hypercorn": ("--bind", f"{HOST}:{{port}}", "--workers", "1"),
    "granian": ("--interface", "asgi", "--host", HOST, "--port", "{port}", "--workers", "1"),
    "gunicorn": ("-k", "asgi", *_GUNICORN),
    "gunicorn-uvicorn": ("-k", "uvicorn_worker.UvicornWorker", *_GUNICORN),
}

#: The servers that serve in the process that was started. They start as forks of a template.
FORKED = ("daphne", "uvicorn")

#: The servers that the project supports, for ``pytest.mark.parametrize``.
SERVERS = tuple(_COMMANDS)


@dataclass(frozen=True)
class Stopped:
    """How a server ended: its exit status (negative: the signal), after how many seconds."""

    status: int
    seconds: float


class Server:
    """One of ``SERVERS``, serving an ASGI application on 127.0.0.1.

    ``with Server("daphne", directory=tmp_path, database=path) as server:`` starts it, waits until
    it accepts connections, and ends it in any case. ``stop()`` and ``start()`` restart it on the
    same port. ``port=0`` takes a free one. ``args`` go to the server's command line, ``env`` to
    its environment; the log of all its runs is in one file, read by ``log()``.

    What a ``measured`` server runs of the package counts as covered, if it starts as a fork. That
    takes 0.2 s of CPU for each process, so ask for it only where a test runs lines that no other does.
    """

    def __init__(
        self,
        name: str,
        application: str = "testproject.asgi:application",
        *,
        directory: Path,
        port: int = 0,
        database: Path | None = None,
        settings: str = "testproject.settings",
        args: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        measured: bool = False,
    ) -> None:
        self.name = name
        self._measured = measured
        self.port = port or free_port()
        self.log_file = directory / f"{name}-{self.port}.log"
        self._command = [sys.executable, "-m", name.partition("-")[0]]
        self._command += [part.format(port=self.port) for part in _COMMANDS[name]]
        self._command += [*args, application]
        self._env = _unmeasured(_environment(settings, database) | dict(env or {}))
        self._process: subprocess.Popen[bytes] | Forked | None = None

    @property
    def address(self) -> tuple[str, int]:
        """Host and port, as ``socket.create_connection()`` takes them."""
        return HOST, self.port

    @property
    def url(self) -> str:
        """The address of its root, without a slash at the end."""
        return f"http://{HOST}:{self.port}"

    @property
    def pid(self) -> int:
        """The process that was started (Hypercorn and Granian serve in a child of it)."""
        assert self._process is not None, "The server does not run."
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process lives."""
        return self._process is not None and self._process.poll() is None

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._process is not None:
            try:
                self.stop()
            finally:
                self._kill()

    def start(self) -> None:
        """Start the server and wait until it accepts connections; ``RuntimeError`` if it doesn't."""
        assert self._process is None, "The server runs already."
        with self.log_file.open("ab") as log:
            if type(self) is Server and self.name in FORKED:
                env = self._env | (_coverage() if self._measured else {})
                self._process = fork(self._command[2:], env, log.fileno())
            else:
                self._process = subprocess.Popen(
                    self._command,
                    cwd=ROOT,
                    env=self._env,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    # A group of its own, so that its children can be ended with it.
                    start_new_session=True,
                )
        deadline = time.monotonic() + START_SECONDS
        while self.running and time.monotonic() < deadline:
            if listens(self.port) and (type(self) is not Server or self._handles_signals()):
                return
            time.sleep(0.02)
        self._kill()
        raise RuntimeError(f"{self.name} did not start:\n{self.log()}")

    def stop(self, signal: int = signal.SIGTERM, timeout: float = STOP_SECONDS) -> Stopped:
        """Send ``signal`` and wait for the end; ``RuntimeError`` if it does not come in time."""
        process = self._process
        assert process is not None, "The server does not run."
        began = time.monotonic()
        process.send_signal(signal)
        try:
            status = process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._kill()
            raise RuntimeError(
                f"{self.name} did not end within {timeout} s:\n{self.log()}"
            ) from None
        stopped = Stopped(status, time.monotonic() - began)
        self._kill()
        return stopped

    def log(self) -> str:
        """Return what the server has written so far, to both of its outputs."""
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def faults(self) -> list[str]:
        """Return the lines of the log with one of ``FAULTS``."""
        return [line for line in self.log().splitlines() if any(f in line for f in FAULTS)]

    def threads(self) -> int:
        """Return how many threads the process has."""
        return len(os.listdir(f"/proc/{self.pid}/task"))  # noqa: PTH208 - of a process that lives

    def open_files(self, path: Path) -> int:
        """Return how many file descriptors the process has on ``path``."""
        count = 0
        for entry in Path(f"/proc/{self.pid}/fd").iterdir():
            try:
                count += entry.readlink() == path
            except OSError:  # Closed while we looked.
                continue
        return count

    def _handles_signals(self) -> bool:
        # Daphne listens a moment before it does, and SIGTERM would kill it in between.
        with suppress(OSError):
            status = Path(f"/proc/{self.pid}/status").read_text()
            caught = int(status.partition("SigCgt:")[2].split()[0], 16)
            return bool(caught >> signal.SIGTERM - 1 & 1)
        return False

    def _kill(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with suppress(ProcessLookupError):
            # Its own group: a child that survived it goes too.
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def free_port() -> int:
    """Return a free port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def listens(port: int) -> bool:
    """Return whether a server accepts connections on a port of 127.0.0.1."""
    with socket.socket() as client:
        client.settimeout(1)
        return client.connect_ex((HOST, port)) == 0


def make_database(path: Path, settings: str = "testproject.settings") -> Path:
    """Make a migrated SQLite database with the sample data (user ``demo``, password ``demo``)."""
    for command in (["migrate", "--verbosity", "0"], ["sampledata"]):
        done = subprocess.run(
            [sys.executable, "manage.py", *command],
            cwd=ROOT,
            env=_environment(settings, path),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"manage.py {command[0]} failed:\n{done.stdout}{done.stderr}")
    return path


def copy_database(source: Path, target: Path) -> Path:
    """Copy an SQLite database, with what is in its write-ahead log."""
    old, new = sqlite3.connect(source), sqlite3.connect(target)
    try:
        old.backup(new)
    finally:
        new.close()
        old.close()
    return target


def _coverage() -> dict[str, str]:
    return {name: it for name, it in os.environ.items() if name.startswith("COVERAGE_")}


def _unmeasured(env: Mapping[str, str]) -> dict[str, str]:
    # The memory and speed of servers is looked at. Coverage would also take 0.4 s for each start.
    return {name: it for name, it in env.items() if not name.startswith("COVERAGE_")}


def _environment(settings: str, database: Path | None) -> dict[str, str]:
    env = _unmeasured(os.environ)
    env["DJANGO_SETTINGS_MODULE"] = settings
    env["PYTHONUNBUFFERED"] = "1"
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), env.get("PYTHONPATH")]))
    if database is not None:
        env["DJANGO_SSE_DB"] = str(database)
    return env
