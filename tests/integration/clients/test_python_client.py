"""``django_sse.client`` reads streams of real servers, whatever happens to the connection."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from rest_framework import serializers

from django_sse.client import ReceivedEvent, StreamLost, StreamRefused, connect
from django_sse.events import EventDecoder
from django_sse.exceptions import EventTooLarge
from tests.project.journal import Journal
from tests.support.cutting import CuttingProxy
from tests.support.servers import Server, free_port

from .tricky import LAST, expected, normal

Read = Callable[..., list[ReceivedEvent]]


def read_async(url: str, until: str | None = None, **options: Any) -> list[ReceivedEvent]:
    async def read() -> list[ReceivedEvent]:
        found = []
        async for event in connect(url, **options):
            found.append(event)
            if event.event == until:
                break
        return found

    return asyncio.run(read())


def read_sync(url: str, until: str | None = None, **options: Any) -> list[ReceivedEvent]:
    found = []
    for event in connect(url, **options):
        found.append(event)
        if event.event == until:
            break
    return found


@pytest.fixture(params=[read_async, read_sync])
def read(request: pytest.FixtureRequest) -> Read:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("django_sse.client.FIRST_RETRY", 0.05)


def test_client_shows_all_events(server: tuple[Server, Journal], read: Read) -> None:
    found = read(f"{server[0].url}/tricky/", until="end")
    assert normal([[it.event, it.data, it.last_event_id] for it in found]) == expected()


def test_client_resumes_without_loss_and_ends_at_204(
    server: tuple[Server, Journal], read: Read
) -> None:
    restart = threading.Timer(1.5, lambda: (server[0].stop(), server[0].start()))
    with CuttingProxy(server[0].port, b"number 12, pad") as proxy:
        restart.start()
        found = read(f"{proxy.url}/numbers/?key={read.__name__}")
        restart.join()
        assert proxy.cuts == 1
    assert [int(it.last_event_id) for it in found] == list(range(1, LAST + 1))


def test_client_resumes_where_an_earlier_one_was(
    server: tuple[Server, Journal], read: Read
) -> None:
    found = read(f"{server[0].url}/numbers/", last_event_id=str(LAST - 2))
    assert [it.last_event_id for it in found] == [str(LAST - 1), str(LAST)]


def test_ids_are_sent_as_utf8(server: tuple[Server, Journal], read: Read) -> None:
    key = f"ids-{read.__name__}"
    url = f"{server[0].url}/scripted/?key={key}&script=ids,204"
    assert [it.last_event_id for it in read(url)] == ["é-🜁"]
    found = server[1].wait_for("connect", key=key, count=2)
    assert [it["last"] for it in found] == [None, "é-🜁"]


@dataclass
class Chunk:
    id: str
    object: str
    created: int
    model: str
    choices: list[Any]


class ChunkSerializer(serializers.Serializer[Any]):
    created = serializers.IntegerField()


@pytest.mark.parametrize(
    ("deserializer", "created"),
    [
        (Chunk, lambda it: it.created),
        (ChunkSerializer, lambda it: it["created"]),
        (lambda data: data["created"], lambda it: it),
    ],
)
def test_post_is_read_once_with_typed_events(
    server: tuple[Server, Journal], read: Read, deserializer: Any, created: Callable[[Any], int]
) -> None:
    body = {"model": "small", "messages": []}
    url = f"{server[0].url}/v1/chat/completions"

    found: list[ReceivedEvent] = []
    with pytest.raises(ValueError, match="Expecting value"):  # noqa: PT012 - `[DONE]` is no JSON
        for event in connect(url, method="POST", json=body, deserialize={None: deserializer}):
            found.append(event)  # noqa: PERF402 - what came before the error counts
    assert [created(it.object) for it in found] == [0, 1, 2]
    assert found[0].json()["model"] == "small"
    whole = read(url, method="POST", json=body)
    assert [it.data for it in whole][-1] == "[DONE]"
    assert len(whole) == 4


@pytest.mark.parametrize(("buffer", "ids"), [(2, ["10", "11"]), (None, [])])
def test_buffer_has_the_last_events_of_a_lost_stream(
    server: tuple[Server, Journal], read: Read, buffer: int | None, ids: list[str]
) -> None:
    with (
        CuttingProxy(server[0].port, b"number 12, pad") as proxy,
        pytest.raises(StreamLost, match="broke off") as lost,
    ):
        read(f"{proxy.url}/numbers/?key=buffer", reconnect=False, buffer=buffer)
    events = EventDecoder().feed(lost.value.buffer.encode())
    assert [it.id for it in events] == ids
    assert all(f"number {it.id}, pad" in str(it.data) for it in events)


def test_buffer_of_all_is_the_text_as_it_was_read(
    server: tuple[Server, Journal], read: Read
) -> None:
    with (
        CuttingProxy(server[0].port, b"number 12, pad") as proxy,
        pytest.raises(StreamLost) as lost,
    ):
        read(f"{proxy.url}/numbers/?key=all", reconnect=False, buffer="all")
    # The first bytes of a stream are a comment or a retry, and the last event is not complete.
    assert lost.value.buffer.startswith((":", "retry:"))
    assert lost.value.buffer.endswith("number 12, pad")
    ids = [it.id for it in EventDecoder().feed(lost.value.buffer.encode()) if it.data is not None]
    assert ids == [str(number) for number in range(1, 12)]


def test_buffer_goes_on_when_the_client_reconnects(server: tuple[Server, Journal]) -> None:
    with CuttingProxy(server[0].port, f"number {LAST}, pad".encode()) as proxy:
        stream = connect(f"{proxy.url}/numbers/", last_event_id=str(LAST - 3), buffer=2)
        seen = [[it.id for it in EventDecoder().feed(stream.buffer.encode())] for _ in stream]
    numbers = [str(LAST - 2), str(LAST - 1), str(LAST)]
    # While an event is handled, it is the last one of the buffer.
    assert seen == [numbers[:1], numbers[:2], numbers[1:]]
    assert proxy.cuts == 1


def test_error_of_a_deserializer_shows_the_buffer(
    server: tuple[Server, Journal], read: Read
) -> None:
    options: dict[str, Any] = {
        "method": "POST",
        "json": {"model": "small", "messages": []},
        "deserialize": {None: Chunk},
    }
    url = f"{server[0].url}/v1/chat/completions"
    with pytest.raises(ValueError, match="Expecting value") as failed:
        read(url, **options, buffer=2)
    [note] = failed.value.__notes__
    *_, before, last = EventDecoder().feed(note.partition("\n")[2].encode())
    assert '"created":2' in str(before.data)
    assert last.data == "[DONE]"
    with pytest.raises(ValueError, match="Expecting value") as failed:
        read(url, **options)
    assert not hasattr(failed.value, "__notes__")


@pytest.mark.parametrize("buffer", [0, -1, True, "some", 1.5])
def test_wrong_buffer_is_refused(buffer: Any) -> None:
    with pytest.raises(ValueError, match=r"buffer must be None, .*got"):
        connect("http://127.0.0.1/", buffer=buffer)


def test_refusals_are_final(server: tuple[Server, Journal], read: Read) -> None:
    with pytest.raises(StreamRefused, match="answers 404 with text/html") as refused:
        read(f"{server[0].url}/none/")
    assert refused.value.status == 404
    assert "<" in refused.value.body
    with pytest.raises(StreamRefused, match="answers 200 with text/html"):
        read(f"{server[0].url}/blank/")


def test_client_gives_up_after_so_many_attempts(server: tuple[Server, Journal], read: Read) -> None:
    with pytest.raises(StreamLost, match="2 attempts brought no event"):
        read(f"http://127.0.0.1:{free_port()}/", max_reconnection_attempts=2)
    script = f"{server[0].url}/scripted/?key=tries-{read.__name__}&script=502,502,502,502"
    with pytest.raises(StreamLost, match="answers 502"):
        read(script, max_reconnection_attempts=3)
    with pytest.raises(StreamLost, match="broke off"):
        read(f"http://127.0.0.1:{free_port()}/", method="POST")


def test_silence_and_size_are_bounded(server: tuple[Server, Journal], read: Read) -> None:
    with pytest.raises(EventTooLarge, match="max_event_bytes=100,000"):
        read(f"{server[0].url}/tricky/", until="end", max_event_bytes=100_000)
    with pytest.raises(StreamLost):
        read(
            f"{server[0].url}/scripted/?key=silent-{read.__name__}&script=stays",
            until="none",
            timeout=0.05,  # less than the heartbeat's period
            max_reconnection_attempts=0,
        )


def test_kind_of_client_is_checked() -> None:
    with pytest.raises(TypeError, match=r"needs an httpx\.AsyncClient"), httpx.Client() as client:
        read_async("http://127.0.0.1/", client=client)
    with pytest.raises(TypeError, match=r"needs an httpx\.AsyncClient"):
        read_sync("http://127.0.0.1/", client=httpx.AsyncClient())
