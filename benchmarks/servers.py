"""Starts the server processes, each on the servers' core, and ends them by their process id."""

from __future__ import annotations

import json
import os
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from . import machine
from .clients import answer, begin

ROOT = Path(__file__).resolve().parent.parent
START_SECONDS = 60


class Server:
    """A server process that is being measured."""

    def __init__(self, process: subprocess.Popen[str], port: int, *, secure: bool = False) -> None:
        self.process = process
        self._secure = secure
        self.pid = process.pid
        self.port = port

    def cpu(self) -> float:
        """Return the processor time used so far, in seconds; that of a worker included."""
        return sum(machine.cpu_seconds(pid) for pid in (self.pid, *machine.children(self.pid)))

    def memory(self) -> tuple[int, int]:
        """Return private and resident memory, in kB; a worker's, where there is one."""
        worker = (machine.children(self.pid) or [self.pid])[-1]
        return machine.memory_kb(worker)

    def get(self, path: str, timeout: float = 120, **headers: str) -> str:
        """Fetch a page of the server and return its body."""
        return answer(begin(self.port, path, headers, timeout, secure=self._secure))

    def begin(self, path: str, timeout: float = 120) -> Any:
        """Ask for a page that ``end()`` fetches later."""
        return begin(self.port, path, {}, timeout, secure=self._secure)

    def end(self, begun: Any) -> None:
        """Wait for the answer to ``begin()``."""
        answer(begun)

    def ask(self, path: str, timeout: float = 120) -> Any:
        """Fetch a page of the server and return its JSON."""
        return json.loads(self.get(path, timeout))


@contextmanager
def server(kind: str, application: str, **environment: str) -> Iterator[Server]:
    """Run ``application`` (``module:name``) on a server, and then end it."""
    command = [sys.executable, "-m", "benchmarks.serve", kind, application]
    process = subprocess.Popen(
        [*command, str(machine.cores()[0])],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        running = Server(process, _port(process), secure="BENCHMARK_TLS" in environment)
        wait_for_port(running.port)  # Granian says it a moment before.
        running.get("/warm-up/")
        yield running
    finally:
        stop(process)


def stop(process: subprocess.Popen[str]) -> None:
    """End a process: politely, then not."""
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()


def wait_for_port(port: int, seconds: float = 10) -> None:
    """Return when the port accepts connections."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return


def _port(process: subprocess.Popen[str]) -> int:
    assert process.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        said = selector.select(START_SECONDS) and process.stdout.readline().strip()
    if not said:
        raise RuntimeError(f"{process.args!r} did not start within {START_SECONDS} seconds.")
    return int(said)
