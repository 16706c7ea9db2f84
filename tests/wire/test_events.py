"""The wire format, against the standard: WHATWG HTML, 9.2 "Server-sent events"."""

from __future__ import annotations

import copy
import enum
import pickle
import re
from dataclasses import FrozenInstanceError, replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from django_sse.exceptions import InvalidEvent, SSEError
from django_sse.wire.events import EventDecoder, ServerSentEvent

MAX_RETRY = 2**63 - 1


class Color(enum.StrEnum):
    RED = "red"


class OldColor(str, enum.Enum):  # noqa: UP042 - formatted as "OldColor.RED"
    RED = "red"


def decode(*chunks: bytes) -> list[ServerSentEvent]:
    decoder = EventDecoder()
    return [event for chunk in chunks for event in decoder.feed(chunk)]


def dispatched(*chunks: bytes) -> list[tuple[str, str]]:
    """What a browser would dispatch: the type and data of each event."""
    return [(e.event or "message", e.data) for e in decode(*chunks) if e.data is not None]


# Encoding.


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        # Examples of the standard, 9.2.6.
        (ServerSentEvent("YHOO\n+2\n10"), b"data: YHOO\ndata: +2\ndata: 10\n\n"),
        (
            ServerSentEvent("first event", id="1", comments="test stream"),
            b"data: first event\nid: 1\n: test stream\n\n",
        ),
        (ServerSentEvent(""), b"data:\n\n"),
        (ServerSentEvent("\n"), b"data:\ndata:\n\n"),
        # Every field, and their order.
        (
            ServerSentEvent("d", "e", "i", 5, "c"),
            b"event: e\ndata: d\nid: i\nretry: 5\n: c\n\n",
        ),
        (ServerSentEvent(event="e"), b"event: e\n\n"),
        (ServerSentEvent(id="i"), b"id: i\n\n"),
        (ServerSentEvent(id=""), b"id:\n\n"),
        (ServerSentEvent(event=""), b"event:\n\n"),
        (ServerSentEvent(retry=0), b"retry: 0\n\n"),
        (ServerSentEvent(comments=""), b":\n\n"),
        (ServerSentEvent(comments="a\r\nb\rc\nd"), b": a\n: b\n: c\n: d\n\n"),
        # Line ends in data.
        (ServerSentEvent("a\nb\rc\r\nd"), b"data: a\ndata: b\ndata: c\ndata: d\n\n"),
        (ServerSentEvent("a\n\rb"), b"data: a\ndata:\ndata: b\n\n"),
        (ServerSentEvent("a\n"), b"data: a\ndata:\n\n"),
        (ServerSentEvent("\r"), b"data:\ndata:\n\n"),
        # No line ends: U+2028, U+2029, NEL, VT, FF, FS.
        (
            ServerSentEvent("a\u2028b\u2029c\x85d\x0be\x0cf\x1cg"),
            "data: a\u2028b\u2029c\x85d\x0be\x0cf\x1cg\n\n".encode(),
        ),
        # Everything else stays as it is.
        (ServerSentEvent("  two"), b"data:   two\n\n"),
        (ServerSentEvent(" "), b"data:  \n\n"),
        (ServerSentEvent("a\0b"), b"data: a\0b\n\n"),
        (ServerSentEvent("\ufeffa"), b"data: \xef\xbb\xbfa\n\n"),
        (ServerSentEvent("😀", "é", "日本"), "event: é\ndata: 😀\nid: 日本\n\n".encode()),
        (ServerSentEvent(":data: x"), b"data: :data: x\n\n"),
        (ServerSentEvent(Color.RED, Color.RED), b"event: red\ndata: red\n\n"),
        (
            ServerSentEvent(OldColor.RED, OldColor.RED, OldColor.RED, None, OldColor.RED),
            b"event: red\ndata: red\nid: red\n: red\n\n",
        ),
        # Waiting times.
        (ServerSentEvent(retry=MAX_RETRY), b"retry: 9223372036854775807\n\n"),
        (ServerSentEvent(retry=timedelta(seconds=1.5)), b"retry: 1500\n\n"),
        (ServerSentEvent(retry=timedelta()), b"retry: 0\n\n"),
    ],
)
def test_encode_writes_what_the_standard_says(event: ServerSentEvent, expected: bytes) -> None:
    assert event.encode() == expected
    assert decode(expected) == [normal(event)]


@pytest.mark.parametrize(
    ("fields", "field", "message"),
    [
        ({}, "data", "at least one of data, event, id, retry and comments"),
        ({"event": "a\nb"}, "event", "line end"),
        ({"event": "a\r"}, "event", "line end"),
        ({"event": "x\ndata: injected\n\n"}, "event", "line end"),
        ({"id": "\n"}, "id", "line end"),
        ({"id": "1\r\nretry: 0"}, "id", "line end"),
        ({"id": "a\0b"}, "id", "NUL"),
        ({"id": 7}, "id", r"must be a str, got 7\. Convert it first: id=str\(…\)"),
        ({"event": b"x"}, "event", "must be a str"),
        ({"comments": 1}, "comments", "must be a str"),
        ({"data": "a\ud800"}, "data", "lone surrogate at position 1"),
        ({"event": "\udfff"}, "event", "lone surrogate at position 0"),
        ({"id": "\ud83d"}, "id", "lone surrogate"),
        ({"comments": "é\udc80"}, "comments", "lone surrogate"),
        ({"retry": True}, "retry", "whole number of milliseconds"),
        ({"retry": False}, "retry", "whole number"),
        ({"retry": 1.0}, "retry", "got 1.0"),
        ({"retry": "5"}, "retry", "got '5'"),
        ({"retry": -1}, "retry", "got -1"),
        ({"retry": MAX_RETRY + 1}, "retry", "whole number"),
        ({"retry": timedelta(milliseconds=-1)}, "retry", "whole number"),
        ({"retry": timedelta(microseconds=1500)}, "retry", "got datetime.timedelta"),
    ],
)
def test_event_that_cannot_be_sent_is_refused_when_made(
    fields: dict[str, object], field: str, message: str
) -> None:
    with pytest.raises(InvalidEvent, match=message) as caught:
        ServerSentEvent(**fields)  # type: ignore[arg-type]
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, SSEError)
    assert caught.value.field == field
    assert caught.value.value == fields.get(field)


def test_event_with_an_object_is_not_encoded() -> None:
    event = ServerSentEvent({"a": 1}, id="1")
    with pytest.raises(InvalidEvent, match=r"data is a dict.*view\.serialize\(object\)") as caught:
        event.encode()
    assert caught.value.value == {"a": 1}


def test_event_is_an_immutable_value() -> None:
    event = ServerSentEvent("d", "e", "i", timedelta(seconds=1), "c")
    assert event.retry == 1000
    assert event == ServerSentEvent("d", "e", "i", 1000, "c")
    assert hash(event) == hash(ServerSentEvent("d", "e", "i", 1000, "c"))
    assert pickle.loads(pickle.dumps(event)) == copy.deepcopy(event) == event
    assert replace(event, id="2") == ServerSentEvent("d", "e", "2", 1000, "c")
    with pytest.raises(InvalidEvent):
        replace(event, id="a\nb")
    with pytest.raises(FrozenInstanceError):
        event.data = "other"  # type: ignore[misc]


# Decoding.


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        # The examples of the standard, 9.2.6.
        (b"data: YHOO\ndata: +2\ndata: 10\n\n", [("message", "YHOO\n+2\n10")]),
        (
            b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n",
            [("message", "first event"), ("message", "second event"), ("message", " third event")],
        ),
        (b"data\n\ndata\ndata\n\ndata:", [("message", ""), ("message", "\n")]),
        (b"data:test\n\ndata: test\n\n", [("message", "test"), ("message", "test")]),
        (
            b"event: add\ndata: 73857293\n\nevent: remove\ndata: 2153\n\n",
            [("add", "73857293"), ("remove", "2153")],
        ),
        # Line ends.
        (b"data: a\r\rdata: b\r\n\r\ndata: c\n\r", [("message", x) for x in "abc"]),
        (b"data: a\r\ndata: b\rdata: c\n\n", [("message", "a\nb\nc")]),
        ("data: a\u2028data: b\x0bc\n\n".encode(), [("message", "a\u2028data: b\x0bc")]),
        # A byte order mark: one, at the start.
        (b"\xef\xbb\xbfdata: a\n\n", [("message", "a")]),
        (b"\xef\xbb\xbf\xef\xbb\xbfdata: a\n\n", []),
        (b"data: a\n\n\xef\xbb\xbfdata: b\n\n", [("message", "a")]),
        # Fields that are none.
        (b"Data: a\n data: b\ndata : c\nfoo: d\nfoo\n\n", []),
        (b"event: x\n\ndata: a\n\n", [("message", "a")]),
        (b"event: x\nevent\ndata: a\n\n", [("message", "a")]),
        (b"data: a\n", []),
        # What is no UTF-8.
        (b"data: \xff\xc3\xed\xa0\x80\n\n", [("message", "\ufffd" * 5)]),
        (b"data: a\0b\n\n", [("message", "a\0b")]),
    ],
)
def test_decoder_dispatches_what_the_standard_says(
    stream: bytes, expected: list[tuple[str, str]]
) -> None:
    assert dispatched(stream) == expected
    assert dispatched(*(stream[i : i + 1] for i in range(len(stream)))) == expected
    assert [(t, d) for t, d, _ in reference(stream)[0]] == expected


@pytest.mark.parametrize(
    ("stream", "last_event_id"),
    [
        (b"id: 1\n\n", "1"),
        (b"id: 1\n", ""),
        (b"id: 1\ndata: a\n\ndata: b\n\n", "1"),
        (b"id: 1\n\nid\n\n", ""),
        (b"id: 1\n\nid:\n\n", ""),
        (b"id: 1\n\nid: a\0b\n\n", "1"),
        (b"id:  1\n\n", " 1"),
        (b"id: 1\nid: 2\n\n", "2"),
        ("id: é日\n\n".encode(), "é日"),
    ],
)
def test_decoder_remembers_the_last_event_id(stream: bytes, last_event_id: str) -> None:
    decoder = EventDecoder()
    decoder.feed(stream)
    assert decoder.last_event_id == last_event_id == reference(stream)[1]


@pytest.mark.parametrize(
    ("stream", "retry"),
    [
        (b"retry: 10\n", 10),
        (b"retry:10\n\nretry: 20\n\n", 20),
        (b"retry: 10\n\nretry: x\n\n", 10),
        (b"retry: 10\nretry\n\n", 10),
        (b"retry: -1\nretry: +1\nretry: 1.5\nretry: 1e3\nretry:  1\nretry: 1 \n\n", None),
        ("retry: ١\nretry: ²\n\n".encode(), None),
        (b"retry: 0\n\n", 0),
        (b"retry: " + b"0" * 50 + b"7\n\n", 7),
        (b"retry: " + b"9" * 5000 + b"\n\n", MAX_RETRY),
        (b"retry: 10", None),
    ],
)
def test_decoder_takes_retry_only_of_ascii_digits(stream: bytes, retry: int | None) -> None:
    decoder = EventDecoder()
    decoder.feed(stream)
    assert decoder.retry == retry


def test_decoder_returns_blocks_that_are_not_dispatched() -> None:
    stream = b": hello\n:\n\nid: 7\n\nretry: 5\n\nevent: x\n\n\n\nfoo\n\ndata: a\n"
    assert decode(stream) == [
        ServerSentEvent(comments="hello\n"),
        ServerSentEvent(id="7"),
        ServerSentEvent(retry=5),
        ServerSentEvent(event="x"),
    ]


@pytest.mark.parametrize(
    "chunks",
    [
        [b"data: a\r", b"\ndata: b\r\n", b"\r\n"],
        [b"data: a\r", b"", b"\n", b"data: b\r", b"\r"],
        [b"data: a\r\ndata: b", b"\r", b"\n\r", b"\n"],
    ],
)
def test_decoder_takes_a_line_end_cut_in_two_for_one(chunks: list[bytes]) -> None:
    assert decode(*chunks) == [ServerSentEvent("a\nb")]


# Both, for whatever hypothesis finds.

# What the format gives a meaning to, more often than chance would have it.
awkward = st.text(
    st.sampled_from("\r\n: \0\ufeff\u2028\x0b\x0c\x85é😀a") | st.characters(codec="utf-8")
)
names = awkward.filter(lambda text: not re.search("[\r\n]", text))
events = st.builds(
    ServerSentEvent,
    data=st.none() | awkward,
    event=st.none() | names,
    id=st.none() | names.filter(lambda text: "\0" not in text),
    retry=st.none() | st.integers(0, MAX_RETRY),
    # One field at least.
    comments=awkward,
) | st.builds(ServerSentEvent, data=awkward)


@st.composite
def chunked(draw: st.DrawFn, streams: st.SearchStrategy[bytes]) -> list[bytes]:
    stream = draw(streams)
    cuts = sorted(draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    return [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]


def normal(event: ServerSentEvent) -> ServerSentEvent:
    data = None if event.data is None else re.sub("\r\n?", "\n", event.data)
    comments = None if event.comments is None else re.sub("\r\n?", "\n", event.comments)
    return replace(event, data=data, comments=comments)


@given(st.data(), st.lists(events, max_size=4))
def test_what_is_accepted_decodes_to_itself_in_any_chunks(
    data: st.DataObject, sent: list[ServerSentEvent]
) -> None:
    stream = b"".join(event.encode() for event in sent)
    assert decode(*data.draw(chunked(st.just(stream)))) == [normal(event) for event in sent]
    # An independent reader agrees: nothing was injected, nothing lost.
    expected = [(e.event or "message", e.data) for e in map(normal, sent) if e.data is not None]
    assert [(type, text) for type, text, _ in reference(stream)[0]] == expected


@given(st.text(st.characters()), st.text(st.characters()), st.text(st.characters()))
def test_hostile_text_is_refused_or_stays_in_its_field(data: str, event: str, id: str) -> None:
    try:
        sent = ServerSentEvent(data, event, id)
    except InvalidEvent as error:
        hostile = {"data": "[\ud800-\udfff]", "event": "[\r\n\ud800-\udfff]"}
        assert re.search(hostile.get(error.field, "[\r\n\0\ud800-\udfff]"), str(error.value))  # noqa: PT017
    else:
        assert decode(sent.encode()) == [normal(sent)]


lines = st.sampled_from(
    [
        "data",
        "data:",
        "data: x",
        "data:  y",
        ":c",
        ":",
        "event: e",
        "event",
        "id: 1",
        "id",
        "id: a\x00",
        "retry: 5",
        "retry: x",
        "data: é😀",
        "\ufeff",
        "foo: x",
        " data: x",
        "datax",
        "data: \u2028",
    ]
).map(str.encode) | st.binary(max_size=4)
ends = st.sampled_from([b"\n", b"\r", b"\r\n", b"\n\n", b"\r\r", b"\r\n\r\n", b"\n\r", b""])
streams = st.lists(st.tuples(lines, ends).map(b"".join)).map(b"".join) | st.binary()


@given(chunked(streams))
def test_decoder_agrees_with_the_standard_on_any_bytes(chunks: list[bytes]) -> None:
    decoder = EventDecoder()
    blocks = [event for chunk in chunks for event in decoder.feed(chunk)]
    last, got = "", []
    for block in blocks:
        last = last if block.id is None else block.id
        if block.data is not None:
            got.append((block.event or "message", block.data, last))
    assert (got, decoder.last_event_id, decoder.retry) == reference(b"".join(chunks))


def reference(stream: bytes) -> tuple[list[tuple[str, str, str]], str, int | None]:
    """Read a whole stream by the letter of the standard, 9.2.5 and 9.2.6; share nothing."""
    text = stream.decode("utf-8", errors="replace")
    if text[:1] == "\ufeff":
        text = text[1:]
    found: list[tuple[str, str, str]] = []
    data, type, id_buffer, last_id, retry = "", "", "", "", None
    for match in re.finditer("([^\r\n]*)(?:\r\n|\r|\n)", text):
        line = match[1]
        if line == "":
            last_id = id_buffer
            if data:
                found.append((type or "message", data[:-1], last_id))
            data = type = ""
            continue
        if line[0] == ":":
            continue
        field, value = line, ""
        if ":" in line:
            field, value = line[: line.index(":")], line[line.index(":") + 1 :]
            if value[:1] == " ":
                value = value[1:]
        if field == "event":
            type = value
        elif field == "data":
            data += value + "\n"
        elif field == "id":
            if "\0" not in value:
                id_buffer = value
        elif field == "retry" and re.fullmatch("[0-9]+", value):
            retry = min(int(value), MAX_RETRY)
    return found, last_id, retry
