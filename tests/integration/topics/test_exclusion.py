"""``exclude``: the page that made a change does not get its event back; every other page does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode
from urllib.request import Request as Asked
from urllib.request import urlopen

import pytest
from django.http import HttpRequest
from django.template import Context, Template
from django.test import RequestFactory, override_settings
from rest_framework.parsers import JSONParser
from rest_framework.request import Request

from django_sse import alatest_event_id, apublish
from django_sse.brokers.base import Broker
from django_sse.exceptions import InvalidEvent
from django_sse.testing import connect
from django_sse.topics.exclusion import client_of, make_client
from tests.integration.topics.conftest import environment, memory, redis
from tests.integration.topics.harness import Connection
from tests.integration.topics.project.streams import Newest, Numbers
from tests.support.redis_server import RedisServer
from tests.support.servers import Server

ME, OTHER = "page-of-mine", "page-of-another"


class Quiet(Numbers):
    heartbeat = None

    async def snapshot(self) -> None:
        pass


class Rewinding(Quiet):
    rewind = 10


def address(client: str | None, topics: str = "a") -> str:
    return f"/?topics={topics}" + (f"&sse_client={client}" if client else "")


async def publish_all() -> list[str]:
    """Publish events of which some exclude a page; return what the page ``ME`` gets."""
    for number in range(6):
        await apublish("a", f"{number}", exclude=ME if number % 3 else None)
        await apublish(["b", "a"], f"other {number}", exclude=OTHER)
    return [text for n in range(6) for text in (f"{n}", f"other {n}") if n % 3 == 0 or " " in text]


async def test_the_excluded_page_gets_all_but_its_own_events(broker: Broker) -> None:
    everything = [text for number in range(6) for text in (f"{number}", f"other {number}")]
    since = await alatest_event_id()
    async with (
        connect(Quiet, address(ME)) as mine,
        connect(Quiet, address(None)) as nobodys,
        connect(Quiet, address(OTHER, "a,b")) as others,
    ):
        for stream in mine, nobodys, others:
            while (await stream.receive_block()).id is None:
                pass  # Until it has its cursor, and follows.
        for_me = await publish_all()
        assert [(await mine.receive()).data for _ in for_me] == for_me
        assert [(await nobodys.receive()).data for _ in everything] == everything
        assert [(await others.receive()).data for _ in range(6)] == list("012345")
        for stream in mine, nobodys, others:
            await stream.receive_nothing()
    # Neither does it get them when it comes back, or begins with the newest.
    async with connect(Quiet, address(ME), headers={"Last-Event-ID": since}) as back:
        assert [(await back.receive()).data for _ in for_me] == for_me
        await back.receive_nothing()
    async with connect(Rewinding, address(ME)) as rewound:
        # Of the newest ten, which begin with number 1, it is excluded from four.
        assert [(await rewound.receive()).data for _ in for_me[2:]] == for_me[2:]
        await rewound.receive_nothing()


async def test_a_slow_page_is_not_sent_its_own_events_later(broker: Broker) -> None:
    class Slow(Newest):
        heartbeat = None
        outbox_limit = 10_000_000

    async with connect(Slow, address(ME)) as mine:
        while (await mine.receive_block()).id is None:
            pass
        texts = [f"{number}".ljust(20_000, ".") for number in range(60)]
        for number, text in enumerate(texts):
            await apublish("a", text, exclude=ME if number % 2 else None)
        expected = texts[::2]
        assert [(await mine.receive(timeout=20)).data for _ in expected] == expected
        await mine.receive_nothing()


def post(server: Server, path: str, body: bytes, **headers: str) -> Any:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    with urlopen(Asked(f"{server.url}{path}", data=body, headers=names)) as answer:
        return json.loads(answer.read())


@pytest.mark.parametrize("kind", ["uvicorn", "daphne"])
async def test_a_page_is_left_out_by_header_form_and_query(
    kind: str, serve_numbers: Callable[..., Server], shared_redis: RedisServer
) -> None:
    env = environment(redis(shared_redis, PREFIX=f"{kind}:") if kind == "daphne" else memory())
    server = serve_numbers(kind, env)
    page = await asyncio.to_thread(lambda: urlopen(f"{server.url}/page/").read().decode())
    url, client = page.split()
    assert f"sse_client={client}" in url
    mine = await Connection.get(server.address, f"{url}&topics=a")
    others = await Connection.get(server.address, "/numbers/?topics=a")
    await others.until("snapshot")
    ways: list[tuple[str, bytes, dict[str, str]]] = [
        ("/change/", b"data=header", {"SSE_Client": client}),
        ("/change/", urlencode({"data": "form", "sse_client": client}).encode(), {}),
        (f"/change/?sse_client={client}", b"data=query", {}),
        ("/change/", b"data=everybody", {}),
        ("/change/", b"data=nonsense&sse_client=%22%3E%3Cscript%3E", {}),
    ]
    for path, body, headers in ways:
        await asyncio.to_thread(post, server, path, body, **headers)
    got: dict[Connection, list[str]] = {mine: [], others: []}
    async with asyncio.timeout(20):
        for stream, data in got.items():
            while "nonsense" not in data:
                data += [it.data for it in await stream.read() if it.data and not it.event]
    assert got[others] == ["header", "form", "query", "everybody", "nonsense"]
    assert got[mine] == ["everybody", "nonsense"]
    mine.drop()
    others.drop()


def test_a_page_has_one_id_and_its_fragments_too() -> None:
    template = Template(
        "{% load sse %}{% sse_client %} {% with x=1 %}{% sse_client %}{% endwith %} "
        "{% sse_url 'numbers' client=True %}"
    )
    with override_settings(ROOT_URLCONF="tests.integration.topics.project.urls"):
        for context in Context(), Context({"request": RequestFactory().get("/")}):
            first, second, url = template.render(context).split()
            assert first == second
            assert url.endswith(f"&sse_client={first}")
            assert client_of(RequestFactory().get(url)) == first
        fragment = RequestFactory().post("/", headers={"SSE-Client": ME})
        assert template.render(Context({"request": fragment})).split()[0] == ME
    assert make_client() != make_client()


def test_requests_of_django_and_drf_name_their_page() -> None:
    make = RequestFactory()
    form = make.post("/", {"sse_client": ME})
    parsed = Request(make.post("/", "{}", "application/json"), parsers=[JSONParser()])
    assert parsed.data == {}
    given: list[tuple[HttpRequest | Request, str | None]] = [
        (form, ME),
        (Request(make.post("/", {"sse_client": ME})), ME),
        (Request(make.get("/", headers={"SSE-Client": ME})), ME),
        (make.delete(f"/?sse_client={ME}"), ME),
        (parsed, None),
        (make.get("/?sse_client=short"), None),
        (make.get(f"/?sse_client={'x' * 65}"), None),
    ]
    for request, client in given:
        assert client_of(request) == client


@pytest.mark.parametrize("wrong", ["", "short", "with space", 7, b"page-of-mine", ["page-of-mine"]])
async def test_a_wrong_exclude_is_refused_at_once(broker: Broker, wrong: Any) -> None:
    with pytest.raises(InvalidEvent, match="exclude must be a request") as raised:
        await apublish("a", "data", exclude=wrong)
    assert raised.value.field == "exclude"
