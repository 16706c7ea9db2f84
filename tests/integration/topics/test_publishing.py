"""``publish()`` as it is called: when it sends, what it sends, and what it refuses."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.contrib.auth.models import Group
from django.core.exceptions import SynchronousOnlyOperation
from django.db import connection, connections, transaction
from django.db.transaction import TransactionManagementError
from django.test import TestCase, override_settings
from rest_framework import serializers

from django_sse import ServerSentEvent, SSEView, apublish, publish, serializes
from django_sse.brokers import use_broker
from django_sse.brokers.redis import RedisBroker
from django_sse.exceptions import (
    EventTooLarge,
    InvalidEvent,
    InvalidTopic,
    PublishFailed,
    SerializerNotFound,
)
from django_sse.testing import Published, StreamClient, connect
from django_sse.wire.serialization import registry
from tests.support.servers import free_port

Capture = list[Published]


class Failed(Exception):
    """What goes wrong in a transaction."""


class GroupSerializer(serializers.ModelSerializer[Group]):
    class Meta:
        model = Group
        fields = ["name"]


class ShoutedSerializer(serializers.Serializer[Any]):
    def to_representation(self, instance: Any) -> Any:
        return {"NAME": instance.name.upper()}


@pytest.fixture
def _registered(request: pytest.FixtureRequest) -> Any:
    before = dict(registry)
    serializes(Group)(GroupSerializer)
    yield
    registry.clear()
    registry.update(before)


def sent(captured: Capture) -> list[str | None]:
    return [published.event.data for published in captured]


async def until_live(stream: StreamClient) -> None:
    """Wait for the cursor, which a client gets once it follows."""
    while (await stream.receive_block()).id is None:
        pass


class Both(SSEView):
    topics = ["a", "b"]
    heartbeat = None


def test_publishing_fields_arrive_as_given(sse_published: Capture) -> None:
    event_id = publish(
        ["a", "b", "a"],
        {"n": 1},
        event="created",
        retry=timedelta(seconds=2),
        comments="why",
        key="order-1",
    )
    assert sse_published == [
        Published(
            ("a", "b"),
            ServerSentEvent('{"n":1}', "created", event_id, 2000, "why"),
            "order-1",
        )
    ]
    publish("a", "line 1\nline 2")
    publish("a", comments="nothing to dispatch")
    publish("a", "")
    publish("a", [1, None, "ä"])
    assert sent(sse_published)[1:] == ["line 1\nline 2", None, "", '[1,null,"ä"]']


@pytest.mark.usefixtures("_registered")
@pytest.mark.django_db
def test_publishing_objects_use_registry_or_serializer(sse_published: Capture) -> None:
    one = Group.objects.create(name="one")
    Group.objects.create(name="two")
    publish("a", one, on_commit=False)
    publish("a", [one], on_commit=False)
    publish("a", Group.objects.order_by("name"), on_commit=False)
    publish("a", one, serializer=ShoutedSerializer, on_commit=False)
    publish("a", [one, one], serializer=ShoutedSerializer, on_commit=False)
    assert sent(sse_published) == [
        '{"name":"one"}',
        '[{"name":"one"}]',
        '[{"name":"one"},{"name":"two"}]',
        '{"NAME":"ONE"}',
        '[{"NAME":"ONE"},{"NAME":"ONE"}]',
    ]


@pytest.mark.usefixtures("_registered")
@pytest.mark.django_db(transaction=True)
async def test_publishing_from_a_coroutine_evaluates_querysets_in_a_thread(
    sse_published: Capture,
) -> None:
    await Group.objects.acreate(name="one")
    await apublish("a", Group.objects.all())
    assert sent(sse_published) == ['[{"name":"one"}]']


async def test_publishing_to_several_followed_topics_arrives_once(sse_published: Capture) -> None:
    async with connect(Both) as stream:
        await until_live(stream)
        ids = [await apublish(["b", "a", "other"], "x"), await apublish("a", "y")]
        assert [(await stream.receive()).id for _ in ids] == ids
        await stream.receive_nothing()


@pytest.mark.django_db(transaction=True, databases=["default"])
class TestCommit:
    def test_publishing_waits_for_the_outermost_commit(self, sse_published: Capture) -> None:
        with transaction.atomic():
            assert publish("a", "outer") is None
            with transaction.atomic():
                publish("a", "inner", using="default")
                assert publish("a", "at once", on_commit=False) is not None
            assert sent(sse_published) == ["at once"]
        assert sent(sse_published) == ["at once", "outer", "inner"]
        assert publish("a", "outside") is not None
        assert sent(sse_published)[-1] == "outside"

    def test_publishing_is_dropped_on_rollback(self, sse_published: Capture) -> None:
        with transaction.atomic():
            with suppress(Failed), transaction.atomic():
                publish("a", "of the savepoint")
                raise Failed
            publish("a", "kept")
        with suppress(Failed), transaction.atomic():
            publish("a", "of the transaction")
            raise Failed
        assert sent(sse_published) == ["kept"]

    def test_publishing_serializes_now_not_at_commit(self, sse_published: Capture) -> None:
        state = {"state": "new"}
        with transaction.atomic():
            publish("a", state)
            state["state"] = "changed"
            with pytest.raises(SerializerNotFound):
                publish("a", object())
        assert sent(sse_published) == ['{"state":"new"}']

    def test_publishing_failure_reaches_who_commits(self) -> None:
        away = RedisBroker(f"redis://127.0.0.1:{free_port()}/0")
        with override_settings(DJANGO_SSE={"PUBLISH_TIMEOUT": 0.2}):
            before = use_broker(away)
            try:
                with pytest.raises(PublishFailed) as raised, transaction.atomic():
                    publish("a", "x")
                assert not raised.value.may_be_stored
            finally:
                use_broker(before)
                away.close()


@pytest.fixture
def other_database(tmp_path: Path, django_db_setup: None, django_db_blocker: Any) -> Iterator[str]:
    """A second database, for one test, which must write nothing to the first."""
    settings = {**connections.databases["default"], "NAME": str(tmp_path / "other.sqlite3")}
    connections.databases["other"] = settings
    with django_db_blocker.unblock():
        yield "other"
        connections.close_all()
    del connections["other"], connections.databases["other"]


def test_publishing_waits_for_the_database_that_is_named(
    other_database: str, sse_published: Capture
) -> None:
    with transaction.atomic(using=other_database):
        assert publish("a", "of the other", using=other_database) is None
        # In no transaction of the default one.
        assert publish("a", "at once")
        with transaction.atomic():
            assert publish("a", "of the default") is None
            assert publish("a", "of the other, too", using=other_database) is None
        assert sent(sse_published) == ["at once", "of the default"]
        sse_published.clear()
    assert sent(sse_published) == ["of the other", "of the other, too"]
    sse_published.clear()
    with suppress(Failed), transaction.atomic(using=other_database):
        publish("a", "dropped", using=other_database)
        raise Failed
    assert sent(sse_published) == []


def test_publishing_needs_no_database_connection(sse_published: Capture) -> None:
    # The fixture "db" is not asked for: pytest-django refuses a connection.
    opened: list[bool] = []

    def work() -> None:
        publish("a", "from a thread")
        opened.extend(c.connection is not None for c in connections.all(initialized_only=True))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert sent(sse_published) == ["from a thread"]
    assert not any(opened)


class TestInTransactionOfTestCase(TestCase):
    """``TestCase`` runs each test in transactions that are never committed."""

    @pytest.fixture(autouse=True)
    def _capture(self, sse_published: Capture) -> None:
        self.captured = sse_published

    def test_publishing_outside_of_the_tests_own_transactions_is_sent(self) -> None:
        assert connection.in_atomic_block
        assert publish("a", "at once") is not None
        with self.captureOnCommitCallbacks(execute=True) as callbacks, transaction.atomic():
            assert publish("a", "at commit") is None
            assert sent(self.captured) == ["at once"]
        assert len(callbacks) == 1
        assert sent(self.captured) == ["at once", "at commit"]


def test_publishing_from_many_threads_loses_nothing(sse_published: Capture) -> None:
    def work(name: str) -> None:
        for number in range(200):
            publish("a", {"name": name, "number": number})

    threads = [threading.Thread(target=work, args=(f"t{number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(Counter(sent(sse_published))) == 1600
    ids = [published.event.id for published in sse_published]
    assert len(set(ids)) == 1600


async def test_publishing_under_a_running_loop_is_refused(sse_published: Capture) -> None:
    with pytest.raises(SynchronousOnlyOperation, match="apublish"):
        publish("a", "x")
    # As the ORM: in a thread of its own it may.
    await sync_to_async(publish)("a", "y")
    assert sent(sse_published) == ["y"]


def test_publishing_from_a_synchronous_caller_of_apublish(sse_published: Capture) -> None:
    async_to_sync(apublish)("a", "celery")
    asyncio.run(apublish("a", "another loop"))
    assert sent(sse_published) == ["celery", "another loop"]


@pytest.mark.parametrize(
    ("topics", "message"),
    [
        ("", "not empty"),
        ([], "At least one topic"),
        (["a", ""], "not empty"),
        ("x" * 201, "at most 200 characters"),
        ("a\nb", "control characters"),
        ("a\0", "control characters"),
        ("a\x7f", "control characters"),
        ("a\ud800", "surrogates"),
        (None, "must be a str or several"),
        (7, "must be a str or several"),
        (b"a", "must be a str or several"),
        (["a", 7], "must be a str"),
        ([["a"]], "must be a str"),
    ],
)
def test_publishing_refuses_bad_topics(topics: Any, message: str, sse_published: Capture) -> None:
    with pytest.raises(InvalidTopic, match=message):
        publish(topics, "x")
    with pytest.raises(InvalidTopic, match=message):
        async_to_sync(apublish)(topics, "x")
    assert sse_published == []


@pytest.mark.parametrize("topic", ["a", "x" * 200, "Zürich:größe", "a b", "shop:1:*?[x]", "🙂"])
async def test_publishing_takes_any_other_topic(topic: str, sse_published: Capture) -> None:
    class Followed(SSEView):
        topics = [topic]
        heartbeat = None

    async with connect(Followed) as stream:
        await until_live(stream)
        await apublish(topic, "x")
        assert (await stream.receive()).data == "x"


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"data": object()}, SerializerNotFound),
        ({"data": "x", "event": "a\nb"}, InvalidEvent),
        ({"data": "x", "retry": -1}, InvalidEvent),
        ({"data": "x", "retry": True}, InvalidEvent),
        ({"data": "\ud800"}, InvalidEvent),
        ({"data": "x", "key": 7}, InvalidEvent),
        ({"data": "x", "idempotency_key": 7}, InvalidEvent),
        ({"data": "x" * 1000, "comments": "y" * 100}, EventTooLarge),
        ({"data": {"x": "y" * 1100}}, EventTooLarge),
    ],
)
def test_publishing_refuses_bad_events(
    fields: dict[str, Any], error: type[Exception], sse_published: Capture
) -> None:
    with override_settings(DJANGO_SSE={"MAX_EVENT_BYTES": 1024}):
        with pytest.raises(error):
            publish("a", **fields)
        with pytest.raises(error):
            async_to_sync(apublish)("a", **fields)
    assert sse_published == []


def test_publishing_too_large_event_names_the_setting() -> None:
    with (
        override_settings(DJANGO_SSE={"MAX_EVENT_BYTES": 1024}),
        pytest.raises(EventTooLarge, match="MAX_EVENT_BYTES") as raised,
    ):
        publish("a", "x" * 2000)
    assert raised.value.size == len("data: \n") + 2000


@pytest.mark.django_db(transaction=True)
def test_publishing_cannot_wait_for_a_commit_that_nobody_tells_of(
    sse_published: list[Published],
) -> None:
    transaction.set_autocommit(False)
    try:
        with pytest.raises(TransactionManagementError, match="managed by hand"):
            publish("a", "never")
        publish("a", "at once", on_commit=False)
        transaction.rollback()
    finally:
        transaction.set_autocommit(True)
    assert [published.event.data for published in sse_published] == ["at once"]
