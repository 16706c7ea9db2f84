"""The ASGI handler, as servers use it beside streams, and as they break it off."""

from __future__ import annotations

import asyncio
import functools
import gc
import inspect
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
from asgiref.sync import async_to_sync, sync_to_async
from daphne.http_protocol import WebRequest
from django.core.exceptions import RequestAborted
from django.core.handlers.asgi import ASGIHandler as DjangosHandler
from django.core.signals import request_finished, request_started
from django.db import connection, connections
from django.http import HttpResponse
from django.urls import path

from django_sse import SSEView, sse_path
from django_sse.asgi import _Exchange, get_asgi_application
from django_sse.connection import request_threads
from django_sse.connection.roster import roster
from django_sse.testing import connect
from tests.support.waiting import eventually

reasons: list[str] = []


class Endless(SSEView):
    heartbeat = None

    async def stream(self) -> None:
        await self.send("open")
        await asyncio.Event().wait()

    async def disconnect(self) -> None:
        reasons.append(str(self.close_reason))


class Brief(Endless):
    """Ends by itself."""

    async def stream(self) -> None:
        await self.send("open")


class Stubborn(Endless):
    """Takes no notice of a cancellation while it connects."""

    connecting = asyncio.Event()

    async def connect(self) -> None:
        self.connecting.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0)


class Patient(Endless):
    """Takes its time to connect."""

    connecting = asyncio.Event()

    async def connect(self) -> None:
        self.connecting.set()
        await asyncio.Event().wait()


def queries(request: Any) -> HttpResponse:
    """Tell the thread, and how many queries its request has made."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    return HttpResponse(f"{threading.get_ident()} {len(connection.queries)}")


async def leave(request: Any) -> HttpResponse:
    await sync_to_async(sys.exit)(3)
    return HttpResponse()


async def nothing(request: Any) -> HttpResponse:
    return HttpResponse()


class Asking(Endless):
    """Asks another address of the same application before it begins."""

    application: Any = None

    async def connect(self) -> None:
        transport = httpx.ASGITransport(self.application)
        async with httpx.AsyncClient(transport=transport, base_url="http://testserver") as client:
            assert (await client.get("/nothing/")).status_code == 200


urlpatterns = [
    sse_path("asking/", Asking),
    path("leave/", leave),
    path("queries/", queries),
    path("nothing/", nothing),
    sse_path("endless/", Endless),
    sse_path("brief/", Brief),
    sse_path("stubborn/", Stubborn),
    sse_path("patient/", Patient),
]


@pytest.fixture
def application(settings: Any) -> Iterator[Any]:
    settings.ROOT_URLCONF = __name__
    settings.MIDDLEWARE = []
    reasons.clear()
    yield get_asgi_application()
    gc.collect()  # What is to be said of what was left unclosed is to be said here.


@pytest.fixture
async def client(application: Any) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(application)
    async with httpx.AsyncClient(transport=transport, base_url="http://testserver") as client:
        yield client


@pytest.mark.django_db(transaction=True)
async def test_what_django_does_as_a_request_starts_is_done_before_its_first_query(
    client: httpx.AsyncClient, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.DEBUG = True
    monkeypatch.setitem(connections.settings["default"], "CONN_MAX_AGE", 60)
    await eventually(lambda: not request_threads._idle)  # Those of other tests.
    told = []
    for _ in range(3):
        told.append((await client.get("/queries/")).text)
        await eventually(lambda: request_threads._idle)
    # The connection is kept, and the queries that it remembers are those of this request.
    assert told == [f"{told[0].split()[0]} 1"] * 3
    await request_threads.settle()


@pytest.mark.django_db(transaction=True)
def test_what_django_does_as_a_request_starts_is_done_for_a_synchronous_caller(
    application: Any, settings: Any
) -> None:
    settings.DEBUG = True
    transport = httpx.ASGITransport(application)

    async def get() -> str:
        async with httpx.AsyncClient(transport=transport, base_url="http://testserver") as client:
            return (await client.get("/queries/")).text

    # The caller's thread does the synchronous work, and the queries are those of the last request.
    assert [async_to_sync(get)() for _ in range(2)] == [f"{threading.get_ident()} 1"] * 2


async def test_a_receiver_that_another_thread_connects_as_a_request_begins_is_called(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    find, called = request_started._live_receivers, threading.Event()

    def receive(**kwargs: Any) -> None:
        called.set()

    def find_and_connect(sender: Any) -> Any:
        found = find(sender)
        monkeypatch.undo()
        thread = threading.Thread(target=request_started.connect, args=(receive,))
        thread.start()
        thread.join()
        return found

    monkeypatch.setattr(request_started, "_live_receivers", find_and_connect)
    try:
        assert (await client.get("/nothing/")).status_code == 200
    finally:
        request_started.disconnect(receive)
    assert called.is_set()


async def test_a_request_without_synchronous_work_has_one_trip_to_a_thread(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[threading.Thread] = []
    do = request_threads._do

    def count(*call: Any) -> None:
        done.append(threading.current_thread())
        do(*call)

    monkeypatch.setattr(request_threads, "_do", count)
    assert (await client.get("/nothing/")).status_code == 200
    # The response is closed there.
    assert len(done) == 1


@pytest.mark.django_db(transaction=True)
async def test_a_receiver_of_request_started_is_called_first_and_in_the_requests_thread(
    client: httpx.AsyncClient,
) -> None:
    called: list[int] = []

    def receive(scope: Any, **kwargs: Any) -> None:
        assert scope["path"] == "/queries/"
        called.append(threading.get_ident())

    request_started.connect(receive)
    try:
        answer = await client.get("/queries/")
    finally:
        request_started.disconnect(receive)
    assert answer.text.split()[0] == str(*called)


async def test_a_view_may_call_the_application_and_its_stream_still_outlives_its_request(
    application: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished: list[object] = []

    def receive(**kwargs: Any) -> None:
        finished.append(kwargs["sender"])

    monkeypatch.setattr(Asking, "application", application)
    request_finished.connect(receive)
    try:
        async with connect(application, "/asking/") as stream:
            await stream.receive()
            assert finished == [type(application)] * 2
    finally:
        request_finished.disconnect(receive)


@pytest.mark.skipif(
    "TaskGroup" in inspect.getsource(DjangosHandler.handle),
    reason="The server's own task raises it, and the server logs it.",
)
def test_the_log_says_which_code_ended_the_process(
    application: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def get() -> None:
        transport = httpx.ASGITransport(application)
        async with httpx.AsyncClient(transport=transport, base_url="http://testserver") as client:
            await client.get("/leave/")

    with pytest.raises(SystemExit):
        asyncio.run(get())
    assert "raised SystemExit" in caplog.text
    assert "in leave" in caplog.text


async def test_lifespan_ends_the_streams(application: Any, ending: Any) -> None:
    said: asyncio.Queue[str] = asyncio.Queue()
    answers: asyncio.Queue[str] = asyncio.Queue()

    async def receive() -> Any:
        return {"type": await said.get()}

    async def send(message: Any) -> None:
        answers.put_nowait(message["type"])

    lifespan = asyncio.ensure_future(application({"type": "lifespan"}, receive, send))
    said.put_nowait("lifespan.startup")
    assert await asyncio.wait_for(answers.get(), 5) == "lifespan.startup.complete"
    async with connect(application, "/endless/") as stream:
        await stream.receive()
        said.put_nowait("lifespan.shutdown")
        assert await asyncio.wait_for(answers.get(), 5) == "lifespan.shutdown.complete"
        await stream.receive_end()
        assert stream.retry is not None
    await asyncio.wait_for(lifespan, 5)
    assert reasons == ["shutdown"]
    async with connect(application, "/endless/") as stream:
        assert stream.status_code == 503


class Server:
    """One request, whose application is cancelled while its view connects."""

    def __init__(self, *, daphne: bool) -> None:
        self.sent: list[Any] = []
        self.asked = False
        self.send: Any = self._send
        if daphne:
            self.send = functools.partial(self._send_for, WebRequest.__new__(WebRequest))

    async def _send(self, message: Any) -> None:
        self.sent.append(message)

    async def _send_for(self, request: WebRequest, message: Any) -> None:
        await self._send(message)

    async def receive(self) -> Any:
        if not self.asked:
            self.asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        return await asyncio.Event().wait()

    async def cancel(self, application: Any, path: str, connecting: asyncio.Event) -> Any:
        headers = [(b"host", b"testserver")]
        scope = {"type": "http", "method": "GET", "path": path, "headers": headers}
        task = asyncio.ensure_future(application(scope, self.receive, self.send))
        await asyncio.wait_for(connecting.wait(), 5)
        task.cancel()
        await asyncio.wait([task], timeout=5)
        return task


@pytest.mark.parametrize("daphne", [False, True])
async def test_cancellation_in_the_handshake_is_kept_from_daphne(
    application: Any, monkeypatch: pytest.MonkeyPatch, daphne: bool
) -> None:
    monkeypatch.setattr(Patient, "connecting", asyncio.Event())
    server = Server(daphne=daphne)
    task = await server.cancel(application, "/patient/", Patient.connecting)
    # Daphne would take the first that ends as cancelled for the end of all.
    assert task.cancelled() is not daphne
    assert server.sent == reasons == []


async def test_stream_that_connects_in_spite_of_its_cancellation_does_not_begin(
    application: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Stubborn, "connecting", asyncio.Event())
    server = Server(daphne=False)
    task = await server.cancel(application, "/stubborn/", Stubborn.connecting)
    assert task.cancelled()
    assert server.sent == []
    # Django 6.1 runs the view in the very task that is cancelled, which is a failure then.
    assert reasons in (["shutdown"], ["error"])


class Tardy(Server):
    """A server that takes a while to break off a ``receive()``."""

    def __init__(self) -> None:
        super().__init__(daphne=False)
        self.leaving = asyncio.Event()

    async def receive(self) -> Any:
        try:
            return await super().receive()
        except asyncio.CancelledError:
            self.leaving.set()
            await asyncio.sleep(0.1)
            raise


async def test_server_that_cancels_again_leaves_no_stream_behind(
    application: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    adopt = Endless.adopt

    def adopt_and_cancel(self: Endless, *args: Any) -> None:
        # The stream is ready, and the handler about to be told so.
        adopt(self, *args)
        task.cancel()

    monkeypatch.setattr(Endless, "adopt", adopt_and_cancel)
    server = Tardy()
    headers = [(b"host", b"testserver")]
    scope = {"type": "http", "method": "GET", "path": "/endless/", "headers": headers}
    task = asyncio.ensure_future(application(scope, server.receive, server.send))
    await asyncio.wait_for(server.leaving.wait(), 5)
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0.01)
    await asyncio.wait([task], timeout=5)
    assert task.done()
    assert len(reasons) == 1
    assert roster.streams() == []


async def test_what_tasks_of_djangos_handler_raised_is_looked_at() -> None:
    complaints: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(
        lambda loop, context: complaints.append(context)
    )

    async def abort() -> None:
        raise RequestAborted

    async def nobody(message: Any = None) -> Any:
        raise AssertionError("Nobody is asked.")

    async def leave_to(exchange: _Exchange) -> None:
        task = asyncio.create_task(abort())
        exchange._tasks.add(task)
        await asyncio.wait([task])

    for looks in (True, False):
        exchange = _Exchange(nobody, nobody, None)
        await leave_to(exchange)
        if looks:
            await exchange.stop()
        del exchange
        gc.collect()
        assert len(complaints) == (not looks)


async def test_handler_that_is_called_past_ours_streams_too(
    application: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def past(scope: Any, receive: Any, send: Any) -> None:
        await DjangosHandler.__call__(application, scope, receive, send)

    for address, reason in (("/endless/", "client"), ("/brief/", "completed")):
        async with connect(past, address) as stream:
            assert (await stream.receive()).data == "open"
            if address == "/brief/":
                await stream.receive_end()
        assert reasons.pop() == reason
    assert roster.streams() == []


async def test_stream_begins_where_a_wrapper_keeps_the_start_to_itself(
    application: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    send_response = DjangosHandler.send_response
    kept: list[Any] = []

    async def keep(message: Any) -> None:
        kept.append(message)

    async def keep_once(self: Any, response: Any, send: Any) -> None:
        await send_response(self, response, send if kept else keep)

    monkeypatch.setattr(DjangosHandler, "send_response", keep_once)
    async with connect(application, "/endless/") as stream:
        assert stream.status_code == 200
        assert (await stream.receive()).data == "open"
    assert [message["type"] for message in kept] == ["http.response.start", "http.response.body"]


async def test_stream_that_cannot_be_taken_over_is_ended(
    application: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Any, *args: Any) -> None:
        raise RuntimeError("no thread")

    monkeypatch.setattr(Endless, "adopt", refuse)
    with pytest.raises(RuntimeError, match="no thread"):
        async with connect(application, "/endless/"):
            raise AssertionError
    assert reasons == ["error"]
    assert roster.streams() == []


async def test_disconnect_that_was_heard_is_answered_for_ever() -> None:
    heard: list[str] = []

    async def receive() -> Any:
        heard.append("http.disconnect")
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        raise AssertionError

    exchange = _Exchange(receive, send, asyncio.current_task())
    for _ in range(3):
        assert await exchange.receive() == {"type": "http.disconnect"}
    assert heard == ["http.disconnect"]
