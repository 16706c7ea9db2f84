"""Presence as a project declares it and asks for it."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured, SynchronousOnlyOperation
from django.test import override_settings

from django_sse import InvalidTopic, Presence, SSEView, apresence, presence, sse_path
from django_sse.brokers import use_broker
from django_sse.brokers.base import Broker
from django_sse.brokers.memory import MemoryBroker
from django_sse.checks import check_presence
from django_sse.contracts.streams import document
from django_sse.testing import connect
from django_sse.topics.attendance import close_idle_register


class Plain(MemoryBroker):
    """A broker of a project, which knows no presence."""

    attend = Broker.attend
    presence = Broker.presence
    apresence = Broker.apresence


class Room(SSEView):
    topics = ["room"]
    presence = True
    events = {"note": str}

    async def snapshot(self) -> None:
        await self.send({"user": "0"}, event="join")


class Silent(SSEView):
    topics = ["room"]
    events = {"join": int}


class Rare(SSEView):
    """Be present, or not."""

    topics = ["room"]

    async def get_presence(self) -> bool:
        return False


urlpatterns = [
    sse_path("room/", Room),
    sse_path("silent/", Silent),
    sse_path("shown/", Silent.as_view(presence=True, events={"note": str})),
]


@pytest.fixture
def plain() -> Any:
    before = use_broker(Plain())
    yield
    use_broker(before)


@pytest.mark.parametrize("topic", ["", "a\nb", ["a", "b"]])
async def test_presence_is_of_one_right_topic(broker: Any, topic: Any) -> None:
    with pytest.raises(InvalidTopic):
        await apresence(topic)


def test_presence_is_asked_in_a_thread(broker: Any) -> None:
    assert presence("room") == Presence((), 0)


async def test_presence_on_an_event_loop_names_the_other_one(broker: Any) -> None:
    with pytest.raises(SynchronousOnlyOperation, match=r"await apresence\(…\)"):
        presence("room")


async def test_a_broker_without_presence_says_so(
    plain: Any, caplog: pytest.LogCaptureFixture
) -> None:
    message = "Plain does not know who follows a topic: it has no attend"
    with pytest.raises(ImproperlyConfigured, match=message):
        await apresence("room")
    with pytest.raises(ImproperlyConfigured, match=message):
        await Plain().attend("me", [], [], lease=1, grace=1, timeout=1)
    for view in Room, Rare, Silent.as_view(presence=True):
        async with connect(view) as stream:
            assert stream.status_code == 500
        assert message in caplog.text
        caplog.clear()
    async with connect(Silent) as stream:
        assert stream.status_code == 200
    with pytest.raises(ImproperlyConfigured, match=message):
        Plain().presence("room", timeout=1)


def test_a_broker_without_presence_is_found_by_a_check(settings: Any) -> None:
    settings.ROOT_URLCONF = __name__
    assert check_presence() == []
    settings.DJANGO_SSE = {"BROKER": {"BACKEND": f"{__name__}.Plain"}}
    found = [it.msg for it in check_presence() if it.id == "django_sse.E025"]
    assert any(it.startswith("Room.presence: Plain does not know") for it in found)
    assert any(it.startswith("Rare.presence: Plain does not know") for it in found)
    assert not any(it.startswith("Silent") for it in found)
    settings.DJANGO_SSE = {"BROKER": {"BACKEND": "nowhere"}}
    assert check_presence() == []


@pytest.mark.parametrize("value", [None, "room", ["room"], 2])
def test_presence_is_true_or_false(value: Any) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"presence must be True or False, got"):
        type("Wrong", (SSEView,), {"topics": ["room"], "presence": value})


def test_a_property_decides_for_each_stream() -> None:
    class Often(SSEView):
        topics = ["room"]

        @property
        def presence(self) -> bool:  # type: ignore[override]
            return bool(self.kwargs)

    assert Often()._may_be_present()


def test_the_hook_is_an_async_def() -> None:
    with pytest.raises(ImproperlyConfigured, match=r"get_presence\(\) must be an `async def`"):
        type("Wrong", (SSEView,), {"topics": ["a"], "get_presence": lambda self: True})


def test_the_events_of_presence_are_not_declared_twice() -> None:
    with pytest.raises(ImproperlyConfigured, match=r"Wrong.events must not have 'join'"):
        type("Wrong", (Silent,), {"presence": True})


async def test_join_and_leave_are_declared_where_presence_is_on(broker: Any) -> None:
    async with connect(Room) as stream:
        event = await stream.receive()
        assert (event.event, event.data) == ("join", '{"user":"0"}')
    await close_idle_register()


@override_settings(ROOT_URLCONF=__name__)
def test_the_schema_has_join_and_leave_where_presence_is_on() -> None:
    room, silent, shown = (
        {it["event"]: it["schema"] for it in stream["events"]} for stream in document()["streams"]
    )
    user = {"type": "object", "properties": {"user": {"type": "string"}}, "required": ["user"]}
    assert (room["join"], room["leave"], room["note"]) == (user, user, {"type": "string"})
    assert (silent["join"], silent.get("leave")) == ({"type": "integer"}, None)
    assert shown["join"] == user
