"""Start Python programs as forks of a process that has imported what they need.

``python -m uvicorn …`` takes 0.8 s of CPU until it serves, nearly all of it for imports. A fork of
this module's process takes 0.15 s. It is a process of its own, with its own environment, and it ends
as any Python process does. What depends on settings is imported by the fork: the template has none.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Lock

ROOT = Path(__file__).resolve().parents[2]
#: The longest request, with the program's environment, in bytes.
LONGEST = 128 * 1024

#: What servers and projects import, and needs no settings. Importing `daphne.server` would make an
#: event loop, which no two processes may share.
MODULES = (
    "coverage",
    "autobahn.twisted.websocket",
    "django.contrib.messages.storage.fallback",
    "django.contrib.postgres.fields",
    "django.core.asgi",
    "django.core.management",
    "django.db.backends.sqlite3.base",
    "django.template.defaulttags",
    "django.template.loader_tags",
    "django.test",
    "django.views.debug",
    "inflection",
    "jinja2",
    "jsonschema",
    "markdown",
    "prometheus_client",
    "psycopg",
    "pygments.lexers",
    "redis.asyncio",
    "requests",
    "twisted.internet.asyncioreactor",
    "twisted.internet.endpoints",
    "twisted.web.http",
    "uritemplate",
    "uvicorn.main",
    "uvicorn.protocols.http.httptools_impl",
    "uvicorn.protocols.websockets.auto",
    "uvloop",
    "yaml",
)


_OF_FORKS = ("COVERAGE_", "DJANGO_SETTINGS_MODULE")


class Forked:
    """A fork, with what ``subprocess.Popen`` has of methods."""

    def __init__(self, events: socket.socket) -> None:
        self._events = events
        self._status: int | None = None
        self.pid = int(events.recv(64))

    def poll(self) -> int | None:
        """Return the exit status (negative: the signal), or None while the process lives."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self._status

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end and return the exit status; raise ``TimeoutExpired`` as Popen does."""
        if self._status is None:
            if not select.select([self._events], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("a fork", timeout or 0)
            # A template that is gone closes the socket, and nobody knows the status any more.
            self._status = int(self._events.recv(64) or -signal.SIGKILL)
            self._events.close()
        return self._status

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the process has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


class Template:
    """The process that forks. It ends with the process that has started it."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(theirs.fileno())],
                cwd=ROOT,
                # Each fork has settings of its own, and starts coverage by itself.
                env={name: it for name, it in env.items() if not name.startswith(_OF_FORKS)},
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        atexit.register(self.close)

    def start(self, arguments: Sequence[str], env: Mapping[str, str], output: int) -> Forked:
        """Run ``python -m`` with ``arguments``; ``output`` is a file descriptor for what it writes."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            request = json.dumps([[*arguments], dict(env)]).encode()
            assert len(request) < LONGEST, "The environment is too large."
            socket.send_fds(self._requests, [request], [theirs.fileno(), output])
        return Forked(ours)

    def close(self) -> None:
        """End the process; its forks go on."""
        self._requests.close()
        self._process.wait()


_lock = Lock()
_templates: list[Template] = []


def fork(arguments: Sequence[str], env: Mapping[str, str], output: int) -> Forked:
    """Run ``python -m`` with ``arguments`` as a fork of this process's template."""
    with _lock:
        if not _templates:
            _templates.append(Template(env))
    return _templates[0].start(arguments, env, output)


def _serve(requests: socket.socket) -> tuple[list[str], dict[str, str]] | None:
    """Fork for each request. Return in each program what it is to run, and None at the end."""
    # Keepers, which nobody waits for, leave no zombies.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        data, files, _, _ = socket.recv_fds(requests, LONGEST, 2)
        if not data:
            return None
        if not os.fork():
            _keep(*files)
            # The program has nothing that the template has open.
            requests.detach()
            os.closerange(3, 1024)
            arguments, env = json.loads(data)
            return arguments, env
        for file in files:
            os.close(file)


def _keep(events: int, output: int) -> None:
    """Fork the program, in which this returns; tell its process id, and how it ends.

    Programs are no children of one process: workers that are, and have the same command line, count
    as those of one server.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if pid := os.fork():
        teller = socket.socket(fileno=events)
        teller.send(str(pid).encode())
        _, status = os.waitpid(pid, 0)
        with contextlib.suppress(OSError):
            teller.send(str(os.waitstatus_to_exitcode(status)).encode())
        os._exit(0)
    os.setsid()
    os.dup2(output, 1)
    os.dup2(output, 2)


def main() -> None:
    """Import, then run what is asked for."""
    for name in MODULES:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    gc.collect()
    # Forks share the memory of what does not change.
    gc.freeze()
    if (program := _serve(socket.socket(fileno=int(sys.argv[1])))) is not None:
        arguments, env = program
        os.environ.clear()
        os.environ.update(env)
        time.tzset()
        path = filter(None, env.get("PYTHONPATH", "").split(os.pathsep))
        sys.path[1:1] = [it for it in path if it not in sys.path]
        sys.argv = list(arguments)
        if any(name.startswith("COVERAGE_") for name in env):
            importlib.import_module("coverage").process_startup(force=True)
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
