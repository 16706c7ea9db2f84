"""The testing kit, as its users see it."""

from __future__ import annotations

import asyncio
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth import get_user_model
from django.core.exceptions import ImproperlyConfigured
from rest_framework.exceptions import ParseError
from rest_framework.permissions import IsAuthenticated

import django_sse
from django_sse import ServerSentEvent, SSEView, StreamFinished, apublish, publish
from django_sse.testing import (
    NothingReceived,
    StreamClient,
    StreamEnded,
    capture_published,
    connect,
    project_application,
)
from testproject.asgi import application

pytest_plugins = ["pytester"]


class Echo(SSEView):
    """Tells what it was asked with, and stays open."""

    http_method_names = ["get", "post", "head", "options"]

    async def stream(self) -> None:
        await self.send(
            {
                "method": self.request.method,
                "path": self.request.path,
                "query": self.request.query_params.dict(),
                "data": self.request.data,
                "header": self.request.headers.get("X-Test"),
                "id": self.last_event_id,
                "user": str(self.user),
                "kwargs": self.kwargs,
            },
            retry=5000,
        )
        await asyncio.Event().wait()


class Three(SSEView):
    """Sends three events, and ends."""

    async def stream(self) -> None:
        await self.send("a", id="1", comments="first")
        await self.send(comments="only")
        await self.send("b", event="e")
        await self.send("c")


class Fields(SSEView):
    """Sends every field."""

    async def stream(self) -> None:
        await self.send("d", event="e", id="7", retry=100, comments="c")
        await self.send(id="8")


@pytest.mark.parametrize("target", [Echo, Echo.as_view(), Echo.as_asgi()], ids=["v", "av", "asgi"])
async def test_connect_asks_as_told(target: Any) -> None:
    headers = {"X-Test": "yes", "Last-Event-ID": "é日"}
    path = "/a%20b/?q=%C3%A9&r=1"
    asked = connect(
        target, path, headers=headers, method="post", json={"a": [1]}, kwargs={"shop": 7}
    )
    async with asked as stream:
        assert stream.status_code == 200
        assert stream.headers["Content-TYPE"] == "text/event-stream"
        text = (await stream.receive()).data
        assert stream.retry == 5000
    assert text == (
        '{"method":"POST","path":"/a b/","query":{"q":"é","r":"1"},"data":{"a":[1]},'
        '"header":"yes","id":"é日","user":"AnonymousUser","kwargs":{"shop":7}}'
    )
    assert headers == {"X-Test": "yes", "Last-Event-ID": "é日"}


async def test_connect_sends_a_raw_body() -> None:
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    async with connect(Echo, method="POST", body=b"a=1", headers=headers) as stream:
        assert '"data":{"a":"1"}' in (await stream.receive()).data


@pytest.mark.django_db(transaction=True)
async def test_connect_authenticates_a_user() -> None:
    class Private(Echo):
        permission_classes = [IsAuthenticated]

    user = await get_user_model().objects.acreate(username="jet")
    async with connect(Private) as refused:
        assert refused.status_code in {401, 403}
        assert "credentials" in (await refused.json())["detail"]
    async with connect(Private, user=user, method="POST", json={}) as stream:
        assert '"user":"jet"' in (await stream.receive()).data
    # The same through the project's application, with its sessions and middleware.
    async with connect(application, "/orders/") as refused:
        assert refused.status_code in {401, 403}
    headers = {"Cookie": "django_language=de"}
    async with connect(application, "/orders/", user=user, headers=headers) as stream:
        assert stream.status_code == 200
        assert stream.headers["Content-Language"] == "de"
    assert headers == {"Cookie": "django_language=de"}


async def test_receive_returns_what_a_browser_dispatches() -> None:
    async with connect(Three) as stream:
        assert await stream.receive() == ServerSentEvent("a", id="1", comments="first")
        assert stream.last_event_id == "1"
        assert await stream.receive() == ServerSentEvent("b", "e")
        assert await stream.receive() == ServerSentEvent("c")
        with pytest.raises(StreamEnded, match=r"status 200\) has ended.*data: c"):
            await stream.receive()
        await stream.receive_end()
        await stream.receive_nothing()


async def test_everything_that_arrived_can_be_looked_at() -> None:
    async with connect(Fields) as stream:
        assert await stream.receive_block() == ServerSentEvent(comments="")
        assert await stream.receive_block() == ServerSentEvent("d", "e", "7", 100, "c")
        assert (stream.retry, stream.last_event_id) == (100, "8")
        assert await stream.receive_block() == ServerSentEvent(id="8")
        await stream.receive_end()
    assert stream.received == b":\n\nevent: e\ndata: d\nid: 7\nretry: 100\n: c\n\nid: 8\n\n"
    assert [block.id for block in stream.blocks] == [None, "7", "8"]


async def test_waiting_for_an_event_in_vain_fails() -> None:
    async with connect(Echo) as stream:
        await stream.receive()
        with pytest.raises(NothingReceived, match=r"No event came within 0.01 s\. The last bytes"):
            await stream.receive(timeout=0.01)
        with pytest.raises(AssertionError, match=r"The stream did not end within 0.01 s"):
            await stream.receive_end(timeout=0.01)
        with pytest.raises(AssertionError, match=r"response did not end within 0.01 s"):
            await stream.read(timeout=0.01)
        await stream.receive_nothing(timeout=0.01)


async def test_event_that_should_not_have_come_fails() -> None:
    async with connect(Three) as stream:
        with pytest.raises(AssertionError, match=r"Nothing should have come within .*data='a'"):
            await stream.receive_nothing()
        with pytest.raises(AssertionError, match=r"should have ended, but .*data='b'"):
            await stream.receive_end()
        # It is not lost on those who look for it.
        assert [block.data for block in stream.blocks if block.data] == ["a", "b", "c"]


async def test_refusal_can_be_looked_at() -> None:
    class Refusing(SSEView):
        async def connect(self) -> None:
            raise ParseError("Which shop?")

    class Over(SSEView):
        async def connect(self) -> None:
            raise StreamFinished

    async with connect(Refusing) as stream:
        assert stream.status_code == 400
        assert await stream.json() == {"detail": "Which shop?"}
        with pytest.raises(StreamEnded, match=r"status 400\).*Which shop"):
            await stream.receive()
    async with connect(Over) as stream:
        assert stream.status_code == 204
        assert await stream.read() == b""


async def test_leaving_waits_for_the_views_disconnect() -> None:
    ended = []

    class Slow(SSEView):
        async def stream(self) -> None:
            await asyncio.Event().wait()

        async def disconnect(self) -> None:
            await asyncio.sleep(0.05)
            await sync_to_async(ended.append)(self.close_reason)

    async with connect(Slow):
        assert ended == []
    assert ended == ["client"]


async def test_endless_stream_waits_for_its_reader() -> None:
    reached = 0

    class Endless(SSEView):
        async def stream(self) -> None:
            nonlocal reached
            while True:
                await self.send("x" * 1000)
                reached += 1

    async with connect(Endless) as stream:
        for _ in range(3):
            await stream.receive()
        before = -1
        # It sends what fits, which takes its time on a busy machine, and then waits.
        while before != reached < 5000:
            before = reached
            await asyncio.sleep(0.05)
        assert before == reached < 5000
        for _ in range(before):
            await stream.receive()
        assert reached > before


# What was published.


async def test_what_is_published_is_captured_and_still_arrives() -> None:
    class Following(SSEView):
        topics = ["orders"]

    with capture_published() as published:
        assert published == []
        async with connect(Following) as stream:
            # The opening, and the id alone by which a client that has seen nothing can resume.
            assert (await stream.receive_block()).comments == ""
            assert (await stream.receive_block()).data is None
            await apublish("orders", {"id": 7}, event="created", retry=5, comments="c", key="k")
            event = await stream.receive()
            await apublish(["other", "orders"], "text")
            assert (await stream.receive()).data == "text"
    assert event == ServerSentEvent('{"id":7}', "created", published[0].event.id, 5, "c")
    assert published[0] == (("orders",), event, "k")
    assert published[1][0] == ("other", "orders")
    assert (published[1].event.data, published[1].key) == ("text", None)
    assert stream.last_event_id == published[1].event.id


# Applications that are not as they should be.


async def test_application_without_a_response_fails() -> None:
    async def silent(scope: Any, receive: Any, send: Any) -> None:
        await receive()

    async def broken(scope: Any, receive: Any, send: Any) -> None:
        raise RuntimeError("broken")

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.Event().wait()

    with pytest.raises(AssertionError, match="ended without a response"):
        await connect(silent).__aenter__()
    with pytest.raises(RuntimeError, match="broken"):
        await connect(broken).__aenter__()
    with pytest.raises(AssertionError, match=r"No response began within 0.01 s"):
        await connect(slow, timeout=0.01).__aenter__()


class Manner:
    """An ASGI application that begins a response, and goes on as its test wants."""

    def __init__(self, after: Any) -> None:
        self._after = after

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"Set-Cookie", b"a=1"), (b"set-cookie", b"b=2")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await self._after(receive, send)


async def test_application_that_fails_later_fails_the_test() -> None:
    async def fail(receive: Any, send: Any) -> None:
        await send({"type": "http.response.body", "body": b"data: a\n\n", "more_body": True})
        raise RuntimeError("later")

    async with leaving(Manner(fail), RuntimeError, "later") as stream:
        assert stream.cookies == ["a=1", "b=2"]
        assert (await stream.receive()).data == "a"
        with pytest.raises(RuntimeError, match="later"):
            await stream.receive()


async def test_application_that_does_not_end_fails_the_test() -> None:
    ended = asyncio.Event()

    async def stay(receive: Any, send: Any) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with connect(Manner(stay)) as stream:
        with pytest.raises(AssertionError, match=r"had not ended 0.01 s after the client left"):
            await stream.disconnect(timeout=0.01)
        assert ended.is_set()
        stream._task = asyncio.create_task(asyncio.sleep(0))  # the block's end leaves once more


async def test_application_that_ignores_the_reader_is_let_go() -> None:
    async def pour(receive: Any, send: Any) -> None:
        async def one() -> None:
            for _ in range(20):
                await send({"type": "http.response.body", "body": b"x", "more_body": True})

        await asyncio.gather(*(one() for _ in range(50)))

    async with connect(Manner(pour)):
        await asyncio.sleep(0)


class leaving:  # noqa: N801
    """``connect()``, whose end raises."""

    def __init__(self, application: Any, error: type[Exception], match: str) -> None:
        self._connection = connect(application)
        self._raises = pytest.raises(error, match=match)

    async def __aenter__(self) -> StreamClient:
        return await self._connection.__aenter__()

    async def __aexit__(self, *error: Any) -> None:
        with self._raises:
            await self._connection.__aexit__(*error)


async def test_application_that_leaves_its_response_open_ends_the_stream() -> None:
    async def stop(receive: Any, send: Any) -> None:
        await send({"type": "http.response.body", "body": b"data: a\n\n", "more_body": True})

    async with connect(Manner(stop)) as stream:
        assert (await stream.receive()).data == "a"
        await stream.receive_end()


# The plugin.


async def test_fixture_connects_to_the_projects_application(sse_connect: Any) -> None:
    async with sse_connect("/serialization/", headers={"X-Test": "1"}) as stream:
        assert stream.status_code == 200
        assert [(await stream.receive()).data[:7] for _ in range(2)] == ['{"id":0'] * 2


def test_fixture_tells_what_was_published(sse_published: Any) -> None:
    publish("orders", {"id": 1}, event="created")
    assert [(p.topics, p.event.event) for p in sse_published] == [(("orders",), "created")]


# The plugin, in a project of a user.

PROJECT = {
    "settings": """
        SECRET_KEY = "x"
        INSTALLED_APPS = ["django_sse", "django.contrib.contenttypes", "django.contrib.auth"]
        ASGI_APPLICATION = "asgi.application"
        ROOT_URLCONF = "urls"
        USE_TZ = True
        """,
    "asgi": """
        import os
        from django_sse.asgi import get_asgi_application
        os.environ.setdefault("DJANGO_SETTINGS_MODULE", "settings")
        application = get_asgi_application()
        """,
    "urls": """
        from django_sse import sse_path
        from streams import Ticks
        urlpatterns = [sse_path("ticks/<int:first>/", Ticks)]
        """,
    "streams": """
        from itertools import count
        from django_sse import SSEView

        class Ticks(SSEView):
            async def stream(self):
                for i in count(self.kwargs["first"]):
                    await self.send({"tick": i}, id=str(i), event="tick")
        """,
    "test_ticks": """
        import pytest
        from django_sse import ServerSentEvent, publish
        from django_sse.testing import StreamEnded

        @pytest.mark.asyncio
        async def test_ticks_arrive(sse_connect):
            async with sse_connect("/ticks/7/") as stream:
                assert stream.status_code == 200
                assert stream.headers["content-type"] == "text/event-stream"
                for i in (7, 8, 9):
                    event = await stream.receive(timeout=10)
                    assert event == ServerSentEvent(f'{{"tick":{i}}}', event="tick", id=str(i))

        def test_publishing_is_noticed(sse_published):
            publish("ticks", {"tick": 1}, event="tick")
            [(topics, event, key)] = sse_published
            assert (topics, event.data, event.event) == (("ticks",), '{"tick":1}', "tick")

        @pytest.mark.asyncio
        async def test_nobody_is_there(sse_connect):
            async with sse_connect("/nobody/") as stream:
                assert stream.status_code == 404
                with pytest.raises(StreamEnded):
                    await stream.receive()

        @pytest.mark.asyncio
        async def test_that_fails(sse_connect):
            async with sse_connect("/ticks/1/") as stream:
                assert (await stream.receive()).data == "something else"
        """,
}


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package can be imported also by a pytest that runs elsewhere."""
    monkeypatch.setenv("PYTHONPATH", str(Path(django_sse.__file__).parent.parent))
    monkeypatch.delenv("DJANGO_SETTINGS_MODULE", raising=False)


def test_plugin_serves_a_users_project(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(**PROJECT)
    pytester.makeini("""
        [pytest]
        DJANGO_SETTINGS_MODULE = settings
        pythonpath = .
        asyncio_mode = strict
        asyncio_default_fixture_loop_scope = function
        filterwarnings = error
        """)
    result = pytester.runpytest_subprocess(*plugin_options(), "-p", "no:randomly")
    result.assert_outcomes(passed=3, failed=1)
    result.stdout.fnmatch_lines(["E * assert '{\"tick\":1}' == 'something else'"])


def test_plugin_leaves_projects_without_django_alone(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        "import sys\n\ndef test_it():\n    assert 'django_sse.views' not in sys.modules\n"
    )
    options = ["-p", "no:django", "-p", "no:pytest_django"]
    pytester.runpytest_subprocess(*plugin_options(), *options).assert_outcomes(passed=1)


def plugin_options() -> list[str]:
    """Load the plugin as a user's pytest does: by its entry point, where it is installed."""
    installed = {entry.value for entry in entry_points(group="pytest11")}
    return [] if "django_sse.pytest_plugin" in installed else ["-p", "django_sse.pytest_plugin"]


async def test_nothing_is_not_what_a_failed_stream_sends() -> None:
    class Failing(SSEView):
        async def stream(self) -> None:
            raise RuntimeError("a fault")

    async with connect(Failing) as stream:
        with pytest.raises(StreamEnded, match="a fault"):
            await stream.receive_nothing()
    with pytest.raises(RuntimeError, match="a fault"):
        async with connect(Failing) as stream:
            pass


def test_application_that_is_not_set_is_named(settings: Any) -> None:
    del settings.ASGI_APPLICATION
    with pytest.raises(ImproperlyConfigured, match="sse_connect needs ASGI_APPLICATION"):
        project_application()
