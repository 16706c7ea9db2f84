"""Topics and ids that are not the client's own, and messages that nobody should be able to send."""

from __future__ import annotations

import json
from urllib.parse import quote, unquote

import pytest

from .project.settings import MAX_EVENT_BYTES
from .target import Attacker, Target

IDS = {
    "future": "99999999999999-0",
    "beyond every number": "9" * 20 + "-" + "9" * 20,
    "longer than that": "9" * 5000 + "-0",
    "negative": "-1--1",
    "negative sequence": "1-" + "-1",
    "zero": "0-0",
    "before the data": "1-1",
    "float": "1.5-0",
    "exponent": "1e99-0",
    "hex": "0x10-0",
    "other digits": "١-٠",
    "underscores": "1_0-0",
    "text": "latest",
    "dollar": "$",
    "plus": "+",
    "range": "(1-1",
    "long": "x" * 6000,
    "non-ASCII": "grüße 😀",
    "line ends": "1-1%0d%0adata: forged%0a%0a",
}


def until_ready(client: Attacker) -> bytes:
    """Read up to the id that says that the stream is live."""
    body = b""
    while b"id: " not in body:
        piece = client.piece()
        assert piece, body
        body += piece
    return body


@pytest.mark.parametrize("way", ["header", "query"])
@pytest.mark.parametrize("case", IDS)
def test_an_id_that_cannot_be_resumed_from_is_a_reset_and_nothing_more(
    target: Target, case: str, way: str
) -> None:
    given = IDS[case]
    target.publish("other", "secret")
    path, headers = "/topics/mine/", {"Last-Event-ID": given}
    if way == "query":
        path, headers = f"/topics/mine/?last_event_id={quote(given, safe='%')}", {}
    with target.open(path, headers) as client:
        assert client.status == 200
        body = until_ready(client)
        assert body.startswith(b":\n\nevent: reset\ndata: {}\n\n"), body
        assert b"secret" not in body
        assert b"forged" not in body
        target.publish("mine", "next")
        assert client.event().data == "next"


@pytest.mark.parametrize("given", ["%00", "%0A", "%0D%0A", "%FF%FE"])
def test_control_characters_in_the_querys_id_are_a_reset(target: Target, given: str) -> None:
    with target.open(f"/topics/mine/?last_event_id=1-1{given}") as client:
        assert client.event().event == "reset"


def test_an_id_of_another_topic_brings_none_of_its_events(target: Target) -> None:
    first = target.publish("others", "secret 1")
    target.publish("others", "secret 2")
    with target.open("/topics/my-own/", {"Last-Event-ID": first}) as client:
        target.publish("others", "secret 3")
        target.publish("my-own", "mine")
        assert client.event().data == "mine"


@pytest.mark.parametrize(
    "topic", ["*", "oth*", "[o]thers", "%3Fthers", "others:", "oth", "others%20"]
)
def test_a_topic_is_no_pattern(target: Target, topic: str) -> None:
    with target.open(f"/topics/{topic}/") as client:
        until_ready(client)
        target.publish("others", "secret")
        target.publish(unquote(topic), "mine")
        assert client.event().data == "mine"


@pytest.mark.parametrize("topic", ["\x1fcontrol", "\x1freply:x", "a\nb", "a\x00b", "", "x" * 201])
def test_nothing_is_published_to_topics_of_the_machinery(target: Target, topic: str) -> None:
    assert target.get("/publish/", topic=topic, data='{"close": {}}')[0] == 400


ORDERS = {
    "nothing": b"",
    "no json": b"data: not json\n",
    "no data": b": comment\n",
    "null": b"data: null\n",
    "number": b"data: 5\n",
    "list": b'data: ["close"]\n',
    "text": b'data: "close"\n',
    "bytes": b"data: \xff\xfe\x00\n",
    "two events": b"data: {}\n\ndata: {}\n",
    "deep": b"data: " + b"[" * 3000 + b"\n",
    "close of nothing": b'data: {"close": null}\n',
    "close of a list": b'data: {"close": ["user"]}\n',
    "report to nobody": b'data: {"report": null}\n',
    "report to a topic": b'data: {"report": "mine", "streams": true}\n',
    "report to the control": b'data: {"report": "\\u001fcontrol"}\n',
    "report to a list": b'data: {"report": ["mine"]}\n',
    "unknown": b'data: {"explode": true}\n',
}


@pytest.mark.parametrize("case", ORDERS)
def test_unreadable_orders_are_left_out(target: Target, case: str) -> None:
    with target.open("/topics/mine/") as client:
        until_ready(client)
        status, _ = target.get("/order/", head=ORDERS[case].hex())
        assert status == 200
        target.publish("mine", "still here")
        assert client.event().data == "still here"


MESSAGES = [
    {"type": "http.disconnect"},
    {"type": "http.request", "body": "x", "more_body": False},
    {"type": "close"},
    {"type": "end", "reason": "error"},
    {"type": "send"},
    {"type": "stream"},
    {"type": "revoke"},
    {"type": "disconnect"},
    {"type": "dispatch"},
    {"type": "_secret"},
    {"type": ".secret"},
    {"type": "plain"},
    {"type": "__init__"},
    {"type": "__class__"},
    {"type": "on.message"},
    {"type": ""},
    {"type": None},
    {"type": 5},
    {"type": ["chat.said"]},
    {"type": {"a": 1}},
    {"type": "x" * 10_000},
    {"type": "line\nforged line of the log"},
    {},
]


def test_spoofed_messages_reach_handlers_of_the_view_only(target: Target) -> None:
    with target.open("/chat/") as client:
        assert client.event().data == "joined"
        for message in MESSAGES:
            assert target.get("/tell-group/", message=json.dumps(message))[0] == 200
        message = {"type": "chat.said", "text": "a\nevent: forged\n\rid: 1\n\n"}
        assert target.get("/tell-group/", message=json.dumps(message))[0] == 200
        said = client.event()
        assert (said.event, said.id) == ("said", None)
        assert said.data == "a\nevent: forged\n\nid: 1\n\n"
    assert not [line for line in target.server.log().splitlines() if line.startswith("forged")]


@pytest.mark.parametrize(
    "data",
    ["a\n\nevent: forged\ndata: b", "a\r\rid: 9-9", "a\r\n\r\nretry: 1", "\ufeffdata: x", "\u2028"],
)
def test_published_data_forges_no_fields(target: Target, data: str) -> None:
    with target.open("/topics/mine/") as client:
        until_ready(client)
        event_id = target.publish("mine", data)
        event = client.event()
        assert (event.event, event.id, event.retry) == (None, event_id, None)
        assert event.data == data.replace("\r\n", "\n").replace("\r", "\n")


def test_oversized_events_are_refused_and_others_arrive(target: Target) -> None:
    with target.open("/topics/mine/") as client:
        until_ready(client)
        assert target.get("/publish/", topic="mine", size=MAX_EVENT_BYTES)[0] == 413
        target.publish("mine", size=MAX_EVENT_BYTES - 100)
        assert client.event().data == "x" * (MAX_EVENT_BYTES - 100)


def test_who_leaves_in_the_middle_takes_nothing_from_those_behind(target: Target) -> None:
    request = b"GET /topics/shared/ HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    with target.client() as first:
        # Uvicorn tells only the second one that their client left.
        first.raw(request * 2)
        first.read_head()
        target.publish("shared", "warm-up")
        assert first.event().data == "warm-up"
        with target.open("/topics/shared/") as second:
            until_ready(second)
            first.reset()
            for number in range(20):
                target.publish("shared", str(number))
            assert [second.event().data for _ in range(20)] == [str(n) for n in range(20)]
