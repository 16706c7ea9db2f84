"""``manage.py sse_tail``, on a broker in memory that is busy while it follows."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator
from functools import partial
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from django_sse.brokers import use_broker
from django_sse.brokers.base import EventId
from django_sse.brokers.memory import MemoryBroker, MemoryListener
from django_sse.wire.events import encode_head


class Busy(MemoryBroker):
    """Is busy with ``meanwhile`` as soon as somebody follows, and may say that events were lost."""

    lost: Callable[[Collection[str]], None]

    def __init__(self) -> None:
        super().__init__()
        self.meanwhile: list[Callable[[], Any]] = []

    def put(self, topics: str, text: str, event: str | None = None) -> str:
        return str(self.publish(list(topics), encode_head(text, event), timeout=1))

    def listen(self, deliver: Any, lost: Any) -> MemoryListener:
        self.lost = lost
        return super().listen(deliver, lost)

    def follow(self, listener: MemoryListener, topics: Collection[str]) -> EventId:
        newest = super().follow(listener, topics)
        for do in self.meanwhile:
            do()
        return newest


@pytest.fixture
def busy() -> Iterator[Busy]:
    broker = Busy()
    before = use_broker(broker)
    yield broker
    use_broker(before)


@pytest.fixture
def tail(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[str, str]]:
    """``tail("a", "--count", "2")`` returns what the command has written."""

    def tail(*args: str) -> tuple[str, str]:
        call_command("sse_tail", *args)
        written = capsys.readouterr()
        return written.out, written.err

    return tail


Tail = Callable[..., tuple[str, str]]


def test_tail_shows_what_came_since_and_what_comes(busy: Busy, tail: Tail) -> None:
    first = busy.put("a", "seen")
    second = busy.put("ab", "line 1\nline 2", "e")
    live: list[str] = []
    # The first of these is in the replay, and comes live as well.
    for text in ("live", "too late"):
        busy.meanwhile.append(lambda text=text: live.append(busy.put("b", text)))  # type: ignore[misc]
    written, warned = tail("a", "b", "--since", first, "--count", "2")
    assert (
        written == f"{second}  a, b  e\n    line 1\n    line 2\n{live[0]}  b  message\n    live\n"
    )
    assert "The MemoryBroker belongs to one process" in warned


def test_tail_lets_no_event_steer_the_terminal(busy: Busy, tail: Tail) -> None:
    began = str(busy.latest_id())
    busy.put("a", "\x1b]0;title\x07\t\x9b2Jü 👨\u200d👩\nnext", "\x1b[31m")
    written, _ = tail("a", "--since", began, "--count", "1")
    assert written.endswith(
        "  a  \\x1b[31m\n    \\x1b]0;title\\x07\t\\x9b2Jü 👨\u200d👩\n    next\n"
    )


@pytest.mark.parametrize("since", [True, False])
def test_tail_shows_each_event_once(busy: Busy, tail: Tail, since: bool) -> None:
    first = busy.put("a", "seen")
    busy.meanwhile += [partial(busy.put, "a", "one"), partial(busy.put, "a", "two")]
    # After the replay, which holds both already.
    listened = busy.replay

    def replay(*args: Any) -> Any:
        found = listened(*args)
        busy.put("a", "three")
        return found

    busy.replay = replay  # type: ignore[method-assign]
    args = ["--since", first, "--count", "3"] if since else ["--count", "2"]
    lines = [json.loads(line) for line in tail("a", "--json", *args)[0].splitlines()]
    assert [line["data"] for line in lines] == ["one", "two", "three"][: int(args[-1])]
    assert lines[0].keys() == {"id", "event", "data", "topics"}
    assert lines[0]["topics"] == ["a"]


def test_tail_ends_with_what_is_held_where_that_is_enough(busy: Busy, tail: Tail) -> None:
    began = str(busy.latest_id())
    for text in ("one", "two"):
        busy.put("a", text)
    written, _ = tail("a", "--since", began, "--count", "1")
    assert written.endswith("    one\n")


def test_tail_says_that_events_were_lost(busy: Busy, tail: Tail) -> None:
    busy.meanwhile += [lambda: busy.lost(["a"]), partial(busy.put, "a", "after it")]
    written, warned = tail("a", "--count", "1")
    assert warned.endswith("Events were lost: the broker does not hold them any more.\n")
    assert written.endswith("    after it\n")


@pytest.mark.parametrize(
    ("since", "message"),
    [
        ("yesterday", "--since takes an event's id, <milliseconds>-<sequence>, got 'yesterday'"),
        ("1-0", "The broker does not hold everything since 1-0: The id 1-0 was not given"),
    ],
)
def test_tail_refuses_ids_from_which_it_cannot_go_on(busy: Busy, since: str, message: str) -> None:
    with pytest.raises(CommandError, match=message):
        call_command("sse_tail", "a", "--since", since)
    assert busy._followers == {}
