"""The processes of ``make demo``: started, started again when one dies, and ended together."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence

MANAGE = "manage.py"
#: Seconds that processes have to end, between two looks at them, and before one is started again.
GRACE = 4.0
LOOK = 0.1
PAUSE = 0.5


def end_with_parent() -> None:
    """End this process when the one that has started it is gone, however that ended."""

    def watch() -> None:
        os.read(0, 1)  # The parent holds the other end of this pipe, and never writes.
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


class Processes:
    """Commands of ``manage.py``, each in a process that is started again when it dies."""

    def __init__(self, commands: Sequence[Sequence[str]], fds: Sequence[int]) -> None:
        """Take the commands, and the open files that they inherit."""
        self._commands = commands
        self._fds = fds
        self._stopping = False

    def run(self, tell: Callable[[str], None]) -> None:
        """Run all until SIGTERM or SIGINT; ``tell`` is called with what happens."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        running = [self._start(it) for it in self._commands]
        while not self._stopping:
            time.sleep(LOOK)
            for index, process in enumerate(running):
                if process.poll() is not None and not self._stopping:
                    name = self._commands[index][0]
                    tell(
                        f"{name} {process.pid} ended ({process.returncode}): another one is started."
                    )
                    time.sleep(PAUSE)
                    running[index] = self._start(self._commands[index])
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

    def _stop(self, *_: object) -> None:
        self._stopping = True

    def _start(self, command: Sequence[str]) -> subprocess.Popen[bytes]:
        # Ctrl+C goes to all processes of a terminal's group: only this one is to hear it.
        return subprocess.Popen(
            [sys.executable, MANAGE, *command],
            stdin=subprocess.PIPE,
            pass_fds=self._fds,
            start_new_session=True,
        )
