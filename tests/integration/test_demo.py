"""What ``make demo`` says in the terminal, and which processes it leaves behind."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from testproject.shop.processes import FAILURES, Processes
from tests.support.servers import FAULTS, HOST, ROOT, free_port

SECONDS = 40.0


class Terminal:
    """``manage.py demo`` as a person starts it, and what it has printed."""

    def __init__(self, database: Path, port: int, directory: Path = ROOT) -> None:
        self.output = database.with_suffix(f".{port}.txt")
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, str(ROOT / "manage.py"), "demo", "--port", str(port)],
                cwd=directory,
                env=os.environ | {"DJANGO_SSE_DB": str(database), "PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    @property
    def text(self) -> str:
        return self.output.read_text()

    def until(self, condition: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + SECONDS
        while not condition():
            assert time.monotonic() < deadline, f"{what}:\n{self.text}"
            time.sleep(0.05)

    def children(self) -> list[int]:
        """The processes that it has started, and that are ready to be told to end."""
        found = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return list(map(int, found.split()))


@contextmanager
def demo(database: Path, port: int, directory: Path = ROOT) -> Iterator[Terminal]:
    terminal = Terminal(database, port, directory)
    try:
        yield terminal
    finally:
        terminal.process.terminate()
        terminal.process.wait(SECONDS)
    assert [it for it in FAULTS if it in terminal.text] == [], terminal.text


def ask(port: int) -> bytes:
    with socket.create_connection((HOST, port), timeout=SECONDS) as client:
        client.sendall(b"GET /market/ HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        return client.recv(100).partition(b"\r\n")[0]


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_demo_says_where_it_is_and_ends_with_all_its_processes(tmp_path: Path) -> None:
    database, taken = tmp_path / "shop.sqlite3", free_port()
    # Another program has the port, and the command is called from another directory.
    with (
        socket.create_server((HOST, taken)),
        demo(database, taken, directory=tmp_path) as terminal,
    ):
        terminal.until(lambda: "To stop:" in terminal.text, "It does not start")
        said = re.search(rf"Port {taken} is taken, so this is port (\d+)\.", terminal.text)
        assert said is not None
        port = int(said[1])
        order = [f"http://127.0.0.1:{port}/\n", "Log in as:", "Try first:", "See also:", "To stop:"]
        places = [terminal.text.index(it) for it in order]
        assert places == sorted(places)
        assert ask(port) == b"HTTP/1.1 200 OK"

        # A second one would do each job twice.
        with demo(database, free_port()) as second:
            assert second.process.wait(SECONDS) == 1
            assert f"CommandError: The demo runs already: http://127.0.0.1:{port}/." in second.text

        workers = terminal.children()
        assert len(workers) == 3
        os.kill(workers[0], signal.SIGKILL)
        terminal.until(lambda: f"Worker {workers[0]} was ended by SIGKILL" in terminal.text, "Kill")
        terminal.until(lambda: len(set(terminal.children()) - {workers[0]}) == 3, "No new worker")
        assert ask(port) == b"HTTP/1.1 200 OK"

        processes = terminal.children()
        began = time.monotonic()
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.process.wait(SECONDS) == 0
        assert time.monotonic() - began < 5
        assert terminal.text.endswith("Stopped.\n")
        assert [pid for pid in processes if lives(pid)] == []


def test_demo_that_is_killed_leaves_no_processes(tmp_path: Path) -> None:
    port = free_port()
    with demo(tmp_path / "shop.sqlite3", port) as terminal:
        terminal.until(lambda: "To stop:" in terminal.text, "It does not start")
        terminal.until(lambda: len(terminal.children()) == 3, "No workers")
        assert ask(port) == b"HTTP/1.1 200 OK"
        processes = terminal.children()
        terminal.process.kill()
        terminal.until(lambda: not any(map(lives, processes)), "Processes are left")


def test_demo_says_what_is_wrong_with_its_database(tmp_path: Path) -> None:
    database = tmp_path / "shop.sqlite3"
    database.write_text("This is no database, but long enough to be one.")
    with demo(database, free_port()) as terminal:
        assert terminal.process.wait(SECONDS) == 1
    assert terminal.text.startswith(f"CommandError: The database {database} cannot be used: file ")


def test_demo_can_be_interrupted_while_it_starts(tmp_path: Path) -> None:
    with demo(tmp_path / "shop.sqlite3", free_port()) as terminal:
        terminal.until((tmp_path / "shop.sqlite3").exists, "It does not start")
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.process.wait(SECONDS) in (0, 130)


def test_processes_that_always_fail_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("testproject.shop.processes.PAUSE", 0.0)
    monkeypatch.setattr("testproject.shop.processes.signal.signal", lambda *args: None)
    told: list[str] = []
    assert not Processes([["no-such-command"]], []).run(told.append)
    assert len(told) == FAILURES
    assert "no-such-command" in told[0]
    assert "ended with status 1. A new one starts." in told[0]
