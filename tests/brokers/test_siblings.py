"""Other workers beside this one, where events are kept in memory."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from django_sse.brokers import siblings
from django_sse.brokers.memory import MemoryBroker

#: Starts as many children as its argument says, waits for a line, and prints what each of them sees.
PARENT = """
import os, subprocess, sys
child = "import sys; sys.path.insert(0, sys.argv[1])\\nfrom django_sse.brokers.siblings import siblings\\n"
child += "sys.stdin.readline(); print(len(siblings()), flush=True); sys.stdin.readline()"
pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
arguments = [sys.executable, "-c", child, sys.argv[1]]
children = [subprocess.Popen(arguments, **pipes) for _ in range(int(sys.argv[2]))]
other = subprocess.Popen([*arguments, "other"], **pipes)
elsewhere = subprocess.Popen(arguments, cwd="/", **pipes)
for child in children:
    child.stdin.write(b"\\n"); child.stdin.flush()
print(*[int(child.stdout.readline()) for child in children])
for child in (*children, other, elsewhere):
    child.communicate(b"\\n\\n")
"""


@pytest.mark.parametrize(("children", "seen"), [(1, "0"), (3, "2 2 2")])
def test_siblings_are_what_the_same_parent_has_started_alike(children: int, seen: str) -> None:
    root = str(Path(__file__).parents[2])
    command = [sys.executable, "-c", PARENT, root, str(children)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == seen


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> list[set[int]]:
    """What is seen at each look, the last one again and again."""
    looks: list[set[int]] = [set()]
    monkeypatch.setattr(siblings, "LOOKS", (0.01, 0.01))
    monkeypatch.setattr(siblings, "_looked_in", set())
    monkeypatch.setattr(siblings, "siblings", lambda: looks.pop(0) if len(looks) > 1 else looks[0])
    return looks


@pytest.mark.parametrize(
    ("looks", "processes"),
    [
        ([set()], 0),
        ([{7, 8}], 3),
        # One that was replaced has gone meanwhile, and another one come.
        ([{7}, {8}], 0),
        ([{7, 8}, {8}], 2),
    ],
)
async def test_workers_that_stay_are_warned_of_once(
    quick: list[set[int]], caplog: pytest.LogCaptureFixture, looks: list[set[int]], processes: int
) -> None:
    quick[:] = looks
    listener = MemoryBroker().listen(lambda message: None, lambda topics: None)
    with caplog.at_level(logging.WARNING, "django_sse"):
        for topic in ("a", "b"):
            await listener.subscribe([topic])
        await asyncio.sleep(0.1)
    await listener.close()
    said = [record.getMessage() for record in caplog.records]
    assert [text.split(" processes")[0] for text in said] == [str(processes)] * bool(processes)


async def test_streams_without_topics_need_no_look(
    quick: list[set[int]], caplog: pytest.LogCaptureFixture
) -> None:
    quick[:] = [{7}]
    listener = MemoryBroker().listen(lambda message: None, lambda topics: None)
    await listener.subscribe(["\x1fcontrol"])
    await asyncio.sleep(0.1)
    await listener.close()
    assert caplog.records == []


def test_process_that_has_ended_or_is_hidden_is_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "7").mkdir()
    monkeypatch.setattr(siblings, "_PROCESSES", tmp_path)
    assert siblings.siblings() == set()
    assert siblings._parent(7) is None
    (tmp_path / "7" / "stat").write_bytes(b"7 (a) b) Z 1 7")
    assert siblings._parent(7) is None
    (tmp_path / "7" / "stat").write_bytes(b"7 (a) b) S 12 7")
    assert siblings._parent(7) == 12
