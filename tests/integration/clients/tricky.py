"""The events that every client is to show alike, and streams that are broken off."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterable
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.urls import path
from django.views import View
from rest_framework import serializers
from rest_framework.negotiation import DefaultContentNegotiation

from django_sse import ServerSentEvent, SSEView, StreamFinished, apublish, sse_path
from django_sse.contracts.typescript import javascript
from tests.project.journal import record

LARGE = "0123456789" * 100_000

#: Type, data, and id; and what a client is to show: type and data.
EVENTS: tuple[tuple[ServerSentEvent, tuple[str, str] | None], ...] = (
    (ServerSentEvent("plain"), ("message", "plain")),
    (
        ServerSentEvent("all fields", event="every", id="id-1", retry=100, comments="a comment"),
        ("every", "all fields"),
    ),
    (ServerSentEvent("one\ntwo\n\nfour\n", event="lines"), ("lines", "one\ntwo\n\nfour\n")),
    (ServerSentEvent("a\r\nb\rc", event="returns"), ("returns", "a\nb\nc")),
    (ServerSentEvent("", event="empty"), ("empty", "")),
    (ServerSentEvent(comments="only a comment\nof two lines"), None),
    (ServerSentEvent(LARGE, event="large"), ("large", LARGE)),
    (ServerSentEvent("𝄞 🜁 é 漢", event="astral"), ("astral", "𝄞 🜁 é 漢")),
    (ServerSentEvent("\ufeffbehind a BOM", event="bom"), ("bom", "\ufeffbehind a BOM")),
    (
        ServerSentEvent("  two blanks, : colons :, \t", event="blanks"),
        ("blanks", "  two blanks, : colons :, \t"),
    ),
    (
        ServerSentEvent("a\u2028b\u2029c\u0085d\x0be\x0cf\x1cg", event="no-ends"),
        ("no-ends", "a\u2028b\u2029c\u0085d\x0be\x0cf\x1cg"),
    ),
    (ServerSentEvent("nul \0 nul", event="nul"), ("nul", "nul \0 nul")),
    (ServerSentEvent("named Ä", event="Größe 🜁"), ("Größe 🜁", "named Ä")),
    (ServerSentEvent(id="id-2"), None),
    (ServerSentEvent(retry=120), None),
    (
        ServerSentEvent({"json": [1, None, "ü"]}, event="object"),
        ("object", '{"json":[1,null,"ü"]}'),
    ),
)
#: What is published after them, and its type and data.
PUBLISHED = (("one", "published"), ("two", "published"), ("end", "end"))

#: The names of the events, for clients that listen for each.
NAMES = tuple(dict.fromkeys([*(e[1][0] for e in EVENTS if e[1]), *(it for _, it in PUBLISHED)]))

LAST = 60  # the number of the last event of `Numbers`


def expected() -> list[list[str]]:
    """Return type, data and last id of each event that a client shows; `topic` is an id of the broker."""
    last, found = "", []
    for event, shown in EVENTS:
        last = last if event.id is None else event.id
        if shown is not None:
            found.append([*shown, last])
    return found + [[name, data, "topic"] for data, name in PUBLISHED]


def normal(events: Iterable[Iterable[str]]) -> list[list[str]]:
    """Return what a client has shown, its broker's ids as `topic`."""
    return [
        [kind, data, re.sub(r"^\d{13,}-\d+$", "topic", last or "")] for kind, data, last in events
    ]


class Open(SSEView):
    authentication_classes = []
    permission_classes = []


class Tricky(Open):
    """Heartbeats come between the events, as the settings say."""

    # A typed client leaves text as it is, and parses the rest.
    events = {None if it == "message" else it: dict if it == "object" else str for it in NAMES}

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # Of this connection alone: clients are tried at the same time.
        self.topic = f"tricky-{id(self)}"

    async def get_topics(self) -> list[str]:
        return [self.topic]

    async def stream(self) -> None:
        for number, (event, _) in enumerate(EVENTS):
            await self.send(event)
            if number in (1, 5, 8):
                await asyncio.sleep(0.25)
        self.publishing = asyncio.create_task(self.publish())
        await self.follow()

    async def publish(self) -> None:
        await asyncio.sleep(0.3)
        for data, name in PUBLISHED:
            await apublish(self.topic, data, event=name)

    async def disconnect(self) -> None:
        if publishing := getattr(self, "publishing", None):
            await publishing


class Numbers(Open):
    """The numbers from the one after the client's last id to `LAST`; then there is no more."""

    retry = 100
    event: str | None = "number"

    async def connect(self) -> None:
        self.first = int(self.last_event_id or 0) + 1
        if self.first > LAST:
            record("finished", key=self.request.GET.get("key"))
            raise StreamFinished

    async def stream(self) -> None:
        for number in range(self.first, LAST + 1):
            await self.send(self.text(number), event=self.event, id=str(number))
            await asyncio.sleep(0.05)

    def text(self, number: int) -> Any:
        return f"number {number}, padded {'.' * 50}"


class Items(Numbers):
    """The same as HTML, for htmx: named for htmx 2, without a name for htmx 4."""

    def text(self, number: int) -> str:
        return f"<li>number {number}, padded {'.' * 50}</li>"


class Signals(Numbers):
    """The same for Datastar, in the protocol of the version that npm has."""

    event = "datastar-merge-fragments"

    def text(self, number: int) -> str:
        item = f"<li data-id={number}>number {number}, padded {'.' * 50}</li>"
        return f"selector ul\nmergeMode append\nfragments {item}"


class PromptSerializer(serializers.Serializer[Any]):
    model = serializers.CharField()
    messages = serializers.ListField()


class AnyAccept(DefaultContentNegotiation):
    """OpenAI's client asks for JSON, also where it expects a stream."""

    def select_renderer(self, request: Any, renderers: Any, format_suffix: Any = None) -> Any:
        return renderers[0], renderers[0].media_type


class Completions(Open):
    """The protocol of OpenAI's chat completions."""

    content_negotiation_class = AnyAccept
    http_method_names = ["post"]

    async def connect(self) -> None:
        PromptSerializer(data=self.request.data).is_valid(raise_exception=True)

    async def stream(self) -> None:
        for number, word in enumerate(["Größe", " 🜁", " two\nlines"]):
            choice = {"index": 0, "delta": {"content": word}, "finish_reason": None}
            await self.send(
                {
                    "id": "answer",
                    "object": "chat.completion.chunk",
                    "created": number,
                    "model": self.request.data["model"],
                    "choices": [choice],
                }
            )
            await asyncio.sleep(0.25)
        await self.send("[DONE]")


class Blank(View):
    """A page of the same origin, without a script of its own."""

    def get(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse("<!DOCTYPE html><title>blank</title>")


#: How a typed client is used: the arguments behind the address, and what reads it.
MODES = {
    "handlers": "handlers",
    "fetch": "handlers, { fetch: true }",
    "iteration": "undefined",
    "shared": 'handlers, { shared: "a" }',
    "worker": 'handlers, { shared: "b", worker: "/typed.js" }',
    "script": "handlers",
}


class Typed(View):
    """A page with the generated client, which keeps type, data and id of each event in ``log``.

    ``?stream=…`` is the address of the stream, ``?mode=…`` one of ``MODES``.
    """

    def get(self, request: HttpRequest) -> HttpResponse:
        kind = MODES[request.GET["mode"]]
        if request.GET["mode"] == "script":
            client = """<script src="/typed-script.js"></script><script type="module">
            const { connect } = djangoSSE;"""
        else:
            client = '<script type="module">import { connect } from "/typed.js";'
        names, address = json.dumps(NAMES), json.dumps(request.GET["stream"])
        return HttpResponse(f"""<!DOCTYPE html><title>typed</title>
        <script>window.log = []; window.states = []; window.ended = false;</script>
        {client}
          const show = ({{ event, data, id }}) => {{
            log.push([event, typeof data === "string" ? data : JSON.stringify(data), id]);
            if (event === "end") stream.close();
          }};
          const handlers = {{}};
          for (const name of [...{names}, "number"]) handlers[name] = (_, event) => show(event);
          const stream = window.stream = connect({address}, {kind});
          window.watching = setInterval(() => {{
            if (states.at(-1) !== stream.state) states.push(stream.state);
            ended = stream.state === "closed";
          }}, 10);
          if ({json.dumps(kind == "undefined")}) for await (const event of stream) show(event);
        </script>""")


class TypedClient(View):
    """The client that is generated from this project's streams."""

    def get(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse(javascript(), content_type="text/javascript")


class TypedScript(View):
    """The same client as a plain script."""

    def get(self, request: HttpRequest) -> HttpResponse:
        text = javascript(script_global="djangoSSE")
        return HttpResponse(text, content_type="text/javascript")


urlpatterns = [
    sse_path("tricky/", Tricky),
    sse_path("numbers/", Numbers),
    sse_path("items/", Items),
    sse_path("unnamed-items/", Items.as_view(event=None)),
    sse_path("signals/", Signals),
    sse_path("v1/chat/completions", Completions),
    path("blank/", Blank.as_view()),
    path("typed/", Typed.as_view()),
    path("typed.js", TypedClient.as_view()),
    path("typed-script.js", TypedScript.as_view()),
]
