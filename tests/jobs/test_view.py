"""Jobs that outlive their connection, in the test's own event loop."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import AnonymousUser, User
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings
from django.utils.functional import SimpleLazyObject
from rest_framework import serializers
from rest_framework.exceptions import PermissionDenied

from django_sse import (
    Job,
    JobView,
    PublishFailed,
    ServerSentEvent,
    SSEView,
    StreamFinished,
    sse_path,
)
from django_sse.asgi import get_asgi_application
from django_sse.brokers import use_broker
from django_sse.brokers.base import Broker, EventId
from django_sse.brokers.memory import MemoryBroker
from django_sse.jobs.background import background
from django_sse.testing import StreamClient, connect
from tests.support.redis_server import RedisServer
from tests.support.waiting import eventually

pytestmark = pytest.mark.usefixtures("broker")

OWN_KEY = "0123456789abcdef-own"


class PromptSerializer(serializers.Serializer[Any]):
    prompt = serializers.CharField(max_length=100)


class Words(JobView):
    """Sends the words of a prompt, each when the test lets it."""

    serializer_class = PromptSerializer
    gate = asyncio.Semaphore(0)

    async def work(self) -> AsyncIterator[ServerSentEvent]:
        for word in self.data["prompt"].split():
            await type(self).gate.acquire()
            yield ServerSentEvent(word, event="word")


@pytest.fixture(autouse=True)
async def gate() -> asyncio.Semaphore:
    """Lets ``Words`` send a word for each ``release()``."""
    Words.gate = asyncio.Semaphore(0)
    return Words.gate


def ask(prompt: str = "to be or not", view: Any = Words, **options: Any) -> Any:
    return connect(view, "/", method="POST", json={"prompt": prompt}, **options)


def read(job: str, view: Any = Words, seen: str | None = None, **options: Any) -> Any:
    headers = {} if seen is None else {"Last-Event-ID": seen}
    return connect(view, f"/?job={job}", headers=headers, **options)


async def rest(stream: StreamClient) -> list[tuple[str | None, Any]]:
    """The events up to the end of the response."""
    await stream.read()
    return [(it.event, it.data) for it in stream.blocks if it.data is not None]


async def job_id(stream: StreamClient) -> str:
    event = await stream.receive()
    assert event.event == "job"
    found: str = json.loads(str(event.data))["id"]
    assert stream.headers["SSE-Job"] == found
    return found


async def finished(prompt: str = "to be", **options: Any) -> str:
    async with ask(prompt, **options) as stream:
        for _ in prompt.split():
            Words.gate.release()
        await stream.read()
    return stream.headers["SSE-Job"]


WHOLE = [
    ("word", "to"),
    ("word", "be"),
    ("word", "or"),
    ("word", "not"),
    ("end", '{"state": "done"}'),
]


async def test_client_that_breaks_off_gets_the_rest_once(gate: asyncio.Semaphore) -> None:
    async with ask() as stream:
        job = await job_id(stream)
        gate.release()
        gate.release()
        assert [(await stream.receive()).data for _ in range(2)] == ["to", "be"]
        seen = stream.last_event_id
    gate.release()
    async with read(job, seen=seen) as stream:
        assert (await stream.receive()).data == "or"
        gate.release()
        assert await rest(stream) == WHOLE[2:]
        last = stream.last_event_id
    async with read(job, seen=last) as stream:
        assert stream.status_code == 204


async def test_client_that_comes_later_gets_everything(gate: asyncio.Semaphore) -> None:
    job = await finished()
    async with read(job) as stream:
        assert await rest(stream) == [
            ("job", json.dumps({"id": job}, separators=(",", ":"))),
            *WHOLE[:2],
            WHOLE[-1],
        ]


async def test_several_clients_watch(gate: asyncio.Semaphore) -> None:
    async with ask() as first, read(await job_id(first)) as second:
        await job_id(second)
        for _ in range(4):
            gate.release()
        assert (await rest(first))[1:] == (await rest(second))[1:] == WHOLE


async def test_cancelled_job_ends_for_all(gate: asyncio.Semaphore) -> None:
    class Careful(Words):
        ended = ""

        async def work(self) -> None:  # type: ignore[override]
            try:
                await self.send("begun")
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                Careful.ended = "cleaned up"
                raise

    async with ask(view=Careful) as stream:
        job = await job_id(stream)
        assert (await stream.receive()).data == "begun"
        for _ in range(2):  # Once more changes nothing.
            async with read(job, Careful, method="DELETE") as answer:
                assert answer.status_code == 204
            assert (await rest(stream))[-1] == ("end", '{"state": "cancelled"}')
    assert Careful.ended == "cleaned up"
    async with read(job, Careful) as stream:
        assert (await rest(stream))[-1] == ("end", '{"state": "cancelled"}')


async def test_failed_job_says_so_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    class Failing(Words):
        async def work(self) -> None:  # type: ignore[override]
            await self.send("begun")
            raise ValueError("secret")

    async with ask(view=Failing) as stream:
        assert (await rest(stream))[1:] == [(None, "begun"), ("end", '{"state": "failed"}')]
        assert b"secret" not in stream.received
    assert "Failing has failed" in caplog.text
    assert "ValueError: secret" in caplog.text


async def test_job_of_a_user_is_for_that_user_only(gate: asyncio.Semaphore) -> None:
    owner, other = User(pk=1, username="ann"), User(pk=2, username="ben")
    job = await finished(user=owner)
    for user in (other, AnonymousUser()):
        for method in ("GET", "DELETE"):
            async with read(job, user=user, method=method) as stream:
                assert stream.status_code == 404
    async with read(job, user=owner) as stream:
        assert (await rest(stream))[-1] == WHOLE[-1]


async def test_job_of_an_anonymous_client_is_for_all_who_know_its_id() -> None:
    job = await finished()
    async with read(job, user=User(pk=1, username="ann")) as stream:
        assert (await rest(stream))[-1] == WHOLE[-1]


async def test_view_decides_who_sees_a_job() -> None:
    class Shared(Words):
        async def has_job_permission(self, job: Job) -> bool:
            return await super().has_job_permission(job) or self.user.is_staff

    job = await finished(user=User(pk=1), view=Shared)
    async with read(job, Shared, user=User(pk=2, is_staff=True)) as stream:
        assert stream.status_code == 200
    async with read(job, Shared, user=User(pk=3)) as stream:
        assert stream.status_code == 404


@pytest.mark.parametrize("job", ["", "none", "x" * 32, "job:\x00" + "x" * 32])
async def test_unknown_job_is_not_found(job: str) -> None:
    async with connect(Words, "/", kwargs={"job": job}) as stream:
        assert stream.status_code == 404
    async with connect(Words, "/") as stream:
        assert stream.status_code == 404


async def test_job_of_another_view_is_not_found() -> None:
    class Other(Words):
        pass

    job = await finished()
    async with read(job, Other) as stream:
        assert stream.status_code == 404


async def test_ended_job_is_kept_for_a_time() -> None:
    class Brief(Words):
        keep = timedelta(seconds=0)

    key = {"Idempotency-Key": OWN_KEY}
    job = await finished(view=Brief, headers=key)
    async with read(job, Brief) as stream:
        assert stream.status_code == 404
    async with ask(view=Brief, headers=key) as stream:
        assert stream.status_code == 409


async def test_repeated_post_is_the_same_job(gate: asyncio.Semaphore) -> None:
    ann, key = User(pk=1), {"Idempotency-Key": '"k-1"'}
    async with (
        ask(user=ann, headers=key) as first,
        ask("something else", user=ann, headers=key) as second,
        ask(user=User(pk=2), headers=key) as third,
    ):
        assert await job_id(first) == await job_id(second) != await job_id(third)
        for _ in range(8):
            gate.release()
        assert (await rest(first))[1:] == (await rest(second))[1:] == WHOLE
    async with ask(user=ann, headers={**key, "Last-Event-ID": first.last_event_id}) as stream:
        assert stream.status_code == 204


async def test_posts_at_once_start_one_job() -> None:
    class Slow(MemoryBroker):
        """Lets all POSTs look for the job before one has stored it."""

        async def apublish(self, *args: Any, **options: Any) -> Any:
            await asyncio.sleep(0.1)
            return await super().apublish(*args, **options)

    use_broker(Slow())
    options = {"user": User(pk=1), "headers": {"Idempotency-Key": "k"}}

    async def start() -> str:
        async with ask(**options) as stream:
            return await job_id(stream)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(start()) for _ in range(5)]
    assert len({task.result() for task in tasks}) == 1


async def test_key_whose_record_is_gone() -> None:
    class Forgetful(MemoryBroker):
        """Keeps no records, but knows the key for longer."""

        def listen(self, *args: Any) -> Any:
            listener = super().listen(*args)

            async def newest(*args: Any, **options: Any) -> list[Any]:
                return []

            listener.newest = newest  # type: ignore[method-assign]
            return listener

    use_broker(Forgetful())
    async with ask(headers={"Idempotency-Key": OWN_KEY}) as stream:
        assert stream.status_code == 409


@pytest.mark.parametrize("wrong", [{"id": "7"}, {"retry": 5}, {"comments": "x"}])
@pytest.mark.parametrize("name", ["start_event", "end_event"])
async def test_first_and_last_event_have_only_data_and_a_name(
    name: str, wrong: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    class Wrong(Words):
        pass

    setattr(Wrong, name, lambda self, _: ServerSentEvent("x", **wrong))
    async with ask(view=Wrong) as stream:
        assert stream.status_code == 500
    assert (
        f"InvalidEvent: The first and the last event of a job must have no {[*wrong].pop()}, got"
        in (caplog.text)
    )


async def test_key_of_an_anonymous_client_must_be_long() -> None:
    async with ask(headers={"Idempotency-Key": "short"}) as stream:
        assert stream.status_code == 400
        assert "at least 16 characters" in (await stream.json())["detail"]


async def test_wrong_post_starts_nothing() -> None:
    async with ask("") as stream:
        assert stream.status_code == 400
        assert list(await stream.json()) == ["prompt"]


async def test_process_works_on_so_many_jobs(gate: asyncio.Semaphore) -> None:
    with override_settings(DJANGO_SSE={"MAX_JOBS": 1}):
        async with ask() as first:
            job = await job_id(first)
            async with ask() as second:
                assert second.status_code == 503
                assert int(second.headers["Retry-After"]) > 0
            async with ask(headers={"Accept": "text/event-stream"}) as second:
                assert (second.status_code, await rest(second)) == (200, [])
                assert second.retry
            async with read(job) as second:
                assert second.status_code == 200


async def test_shutdown_ends_jobs_as_failed(ending: Any) -> None:
    async with ask() as stream:
        job = await job_id(stream)
        background.end(asyncio.get_running_loop())
        await background.settle()
        assert (await rest(stream))[-1] == ("end", '{"state": "failed"}')
    async with read(job) as stream:
        assert (await rest(stream))[-1] == ("end", '{"state": "failed"}')


class Report(Words):
    """Sends all kinds of things."""

    serializer_class = None
    events = {"person": dict, "text": str, "nothing": None}

    async def work(self) -> None:  # type: ignore[override]
        await self.progress(1, 2)
        await self.send({"name": "Ann"}, event="person")
        await self.send(ServerSentEvent(event="nothing", comments="at all"))
        await self.send_template("name.txt", {"name": "Ben"}, event="text")
        await self.progress(2)


LOCAL = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "OPTIONS": {
            "loaders": [("django.template.loaders.locmem.Loader", {"name.txt": "{{ name }}"})]
        },
    }
]


async def test_work_sends_what_a_view_sends() -> None:
    with override_settings(TEMPLATES=LOCAL):
        async with ask(view=Report) as stream:
            assert (await rest(stream))[1:] == [
                ("progress", '{"done": 1, "total": 2}'),
                ("person", '{"name":"Ann"}'),
                ("text", "Ben"),
                ("progress", '{"done": 2, "total": null}'),
                WHOLE[-1],
            ]
            assert ("nothing", "at all") in [(it.event, it.comments) for it in stream.blocks]


@pytest.mark.parametrize(
    ("call", "error"),
    [
        ({"data": "x", "id": "7"}, "InvalidEvent: An event of a job must have no id"),
        ({"data": ServerSentEvent("x", id="7")}, "InvalidEvent: An event of a job must have no"),
        ({"data": ServerSentEvent("x"), "event": "text"}, "TypeError: send() takes a ServerSent"),
        ({"data": {}, "event": "other"}, "UndeclaredEvent"),
        ({"data": "x" * 2_000_000, "event": "text"}, "EventTooLarge"),
    ],
)
async def test_work_cannot_send_everything(
    call: dict[str, Any], error: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Wrong(Report):
        events = {"text": str}

        async def work(self) -> None:  # type: ignore[override]
            await self.send(**call)

    async with ask(view=Wrong) as stream:
        assert (await rest(stream))[1:] == [("end", '{"state": "failed"}')]
    assert error in caplog.text


async def test_work_sends_the_object_behind_a_proxy() -> None:
    class Lazy(Report):
        events = None

        async def work(self) -> None:  # type: ignore[override]
            await self.send(SimpleLazyObject(lambda: {"name": "Ann"}))

    async with ask(view=Lazy) as stream:
        assert (await rest(stream))[1] == (None, '{"name":"Ann"}')


class Long(Words):
    """Sends more than the history keeps."""

    serializer_class = None

    async def work(self) -> None:  # type: ignore[override]
        for number in range(8):
            await self.send(str(number))


class LongWithSnapshot(Long):
    async def snapshot(self) -> None:
        await self.send_template("name.txt", {"name": "all of it"}, event="snapshot")


@pytest.mark.parametrize("seen", [None, "nonsense"])
async def test_job_that_is_longer_than_the_history(seen: str | None) -> None:
    use_broker(MemoryBroker("", {"HISTORY": 4}))
    job = await finished(view=Long)
    async with read(job, Long, seen=seen) as stream:
        left = [(None, "5"), (None, "6"), (None, "7"), WHOLE[-1]]
        assert await rest(stream) == [("reset", "{}"), *left]
        last = stream.last_event_id
    async with read(job, Long, seen=last) as stream:
        assert stream.status_code == 204


async def test_snapshot_takes_the_place_of_events_that_are_gone(settings: Any) -> None:
    settings.TEMPLATES = LOCAL
    use_broker(MemoryBroker("", {"HISTORY": 4}))
    job = await finished(view=LongWithSnapshot)
    async with read(job, LongWithSnapshot) as stream:
        assert await rest(stream) == [("reset", "{}"), ("snapshot", "all of it"), WHOLE[-1]]
        last = stream.last_event_id
    async with read(job, LongWithSnapshot, seen=last) as stream:
        assert stream.status_code == 204


async def test_snapshot_of_a_job_at_work_goes_on_live(gate: asyncio.Semaphore) -> None:
    class WithSnapshot(Words):
        async def snapshot(self) -> None:
            await self.send("to be", event="snapshot")

    use_broker(MemoryBroker("", {"HISTORY": 2}))
    async with ask(view=WithSnapshot) as first:
        job = await job_id(first)
        for _ in range(3):
            gate.release()
        assert [(await first.receive()).data for _ in range(3)] == ["to", "be", "or"]
        async with read(job, WithSnapshot) as second:
            assert [(await second.receive()).event for _ in range(2)] == ["reset", "snapshot"]
            gate.release()
            assert (await rest(second))[2:] == [("word", "not"), WHOLE[-1]]


def evict(server: RedisServer, job: str) -> None:
    """Take a job's events away, as Redis does when its memory is full. Its records are newer."""
    assert server("DEL", f"sse:events:job:{job}", f"sse:newest:job:{job}") == 2
    # Let it evict something else, so that it knows that it has evicted.
    server("CONFIG", "SET", "maxmemory-policy", "volatile-ttl")
    server("CONFIG", "SET", "maxmemory-samples", "64")
    server("SET", "ballast", "x" * 5_000_000, "EX", "60")
    server("CONFIG", "SET", "maxmemory", str(int(server("INFO", "memory")["used_memory"]) - 1_000))
    server("PING")
    server("CONFIG", "SET", "maxmemory", "0")
    assert server("INFO", "stats")["evicted_keys"] == 1


async def test_end_of_a_job_is_known_although_its_events_were_evicted(
    settings: Any, redis_server: RedisServer, redis_broker: Callable[..., Broker]
) -> None:
    settings.TEMPLATES = LOCAL
    use_broker(redis_broker())
    job = await finished(view=LongWithSnapshot)
    evict(redis_server, job)
    async with read(job, LongWithSnapshot) as stream:
        assert await rest(stream) == [("reset", "{}"), ("snapshot", "all of it"), WHOLE[-1]]
        last = stream.last_event_id
    async with read(job, LongWithSnapshot, seen=last) as stream:
        assert stream.status_code == 204


async def test_job_at_work_goes_on_for_a_client_although_its_events_were_evicted(
    gate: asyncio.Semaphore, redis_server: RedisServer, redis_broker: Callable[..., Broker]
) -> None:
    class WithSnapshot(Words):
        async def snapshot(self) -> None:
            await self.send("to be", event="snapshot")

    use_broker(redis_broker())
    async with ask(view=WithSnapshot) as first:
        job = await job_id(first)
        for _ in range(2):
            gate.release()
        assert [(await first.receive()).data for _ in range(2)] == ["to", "be"]
        evict(redis_server, job)
        async with read(job, WithSnapshot) as second:
            assert [(await second.receive()).event for _ in range(2)] == ["reset", "snapshot"]
            # It asks whether the snapshot took the place of the job's end.
            await second.receive_nothing(0.3)
            for _ in range(2):
                gate.release()
            assert (await rest(second))[2:] == WHOLE[2:]
        assert (await rest(first))[3:] == WHOLE[2:]


async def test_snapshot_is_followed_by_an_end_of_which_the_record_does_not_tell_yet(
    settings: Any,
) -> None:
    class SlowRecord(MemoryBroker):
        record = asyncio.Event()

        async def apublish(self, topics: Any, *args: Any, **options: Any) -> Any:
            if (options.get("idempotency_key") or "").endswith(":end"):
                await self.record.wait()
            return await super().apublish(topics, *args, **options)

    settings.TEMPLATES = LOCAL
    broker = SlowRecord("", {"HISTORY": 4})
    broker.record = asyncio.Event()
    use_broker(broker)
    try:
        job = await finished(view=LongWithSnapshot)
        async with read(job, LongWithSnapshot) as stream:
            events = await rest(stream)
        assert [event for event, _ in events] == ["reset", "snapshot", "end"]
        async with read(job, LongWithSnapshot, seen=stream.last_event_id) as stream:
            assert stream.status_code == 204
    finally:
        broker.record.set()


async def test_end_that_is_newer_than_the_snapshot_overtakes_no_event(
    gate: asyncio.Semaphore, monkeypatch: pytest.MonkeyPatch
) -> None:
    class WithSnapshot(Words):
        async def snapshot(self) -> None:
            await self.send("to be", event="snapshot")

    asked = asyncio.Event()

    async def later(job: Job) -> tuple[EventId, bytes]:
        asked.set()
        return EventId(9_999_999_999_999, 0), b"event: end\ndata: early\n\n"

    use_broker(MemoryBroker("", {"HISTORY": 2}))
    async with ask(view=WithSnapshot) as first:
        job = await job_id(first)
        for _ in range(3):
            gate.release()
        assert [(await first.receive()).data for _ in range(3)] == ["to", "be", "or"]
        monkeypatch.setattr("django_sse.jobs.view.find_last_event", later)
        async with read(job, WithSnapshot) as second:
            await asked.wait()
            gate.release()
            assert (await rest(second))[2:] == [("word", "not"), WHOLE[-1]]


async def test_events_of_a_protocol_of_its_own() -> None:
    class Chat(Words):
        # Its own events stand in the place of these.
        events = {"job": str, "end": str, "word": str}

        def start_event(self, job_id: str) -> None:
            return None

        def end_event(self, ending: str) -> ServerSentEvent:
            if ending == "failed":
                return super().end_event(ending)
            return ServerSentEvent("[DONE]" if ending == "done" else {"type": ending})

    Chat.as_view()
    for _ in range(2):
        Words.gate.release()
    async with ask("to be", Chat) as stream:
        assert await rest(stream) == [*WHOLE[:2], (None, "[DONE]")]
    async with ask(view=Chat) as stream:
        async with read(stream.headers["SSE-Job"], Chat, method="DELETE"):
            pass
        assert await rest(stream) == [(None, '{"type":"cancelled"}')]
    async with ask(view=Chat) as stream:
        background.end(asyncio.get_running_loop())
        assert await rest(stream) == [("end", '{"state":"failed"}')]


async def test_job_may_be_found_in_another_way() -> None:
    class Newest(Words):
        async def get_job_id(self) -> str | None:
            raise StreamFinished

        def get_idempotency_key(self) -> str | None:
            return f"{OWN_KEY}:{self.request.data['prompt']}"

    async with connect(Newest) as stream:
        assert stream.status_code == 204
    async with ask(view=Newest) as first, ask(view=Newest) as second:
        assert await job_id(first) == await job_id(second)


async def test_browser_gets_a_form(settings: Any) -> None:
    async with connect(Words, headers={"Accept": "text/html"}) as stream:
        assert stream.status_code == 200
        assert b"prompt" in await stream.read()


async def test_broker_that_is_away_is_no_end() -> None:
    class Away(MemoryBroker):
        async def apublish(self, *args: Any, **kwargs: Any) -> Any:
            raise PublishFailed("The broker is away.", may_be_stored=False)

    use_broker(Away())
    async with ask() as stream:
        assert stream.status_code == 503
    async with ask(headers={"Accept": "text/event-stream"}) as stream:
        assert await rest(stream) == []
        assert stream.retry


class Unclear(MemoryBroker):
    """Does not confirm two of three events of a job, one of which it stores, at once or late.

    A late one is stored before what is published next, as a queue of a broker's client does it.
    """

    calls = 0
    late = False
    waiting: tuple[Any, ...] | None = None

    async def apublish(self, topics: Any, *args: Any, **options: Any) -> Any:
        waiting, self.waiting = self.waiting, None
        if waiting is not None:
            await super().apublish(*waiting[0], **waiting[1])
        if topics[0].startswith("job:"):
            self.calls += 1
            if self.calls % 3 == 0 and self.late:
                self.waiting = (topics, *args), options
            elif self.calls % 3 == 0:
                await super().apublish(topics, *args, **options)
            if self.calls % 3 != 1:
                raise PublishFailed("The broker is away.", may_be_stored=True)
        return await super().apublish(topics, *args, **options)


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("first", [0, 1, 2])
async def test_each_event_is_stored_once_where_the_broker_does_not_say(
    first: int, late: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Counting(Words):
        serializer_class = None

        async def work(self) -> None:  # type: ignore[override]
            for number in (0, 0, 1, 1, 2, 2, 3):
                await self.send(str(number))

    monkeypatch.setattr("django_sse.jobs.run.PAUSE_SECONDS", 0)
    broker = Unclear()
    broker.calls, broker.late = first, late
    use_broker(broker)
    async with ask(view=Counting) as stream:
        events = await rest(stream)
    assert [event for event, _ in events if event] == ["job", "end"]
    assert [data for _, data in events[1:-1]] == list("0011223")


async def test_work_fails_when_the_broker_stays_away(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Leaving(MemoryBroker):
        async def apublish(self, topics: Any, head: bytes, *args: Any, **kwargs: Any) -> Any:
            if b"word" in head or b"event: end" in head:
                raise PublishFailed("The broker is away.", may_be_stored=False)
            return await super().apublish(topics, head, *args, **kwargs)

    monkeypatch.setattr("django_sse.jobs.run.PATIENCE_SECONDS", 0)
    use_broker(Leaving())
    async with ask() as stream:
        await job_id(stream)
        Words.gate.release()
        await eventually(lambda: "could not be stored" in caplog.text)
        await stream.receive_nothing()
    assert "Words has failed" in caplog.text


async def test_progress_is_sent_in_work_only(caplog: pytest.LogCaptureFixture) -> None:
    class Early(Words):
        async def connect(self) -> None:
            await self.progress(1, 2)

    async with ask(view=Early) as stream:
        assert stream.status_code == 500
    assert "Early.progress() sends to the clients of a job: call it in work()." in caplog.text


async def test_views_that_cannot_work() -> None:
    class Nothing(JobView):
        pass

    with pytest.raises(ImproperlyConfigured, match="must define `async def work"):
        Nothing.as_view()
    with pytest.raises(ImproperlyConfigured, match=r"enqueue\(\) must be an `async def`"):

        class Sync(JobView):
            def enqueue(self, job_id: str) -> None:  # type: ignore[override]
                pass

    with pytest.raises(
        ImproperlyConfigured, match=r"work\(\) must be an `async def` \(a coroutine"
    ):

        class SyncWork(JobView):
            def work(self) -> None:  # type: ignore[override]
                pass

    class Declares(Words):
        events = {"progress": float}

    with pytest.raises(ImproperlyConfigured, match="must not have 'progress': a job sends it"):
        Declares.as_view()
    with pytest.raises(ImproperlyConfigured, match="must not have 'end': a job sends it"):
        Words.as_view(events={"end": None})
    with pytest.raises(ImproperlyConfigured, match="takes the place of what JobView needs"):

        class Winding(Words):
            def wind_up(self, reason: str) -> None:
                pass


async def test_messages_of_groups_reach_no_method_of_a_job() -> None:
    assert Words._handlers == frozenset()
    assert "work" not in JobView._handlers


async def test_enqueue_that_fails_fails_the_job() -> None:
    class Refusing(Words):
        async def enqueue(self, job_id: str) -> None:
            Refusing.id = job_id
            raise PermissionDenied

    async with ask(view=Refusing) as stream:
        assert stream.status_code == 403
    async with read(Refusing.id, Refusing) as stream:
        assert (await rest(stream))[-1] == ("end", '{"state": "failed"}')


async def test_id_of_another_job() -> None:
    """Ids rise over all topics: they say what came before what, and give access to nothing."""
    before = await finished("before")
    async with read(before) as stream:
        await stream.read()
        older = stream.last_event_id
    job = await finished("to be")
    async with read(job) as stream:
        events = await rest(stream)
        last = stream.last_event_id
    after = await finished("after")
    async with read(after) as stream:
        await stream.read()
        newer = stream.last_event_id
    assert older < last < newer
    async with read(job, seen=older) as stream:
        assert await rest(stream) == events
    # The job has sent nothing since. The client is told that it has missed something.
    async with read(job, seen=newer) as stream:
        assert await rest(stream) == [("reset", "{}"), *events]
    async with read(job, seen="9999999999999-0") as stream:
        assert await rest(stream) == [("reset", "{}"), *events]


class Slowly(Words):
    """Takes its time to start."""

    serializer_class = None
    begun = asyncio.Event()
    go_on = asyncio.Event()
    error: Exception | None = None
    starts = 0

    def get_idempotency_key(self) -> str:
        return OWN_KEY

    async def enqueue(self, job_id: str) -> None:
        type(self).starts += 1
        self.begun.set()
        await self.go_on.wait()
        if self.error is not None:
            raise self.error
        await super().enqueue(job_id)

    async def work(self) -> None:  # type: ignore[override]
        await self.send("done", event="word")


urlpatterns = [sse_path("slowly/", Slowly)]


async def leave_while_it_starts(settings: Any, error: Exception | None = None) -> None:
    """Send a POST whose connection breaks before the work has begun."""
    settings.ROOT_URLCONF, settings.MIDDLEWARE = __name__, []
    Slowly.begun, Slowly.go_on, Slowly.starts = asyncio.Event(), asyncio.Event(), 0
    Slowly.error = error
    messages = iter([{"type": "http.request", "body": b"", "more_body": False}])

    async def receive() -> Any:
        if (message := next(messages, None)) is not None:
            return message
        await Slowly.begun.wait()
        asyncio.get_running_loop().call_later(0.05, Slowly.go_on.set)
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        """Nobody reads."""

    scope = {"type": "http", "method": "POST", "path": "/slowly/", "headers": []}
    scope |= {"query_string": b"", "root_path": "", "http_version": "1.1", "scheme": "http"}
    await get_asgi_application()(scope, receive, send)


async def test_client_that_leaves_while_the_job_starts_finds_it_when_it_asks_again(
    settings: Any,
) -> None:
    await leave_while_it_starts(settings)
    async with connect(Slowly, method="POST") as stream:
        assert (await rest(stream))[1:] == [("word", "done"), WHOLE[-1]]
    assert Slowly.starts == 1


async def test_start_that_fails_after_its_client_has_left_is_logged(
    settings: Any, caplog: pytest.LogCaptureFixture
) -> None:
    await leave_while_it_starts(settings, ValueError("no queue"))
    assert "Slowly could not be started" in caplog.text
    assert "ValueError: no queue" in caplog.text
    async with connect(Slowly, method="POST") as stream:
        assert (await rest(stream))[1:] == [("end", '{"state": "failed"}')]


@pytest.mark.parametrize("done", [float("nan"), float("inf")])
async def test_progress_is_a_number_of_json(done: float, caplog: pytest.LogCaptureFixture) -> None:
    class Wrong(Report):
        async def work(self) -> None:  # type: ignore[override]
            await self.progress(done)

    async with ask(view=Wrong) as stream:
        assert (await rest(stream))[1:] == [("end", '{"state": "failed"}')]
    assert "ValueError: Out of range float" in caplog.text


@pytest.mark.parametrize(
    ("attribute", "value", "error"),
    [
        ("keep", None, "keep must be a number of seconds from 0 on, or a timedelta, got None"),
        ("keep", -1, "keep must be a number of seconds"),
        ("keep", "1h", "keep must be a number of seconds"),
        ("keep", timedelta(seconds=-1), "keep must be a number of seconds"),
        ("queue_timeout", 0, "queue_timeout must be a number of seconds above 0, or a timedelta"),
        ("queue_timeout", timedelta(0), "queue_timeout must be a number of seconds above 0"),
        ("queue_timeout", True, "queue_timeout must be a number of seconds above 0"),
        ("serializer_class", {}, "serializer_class must name subclasses of rest_framework"),
        ("topics", ["news"], "must not have topics: a JobView follows the topic of its job"),
        ("rewind", 5, "must not have rewind: a JobView sends all events of its job"),
    ],
)
def test_wrong_attributes_are_named(attribute: str, value: Any, error: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=error):
        Words.as_view(**{attribute: value})
    with pytest.raises(ImproperlyConfigured, match=error):
        type("Wrong", (Words,), {attribute: value}).as_view()


@pytest.mark.parametrize("value", [0, 1.5, timedelta(days=1)])
def test_right_durations(value: Any) -> None:
    Words.as_view(keep=value, queue_timeout=value or 1)


def test_stream_is_not_what_a_job_defines() -> None:
    class Streaming(Words):
        async def stream(self) -> None:
            """It would never be called."""

    with pytest.raises(ImproperlyConfigured, match=r"must not have stream: .* work\(\) sends"):
        Streaming.as_view()


async def test_other_streams_may_follow_a_job_and_end_with_it(gate: asyncio.Semaphore) -> None:
    class Elsewhere(SSEView):
        async def get_topics(self) -> list[str]:
            return ["news", f"job:{self.kwargs['job']}"]

    async with (
        ask("to") as first,
        connect(Elsewhere, kwargs={"job": await job_id(first)}) as second,
    ):
        gate.release()
        assert await rest(second) == [("word", "to"), WHOLE[-1]]
