"""``sse_schema``: the streams of a project in one document."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from django.test import override_settings
from django.urls import include, path, re_path

from django_sse import SSEView, sse_path


class Ticks(SSEView):
    """The time."""

    events = {"tick": dict, "end": None, None: str}
    topics = ["ticks"]


class Rooms(SSEView):
    http_method_names = ["get", "post"]

    @property
    def topics(self) -> list[str]:  # type: ignore[override]
        return [f"room:{self.kwargs['room']}"]  # Known with a connection only.


inner = [sse_path("<int:room>/", Rooms, name="room")]
urlpatterns = [
    sse_path("ticks/", Ticks),
    path("rooms/<slug:shop>/", include((inner, "rooms"))),
    re_path(r"^old/(?P<year>[0-9]{4})/$", Ticks.as_view(events=None), name="old"),
    path("page/", lambda request: None),
]


@override_settings(ROOT_URLCONF=__name__)
def test_streams_and_their_events_are_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call_command("sse_schema")
    document = json.loads(capsys.readouterr().out)
    ticks, room, old = document["streams"]
    assert ticks == {
        "path": "/ticks/",
        "name": None,
        "view": f"{__name__}.Ticks",
        "description": "The time.",
        "methods": ["GET"],
        "topics": ["ticks"],
        "events": [
            {"event": "tick", "schema": {"type": "object"}},
            {"event": "end", "schema": {"type": "null"}},
            {"event": None, "schema": {"type": "string"}},
            {"event": "dropped", "schema": {}},
            {"event": "reset", "schema": {}},
            {"event": "revoked", "schema": {}},
        ],
    }
    assert (room["path"], room["name"]) == ("/rooms/{shop}/{room}/", "rooms:room")
    assert (room["methods"], room["events"]) == (["GET", "POST"], None)
    assert (old["path"], old["events"]) == ("/old/{year}/", None)
    assert document["schemas"] == {}
    file = tmp_path / "streams.json"
    call_command("sse_schema", output=str(file))
    assert json.loads(file.read_text()) == document
    with pytest.raises(CommandError, match="cannot be written"):
        call_command("sse_schema", output=str(tmp_path / "none" / "streams.json"))
