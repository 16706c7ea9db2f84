"""``sse_schema --asyncapi``: a document that AsyncAPI's own parser takes, and that streams keep to."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import Group
from django.core.management import CommandError, call_command
from django.test import override_settings
from django.urls import include, path, re_path
from jsonschema import Draft7Validator
from rest_framework import serializers

from django_sse import JobView, ServerSentEvent, SSEView, Topic, sse_path
from django_sse.testing import connect
from tests.support.npm import ASYNCAPI, install, node

SCRIPT = Path(__file__).parent / "scripts" / "asyncapi.mjs"


class GroupSerializer(serializers.ModelSerializer[Group]):
    name = serializers.CharField(help_text="How it is called.", allow_null=True)
    parent = serializers.SerializerMethodField()

    class Meta:
        model = Group
        fields = ["id", "name", "parent"]

    def get_parent(self, obj: Group) -> int | None:
        return None


ROOMS = Topic("asyncapi:rooms", events={"opened": int, "closed": None})


class Groups(SSEView):
    """The groups."""

    serializer_classes = {Group: GroupSerializer}
    topics = [ROOMS]
    events = {
        "group": Group,
        "groups": list[Group],
        "either": Group | str,
        "text": str,
        "end": None,
        "opened": str | None,
        "a/b ~c": dict,
        "a_b_c": dict,
        None: float,
    }

    async def stream(self) -> Any:
        group = Group(id=1, name="g")
        yield ServerSentEvent(group, event="group", id="1")
        yield ServerSentEvent([group], event="groups", retry=100)
        yield ServerSentEvent("7", event="text")
        yield ServerSentEvent("", event="end")
        yield ServerSentEvent(7, event="opened")
        yield ServerSentEvent({"a": 1}, event="a/b ~c")
        yield ServerSentEvent(1.5)
        yield ServerSentEvent('{"count":2}', event="dropped")


class Rooms(SSEView):
    http_method_names = ["get", "post"]
    topics = ["rooms"]


class Counting(JobView):
    """Counts to two."""

    events = {"number": int}

    async def work(self) -> None:
        await self.progress(0)
        await self.send(1, event="number")
        await self.progress(1, 2)


inner = [sse_path("<int:room>/", Rooms, name="room"), sse_path("other/", Rooms, name="room")]
urlpatterns = [
    sse_path("groups/", Groups),
    path("rooms/<slug:shop>/", include((inner, "rooms"))),
    sse_path("counting/", Counting),
    re_path(r"^old/(?P<year>[0-9]{4})/$", Rooms.as_view(), name="old"),
]


@pytest.fixture
def urls() -> Iterator[None]:
    with override_settings(ROOT_URLCONF=__name__):
        yield


def written(file: Path, **options: Any) -> dict[str, Any]:
    call_command("sse_schema", asyncapi=True, output=str(file), **options)
    return json.loads(file.read_text())  # type: ignore[no-any-return]


@pytest.mark.usefixtures("urls")
@pytest.mark.parametrize(
    "options",
    [{}, {"title": "Shop", "api_version": "2.1", "server": "https://shop.example:8443/live/"}],
)
def test_document_is_valid(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, options: dict[str, str]
) -> None:
    program = node()
    packages = install(tmp_path_factory, ASYNCAPI, name="npm-asyncapi")
    file = tmp_path / "asyncapi.json"
    document = written(file, **options)
    assert document["asyncapi"] == "3.0.0"
    assert found(program, packages, file) == []
    # The parser sees what is wrong: also a reference that leads nowhere.
    document["operations"]["send_Groups"]["channel"]["$ref"] = "#/channels/none"
    file.write_text(json.dumps(document))
    assert "operations/send_Groups/channel" in str(found(program, packages, file))


def found(program: str, packages: Path, file: Path) -> list[list[Any]]:
    """Return the parser's errors and warnings, each with its place."""
    done = subprocess.run(
        [program, str(SCRIPT), str(packages), str(file)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [it for it in json.loads(done.stdout) if it[0] <= 1]


@pytest.mark.usefixtures("urls")
def test_channels_and_operations_are_those_of_the_streams(tmp_path: Path) -> None:
    document = written(tmp_path / "asyncapi.json", server="https://shop.example:8443/live/")
    channels = document["channels"]
    assert document["servers"]["default"] == {
        "host": "shop.example:8443",
        "protocol": "https",
        "pathname": "/live",
    }
    assert {key: it["address"] for key, it in channels.items()} == {
        "Groups": "/groups/",
        "rooms_room": "/rooms/{shop}/{room}/",
        "rooms_room_2": "/rooms/{shop}/other/",
        "Counting": "/counting/",
        "old": "/old/{year}/",
    }
    assert channels["Groups"]["description"] == "The groups."
    assert set(channels["rooms_room"]["parameters"]) == {"shop", "room"}
    assert [it["name"] for it in channels["Groups"]["messages"].values()] == [
        "group", "groups", "either", "text", "end", "opened", "a/b ~c", "a_b_c", "message",
        "closed", "reset", "dropped", "revoked",
    ]  # fmt: skip
    assert list(channels["old"]["messages"]) == ["event"]
    operations = {
        key: (it["action"], it["channel"]["$ref"], it["bindings"]["http"]["method"])
        for key, it in document["operations"].items()
    }
    assert operations["send_Groups"] == ("send", "#/channels/Groups", "GET")
    assert operations["send_old_get"] == ("send", "#/channels/old", "GET")
    assert operations["send_old_post"] == ("send", "#/channels/old", "POST")
    # A DELETE cancels a job, and opens no stream.
    assert [it for it in operations if "Counting" in it] == [
        "send_Counting_get",
        "send_Counting_post",
    ]
    assert len(operations) == 9


@pytest.mark.usefixtures("urls", "broker")
async def test_each_event_is_valid_as_the_one_message_of_its_name(tmp_path: Path) -> None:
    document = written(tmp_path / "asyncapi.json")
    messages = document["channels"]["Groups"]["messages"].values()
    async with connect(Groups) as stream:
        hold(messages, [await stream.receive() for _ in range(8)], document)
    opened = next(it["payload"] for it in messages if it["name"] == "opened")
    assert opened == {"anyOf": [{"type": "string"}, {"const": ""}, {"type": "integer"}]}
    kinds = {it["name"]: it.get("contentType") for it in messages}
    assert kinds["group"] == "application/json"
    assert kinds["end"] == kinds["text"] == "text/plain"
    assert kinds["either"] is None
    of_job = document["channels"]["Counting"]["messages"].values()
    async with connect(Counting, method="POST") as stream:
        hold(of_job, [await stream.receive() for _ in range(5)], document)
        assert [it.event for it in stream.blocks if it.data is not None] == [
            "job", "progress", "number", "progress", "end",
        ]  # fmt: skip


def hold(messages: Any, events: list[ServerSentEvent], document: dict[str, Any]) -> None:
    """Hold events to the messages of a channel."""
    for event in events:
        headers = {
            name: value
            for name in ("event", "id", "retry")
            if (value := getattr(event, name)) is not None
        }
        [message] = [it for it in messages if valid(it["headers"], headers, document)]
        assert message["name"] == (event.event or "message")
        text = message.get("contentType") == "text/plain"
        data = event.data if text else json.loads(event.data)
        assert valid(message["payload"], data, document), message
        # Each payload says something: a value that never comes is found.
        assert not valid(message["payload"], [None], document), message


def valid(schema: dict[str, Any], value: Any, document: dict[str, Any]) -> bool:
    return Draft7Validator({**schema, "components": document["components"]}).is_valid(value)


@pytest.mark.usefixtures("urls")
def test_options_that_are_of_no_use_are_refused() -> None:
    for server in ("shop.example", "ftp://shop.example/", "https://a:b@shop.example/", "https://["):
        with pytest.raises(CommandError, match="--server: "):
            call_command("sse_schema", asyncapi=True, server=server)
    with pytest.raises(CommandError, match="need --asyncapi"):
        call_command("sse_schema", title="Shop")
