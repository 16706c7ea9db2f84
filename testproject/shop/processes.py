"""Start the processes of ``make demo``, replace each one that dies, and end them together."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

MANAGE = Path(__file__).resolve().parents[2] / "manage.py"
#: Seconds that processes have to end, between two checks of them, and before one is started again.
GRACE = 4.0
LOOK = 0.1
PAUSE = 0.5

#: How often a process may fail within how many seconds after a start.
FAILURES = 5
QUICK = 10.0


def end_with_parent() -> None:
    """End this process when its parent process has ended, for any reason."""

    def watch() -> None:
        # The parent never writes to this pipe, so the read returns only when the parent has ended.
        os.read(0, 1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


class Processes:
    """Commands of ``manage.py``, each in a process that is started again when it dies."""

    def __init__(self, commands: Sequence[Sequence[str]], fds: Sequence[int]) -> None:
        """Take the commands, and the open files that they inherit."""
        self._commands = commands
        self._fds = fds
        self._stopping = False

    def run(self, tell: Callable[[str], None]) -> bool:
        """Run all until SIGTERM or SIGINT, and report starts and ends by calling ``tell``.

        Returns ``False`` if it gave up because processes ended as soon as they were started.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        running = [self._start(it) for it in self._commands]
        began = time.monotonic()
        failures = 0  # in succession
        while not self._stopping and failures < FAILURES:
            time.sleep(LOOK)
            if time.monotonic() - began > QUICK:
                failures = 0
            for index, process in enumerate(running):
                if process.poll() is not None and not self._stopping:
                    tell(f"{_end(self._commands[index][0], process)} A new one starts.")
                    failures += process.returncode > 0
                    _close(process)
                    time.sleep(PAUSE)
                    running[index] = self._start(self._commands[index])
                    began = time.monotonic()
        for process in running:
            process.terminate()
        deadline = time.monotonic() + GRACE
        for process in running:
            try:
                process.wait(max(0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                tell(f"{process.pid} did not end within {GRACE:g} s, and is killed.")
                process.kill()
                process.wait()
            _close(process)
        return failures < FAILURES

    def _stop(self, *_: object) -> None:
        self._stopping = True

    def _start(self, command: Sequence[str]) -> subprocess.Popen[bytes]:
        # Ctrl+C sends SIGINT to all processes of the terminal's group. Start a new session, so that
        # only this process gets the signal, and ends the others in order.
        return subprocess.Popen(
            [sys.executable, MANAGE, *command],
            stdin=subprocess.PIPE,
            pass_fds=self._fds,
            start_new_session=True,
        )


def _close(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        process.stdin.close()


def _end(command: str, process: subprocess.Popen[bytes]) -> str:
    name = {"demo_worker": "Worker", "backstage": "Background process"}.get(command, command)
    if process.returncode < 0:
        return f"{name} {process.pid} was ended by {signal.Signals(-process.returncode).name}."
    return f"{name} {process.pid} ended with status {process.returncode}."
