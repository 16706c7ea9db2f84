"""Templates that are sent and published: what of them arrives, and where they are rendered."""

from __future__ import annotations

import datetime
import threading
from collections.abc import Iterator
from typing import Any

import jinja2
import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import Group, User
from django.core.exceptions import SynchronousOnlyOperation
from django.db import transaction
from django.http import HttpRequest
from django.middleware.csrf import CsrfViewMiddleware
from django.template import TemplateDoesNotExist
from django.template.utils import InvalidTemplateEngineError
from django.test import RequestFactory, override_settings
from django.utils import translation
from django.utils.connection import ConnectionDoesNotExist
from django.utils.safestring import SafeString
from rest_framework.authentication import BaseAuthentication

from django_sse import (
    InvalidEvent,
    InvalidTopic,
    ServerSentEvent,
    SSEView,
    StreamClosed,
    Topic,
    UndeclaredEvent,
    apublish,
    apublish_template,
    publish,
    publish_template,
    sse_path,
)
from django_sse.asgi import get_asgi_application
from django_sse.testing import Published, connect
from django_sse.topics import declarations, publishing

DJANGO = {
    "row.html": "<li>\n{{ item }}\r\n{{ count }}\r</li>",
    "greeting.html": "{{ request.path }} {{ user.username }} {{ color }} [{{ csrf_token }}]",
    "thread.html": "{{ where }}",
    "groups.html": "{% for group in groups %}<b>{{ group.name }}</b>{% endfor %}",
    "now.html": "{{ group.name }}",
    "date.html": "{{ day|date:'F' }}",
}
JINJA = {
    "only.jinja": "<i>{{ item }}</i>",
    "form.jinja": "{{ request.path }}{{ csrf_input }}",
    "row.html": "jinja",
}


def color(request: HttpRequest) -> dict[str, str]:
    """What a context processor of a project's makes of a request."""
    return {"color": request.COOKIES.get("color", "none")}


TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "OPTIONS": {
            "loaders": [("django.template.loaders.locmem.Loader", DJANGO)],
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "tests.topics.test_templates.color",
            ],
        },
    },
    {
        "BACKEND": "django.template.backends.jinja2.Jinja2",
        "NAME": "jinja",
        "OPTIONS": {"loader": jinja2.DictLoader(JINJA)},
    },
]


@pytest.fixture(autouse=True)
def _templates() -> Iterator[None]:
    with override_settings(TEMPLATES=TEMPLATES):
        yield


class Ada(BaseAuthentication):
    def authenticate(self, request: Any) -> Any:
        return User(username="ada"), None


class Rendering(SSEView):
    """Sends one template, as the test says."""

    authentication_classes = [Ada]
    heartbeat = None
    template: Any = "row.html"
    context: Any = None
    given: Any = {}

    async def stream(self) -> None:
        await self.send_template(self.template, self.context, **self.given)


COOKIE = {"Cookie": "color=red; csrftoken=" + "a" * 32}
MIDDLEWARE = ["django.middleware.csrf.CsrfViewMiddleware"]
urlpatterns = [
    sse_path("rows/", Rendering.as_view(template="greeting.html", given={"request": True}))
]


async def sent(template: Any, context: Any = None, /, **options: Any) -> Any:
    view = Rendering.as_view(template=template, context=context, given=options)
    async with connect(view, "/rows/") as stream:
        return await stream.receive()


async def test_template_is_sent_in_one_event_with_its_fields() -> None:
    row = {"item": "<Cup>", "count": 2}
    options = {"event": "row", "id": "7", "retry": 2000, "comments": "c"}
    view = Rendering.as_view(template="row.html", context=row, given=options)
    async with connect(view) as stream:
        await stream.receive()
        await stream.receive_end()
        assert stream.received.partition(b"\n\n")[2] == (
            b"event: row\ndata: <li>\ndata: &lt;Cup&gt;\ndata: 2\ndata: </li>\n"
            b"id: 7\nretry: 2000\n: c\n\n"
        )


@pytest.mark.parametrize(
    ("template", "options", "expected"),
    [
        ("row.html", {}, "<li>\na&b\n\n</li>"),
        ("only.jinja", {}, "<i>a&amp;b</i>"),
        ("row.html", {"using": "jinja"}, "jinja"),
        (("absent.html", "row.html"), {"using": "jinja"}, "jinja"),
        (["absent.html", "only.jinja"], {}, "<i>a&amp;b</i>"),
        (["absent.html", "only.jinja"], {"wrap": str.upper}, "<I>A&AMP;B</I>"),
    ],
)
async def test_template_is_found_as_django_finds_it(
    template: Any, options: Any, expected: str
) -> None:
    item = {"item": SafeString("a&b") if expected.startswith("<li>") else "a&b"}
    assert (await sent(template, item, **options)).data == expected


async def test_template_has_the_request_where_it_is_asked_for() -> None:
    assert (await sent("greeting.html")).data == "   []"
    with override_settings(ROOT_URLCONF=__name__, MIDDLEWARE=MIDDLEWARE):
        async with connect(get_asgi_application(), "/rows/", headers=COOKIE) as stream:
            path, user, cookie, token = str((await stream.receive()).data).split()
    assert (path, user, cookie) == ("/rows/", "ada", "red")
    # The token is one that a form of the page can send: it fits the page's cookie.
    request = RequestFactory().post("/", {"csrfmiddlewaretoken": token[1:-1]})
    request.COOKIES["csrftoken"] = "a" * 32
    middleware = CsrfViewMiddleware(lambda request: None)  # type: ignore[arg-type, return-value]
    middleware.process_request(request)
    assert middleware.process_view(request, lambda: None, (), {}) is None
    # Jinja2 has no context processors, and `request` and `csrf_input`.
    found = (await sent("form.jinja", request=True)).data
    assert found.startswith('/rows/<input type="hidden" name="csrfmiddlewaretoken"')


async def test_template_has_the_request_under_channels_routing() -> None:
    view = Rendering.as_asgi(template="greeting.html", given={"request": True})
    async with connect(view, "/rows/") as stream:
        assert (await stream.receive()).data.startswith("/rows/ ada none")


async def test_template_is_rendered_in_the_pool_with_the_streams_language() -> None:
    def where() -> str:
        return threading.current_thread().name

    assert (await sent("thread.html", {"where": where})).data == "django_sse"
    with translation.override("de"):
        assert (await sent("date.html", {"day": datetime.date(2026, 5, 1)})).data == "Mai"


@pytest.mark.django_db(transaction=True)
async def test_template_may_query() -> None:
    await Group.objects.acreate(name="a")
    assert (await sent("groups.html", {"groups": Group.objects.all})).data == "<b>a</b>"


async def test_wrap_may_return_an_event() -> None:
    def wrap(html: SafeString) -> ServerSentEvent:
        assert isinstance(html, SafeString)
        return ServerSentEvent(html.upper(), event="patch")

    event = await sent("only.jinja", {"item": "a"}, wrap=wrap)
    assert (event.event, event.data) == ("patch", "<I>A</I>")


async def test_stream_that_has_ended_renders_nothing() -> None:
    rendered: list[str] = []
    errors: list[str] = []

    class Late(Rendering):
        async def connect(self) -> None:
            with pytest.raises(StreamClosed) as early:
                await self.send_template("thread.html", {"where": lambda: rendered.append("x")})
            errors.append(str(early.value))

        async def stream(self) -> None:
            await self.send("open")

        async def disconnect(self) -> None:
            with pytest.raises(StreamClosed) as late:
                await self.send_template("thread.html", {"where": lambda: rendered.append("x")})
            errors.append(str(late.value))

    async with connect(Late) as stream:
        await stream.receive()
        await stream.receive_end()
    assert rendered == []
    assert "has not begun" in errors[0]
    assert "has ended (completed)" in errors[1]


# What is published.


def test_published_template_is_rendered_once_and_reaches_all(
    sse_published: list[Published],
) -> None:
    calls: list[int] = []
    context = {"where": lambda: calls.append(1) or "text"}
    event_id = publish_template(
        ["a", "b"], "thread.html", context, event="row", retry=5, comments="c", key="k"
    )
    [published] = sse_published
    assert published == Published(
        ("a", "b"), ServerSentEvent("text", event="row", id=event_id, retry=5, comments="c"), "k"
    )
    assert calls == [1]


@pytest.mark.django_db(transaction=True)
def test_published_template_is_that_of_the_call_and_sent_on_commit(
    sse_published: list[Published],
) -> None:
    group = Group(name="before")
    with transaction.atomic():
        assert publish_template("a", "now.html", {"group": group}) is None
        group.name = "after"
        assert sse_published == []
    assert [it.event.data for it in sse_published] == ["before"]
    with transaction.atomic():
        publish_template("a", "now.html", {"group": group})
        publish_template("a", "now.html", {"group": group}, on_commit=False)
        transaction.set_rollback(True)
    assert [it.event.data for it in sse_published] == ["before", "after"]


def test_published_template_takes_the_other_arguments(sse_published: list[Published]) -> None:
    first = publish_template("a", "only.jinja", {"item": 1}, using="jinja", idempotency_key="i")
    assert publish_template("a", "only.jinja", {"item": 2}, idempotency_key="i") == first
    publish_template("a", "row.html", using="jinja", wrap=str.upper, exclude="x" * 8)
    assert [it.event.data for it in sse_published] == ["<i>1</i>", "JINJA"]


async def test_template_is_published_from_a_coroutine(sse_published: list[Published]) -> None:
    class Publishing(SSEView):
        async def stream(self) -> None:
            where = {"where": lambda: threading.current_thread().name}
            await apublish_template("a", "thread.html", where, event="row", key="k")

    async with connect(Publishing) as stream:
        await stream.receive_end()
    [published] = sse_published
    assert (published.event.data, published.event.event, published.key) == (
        "django_sse",
        "row",
        "k",
    )
    with pytest.raises(SynchronousOnlyOperation, match="await apublish_template"):
        publish_template("a", "thread.html")


class Following(SSEView):
    authentication_classes = []
    heartbeat = None
    topics = ["a"]


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_published_template_leaves_out_who_is_excluded_and_is_published_once(
    asynchronous: bool, sse_published: list[Published]
) -> None:
    publishing = apublish_template if asynchronous else sync_to_async(publish_template)
    async with connect(Following, "/a/?sse_client=client-of-mine") as stream:
        while (await stream.receive_block()).id is None:
            pass
        mine = {"exclude": "client-of-mine", "retry": 5, "comments": "c", "idempotency_key": "i"}
        first = await publishing("a", "row.html", **mine)
        assert await publishing("a", "row.html", **mine) == first
        await publishing("a", "thread.html", {"where": "others"})
        assert (await stream.receive()).data == "others"
    assert [(it.event.retry, it.event.comments) for it in sse_published] == [(5, "c"), (None, None)]


def test_published_template_waits_for_the_database_that_is_named(
    sse_published: list[Published],
) -> None:
    with pytest.raises(ConnectionDoesNotExist, match="absent"):
        publish_template("a", "row.html", database="absent")
    assert sse_published == []


def test_errors_of_templates_say_what_to_do(sse_published: list[Published]) -> None:
    with pytest.raises(TemplateDoesNotExist, match=r"absent\.html") as absent:
        publish_template("a", "absent.html")
    assert not hasattr(absent.value, "__notes__")
    with pytest.raises(InvalidTemplateEngineError) as engine:
        publish_template("a", "row.html", using="other")
    assert "publish_template(database=…)" in engine.value.__notes__[0]
    with pytest.raises(InvalidTopic):
        publish_template("", "row.html")
    assert sse_published == []


# Whole events.


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_whole_event_is_published_with_its_fields(
    asynchronous: bool, sse_published: list[Published]
) -> None:
    async def call(*args: Any, **kwargs: Any) -> Any:
        return await (apublish if asynchronous else sync_to_async(publish))(*args, **kwargs)

    event = ServerSentEvent({"a": 1}, event="e", retry=7, comments="c")
    event_id = await call("a", event, key="k")
    assert sse_published == [
        Published(("a",), ServerSentEvent('{"a":1}', "e", event_id, 7, "c"), "k")
    ]
    with pytest.raises(TypeError, match=r"ServerSentEvent alone.*dataclasses\.replace"):
        await call("a", event, event="other")
    with pytest.raises(InvalidEvent, match="the broker gives it one"):
        await call("a", ServerSentEvent("a", id="7"))
    assert len(sse_published) == 1


def test_whole_event_is_held_to_the_declaration(
    sse_published: list[Published], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(declarations, "declared_topics", declarations.declared_topics.copy())
    monkeypatch.setattr(publishing, "declared_topics", declarations.declared_topics)
    rows = Topic("rows-of-templates", events={"row": str})
    publish_template(rows, "row.html", event="row")
    publish(rows, ServerSentEvent("a", event="row"))
    with pytest.raises(UndeclaredEvent):
        publish(rows, ServerSentEvent("a", event="column"))
    assert [it.event.event for it in sse_published] == ["row", "row"]
