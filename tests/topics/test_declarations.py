"""Declared events: what may be sent and published, and what is refused."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypedDict

import pytest
from django.contrib.auth.models import User
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings
from django.utils.functional import SimpleLazyObject
from rest_framework import serializers

from django_sse import (
    Heartbeat,
    ServerSentEvent,
    SSEView,
    Topic,
    UndeclaredEvent,
    apublish,
    publish,
    serializes,
)
from django_sse.checks import check_declared_events
from django_sse.handshake.attributes import check_attributes
from django_sse.testing import connect
from django_sse.topics import declarations
from django_sse.wire.serialization import registry


@dataclass
class Fruit:
    name: str


@dataclass
class Apple(Fruit):
    pass


@dataclass
class Stone:
    weight: int


class FruitSerializer(serializers.Serializer[Any]):
    name = serializers.CharField()


class UserSerializer(serializers.ModelSerializer[User]):
    class Meta:
        model = User
        fields = ["username"]


class Price(TypedDict):
    price: int


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """Forget what a test declares: the checks of other tests would find it."""
    views = set(declarations.declaring)
    before = dict(declarations.declared_topics)
    known = dict(registry)
    serializes(Fruit)(FruitSerializer)
    serializes(User)(UserSerializer)
    yield
    registry.clear()
    registry.update(known)
    declarations.declared_topics.clear()
    declarations.declared_topics.update(before)
    for view in set(declarations.declaring) - views:
        declarations.declaring.discard(view)


EVENTS = {
    "fruit": Fruit,
    "fruits": list[Fruit],
    "either": Fruit | Stone | None,
    "user": UserSerializer,
    "any": FruitSerializer,
    "price": Price,
    "text": str,
    "share": float,
    "end": None,
    None: dict,
}


@pytest.mark.parametrize(
    ("event", "data"),
    [
        ("fruit", Fruit("fig")),
        ("fruit", Apple("apple")),
        ("fruit", SimpleLazyObject(lambda: Fruit("fig"))),
        ("fruits", [Fruit("fig"), Apple("apple")]),
        ("fruits", ()),
        ("either", Fruit("fig")),
        ("either", ""),
        ("user", User(username="ada")),
        ("user", {"username": "ada"}),
        ("any", Fruit("fig")),
        ("price", {"price": 1}),
        ("text", "words"),
        ("share", 1),
        ("end", None),
        ("end", ""),
        (None, {"a": 1}),
        ("message", {"a": 1}),
        ("reset", {}),
        ("dropped", "3"),
    ],
)
async def test_what_is_declared_is_sent_and_published(event: str | None, data: Any) -> None:
    topic = Topic("fruits", events=EVENTS)
    sent = []

    class Fruits(SSEView):
        authentication_classes = []
        permission_classes = []
        events = EVENTS

        async def stream(self) -> None:
            await self.send(ServerSentEvent(comments="only a comment"))
            await self.send(id="7")
            await self.send(data, event=event)
            sent.append(event)

    async with connect(Fruits) as stream:
        await stream.read()
    assert sent == [event]
    await apublish(topic, data, event=event)


@pytest.mark.parametrize(
    ("event", "data", "said"),
    [
        ("fig", Fruit("fig"), "declares no event 'fig' (sent with Fruit)"),
        (None, Fruit("fig"), "declares the event None with dict, got Fruit: Fruit(name='fig')"),
        ("fruit", Stone(3), "declares the event 'fruit' with Fruit, got Stone"),
        ("fruit", '{"name": "fig"}', "'fruit' with Fruit, got str"),
        ("fruits", Fruit("fig"), "'fruits' with list["),
        ("fruits", [Stone(3)], "'fruits' with list["),
        ("either", 7, "'either' with "),
        ("user", Fruit("fig"), "'user' with UserSerializer, got Fruit"),
        ("any", "fig", "'any' with FruitSerializer, got str"),
        ("price", [1], "got list"),
        ("text", 7, "'text' with str, got int: 7"),
        ("end", {}, "'end' with no data, got dict: {}"),
        (None, "text", "declares the event None with dict, got str: 'text'"),
    ],
)
async def test_what_is_not_declared_is_refused(event: str | None, data: Any, said: str) -> None:
    topic = Topic("fruits", events=EVENTS)
    raised: list[UndeclaredEvent] = []

    class Fruits(SSEView):
        authentication_classes = []
        permission_classes = []
        events = EVENTS

        async def stream(self) -> None:
            try:
                await self.send(data, event=event)
            except UndeclaredEvent as error:
                raised.append(error)

    async with connect(Fruits) as stream:
        assert b"data" not in await stream.read()
    with pytest.raises(UndeclaredEvent) as published:
        await apublish(["other", "fruits"], data, event=event)
    [error] = raised
    assert said in str(error)
    assert said in str(published.value)
    assert str(error).startswith("test_what_is_not_declared_is_refused.<locals>.Fruits declares")
    assert str(published.value).startswith("Topic('fruits') declares")
    assert (error.event, error.topic) == (event, None)
    assert error.view is Fruits
    assert (published.value.view, published.value.topic) == (None, topic)
    assert pickle.loads(pickle.dumps(published.value)).event == event


async def test_view_is_held_to_what_its_topics_declare() -> None:
    topic = Topic("fruits", events={"ripe": Fruit})
    refused = []

    class Follows(SSEView):
        authentication_classes = []
        permission_classes = []
        topics = [topic]

        async def snapshot(self) -> None:
            await self.send(Fruit("fig"), event="ripe")
            try:
                await self.send(Fruit("fig"), event="snapshot")
            except UndeclaredEvent as error:
                refused.append(str(error))

    async with connect(Follows) as stream:
        assert (await stream.receive()).event == "ripe"
        with pytest.raises(UndeclaredEvent):
            await apublish("fruits", Stone(1), event="ripe")
        await apublish(topic, Fruit("apple"), event="ripe")
        assert (await stream.receive()).data == '{"name":"apple"}'
    assert len(refused) == 1

    both = Follows.as_view(events={"snapshot": Fruit})
    async with connect(both) as stream:
        assert (await stream.receive()).event == "ripe"
        assert (await stream.receive()).event == "snapshot"
    assert len(refused) == 1


@pytest.mark.parametrize(
    ("chosen", "debug", "refused"), [(False, True, False), (True, False, True)]
)
async def test_setting_says_where_events_are_checked(
    chosen: bool, debug: bool, refused: bool
) -> None:
    Topic("fruits", events={"ripe": Fruit})
    with override_settings(DJANGO_SSE={"CHECK_EVENTS": chosen}, DEBUG=debug):
        if refused:
            with pytest.raises(UndeclaredEvent):
                await apublish("fruits", Stone(1), event="ripe", serializer=FruitSerializer)
        else:
            await apublish("fruits", "text", event="unripe")


def test_events_are_not_checked_in_production(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Topic("fruits", events={"ripe": Fruit})
    assert declarations.events_are_checked()
    monkeypatch.delattr("django.core.mail.outbox")
    assert not declarations.events_are_checked()
    publish("fruits", "text", event="unripe")
    with override_settings(DEBUG=True):
        assert declarations.events_are_checked()


async def test_heartbeats_need_no_declaration() -> None:
    class Beats(SSEView):
        authentication_classes = []
        permission_classes = []
        events = {"fruit": Fruit}
        heartbeat = Heartbeat(0.05, {"event": "beat", "data": {"alive": True}})
        topics = ["beats"]

    async with connect(Beats) as stream:
        for _ in range(2):
            assert (await stream.receive()).event == "beat"


def test_topic_is_declared_once_and_can_be_pickled() -> None:
    topic = Topic("fruits", events={"ripe": Fruit})
    assert Topic("fruits", events={"ripe": Fruit}) == topic == "fruits"
    assert pickle.loads(pickle.dumps(topic)).events == {"ripe": Fruit}
    with pytest.raises(
        ImproperlyConfigured, match="was declared already, with other events: 'ripe'"
    ):
        Topic("fruits", events={"ripe": Stone})


@pytest.mark.parametrize(
    ("events", "said"),
    [
        (["created"], "must be a dict of event names and types, got"),
        ({1: Fruit}, "must have names of events as its keys, or None"),
        ({"": Fruit}, "must have names of events as its keys, or None"),
        ({"reset": Fruit}, "must not have 'reset'"),
        ({"created": "Fruit"}, "must be a type, a serializer class"),
        ({"created": list[7]}, "must be a type, a serializer class"),  # type: ignore[misc]
    ],
)
def test_wrong_declaration_is_refused(events: Any, said: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"Fruits\.events") as error:
        check_attributes("Fruits", {"events": events})
    assert said in str(error.value)
    with pytest.raises(ImproperlyConfigured):
        type("Fruits", (SSEView,), {"events": events, "topics": ["a"]})


def test_check_finds_types_without_a_serializer() -> None:
    class Stones(SSEView):
        topics = ["stones"]
        events = {"stone": Stone, "fruit": Fruit, "text": str, "prices": list[Price]}

    Topic("stones", events={"stones": list[Stone]})
    found = {it.msg for it in check_declared_events() if "Stone" in it.msg}
    assert found == {
        f"{Stones.__qualname__}.events: no serializer for 'stone' (Stone).",
        "Topic('stones').events: no serializer for 'stones' (Stone).",
    }
    serializes(Stone)(FruitSerializer)
    assert [it for it in check_declared_events() if "Stone" in it.msg] == []
