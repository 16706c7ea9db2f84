"""Tickets: addresses that say who connects, for clients that cannot send headers."""

from __future__ import annotations

import html
import logging
import re
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import AnonymousUser, User
from django.core import signing
from django.core.exceptions import ImproperlyConfigured
from django.template import Context, Template
from django.test import RequestFactory
from django.urls import set_script_prefix
from rest_framework.authtoken.models import Token
from rest_framework.test import APIClient

from django_sse import tickets
from django_sse.asgi import get_asgi_application
from django_sse.testing import connect
from django_sse.tickets import make_ticket, with_ticket
from tests.project.journal import recorded

from .conftest import Serve

pytestmark = pytest.mark.django_db(transaction=True)

PATH = "/ticketed/"


@pytest.fixture
def application(settings: Any) -> Any:
    settings.ROOT_URLCONF = "tests.integration.health.project.urls"
    return get_asgi_application()


@pytest.fixture
def ann() -> User:
    return User.objects.create_user("ann", password="secret")


async def _status(application: Any, address: str, headers: dict[str, str] | None = None) -> int:
    async with connect(application, address, headers=headers) as stream:
        if stream.status_code == 200:
            assert '"user":"ann"' in str((await stream.receive()).data)
        else:
            assert address.partition("ticket=")[2] not in (await stream.read()).decode()
        return stream.status_code


async def test_ticket_opens_its_stream_again_and_again(application: Any, ann: User) -> None:
    address = with_ticket(PATH, make_ticket(ann, PATH))
    for _ in range(2):
        async with connect(application, address) as stream:
            assert stream.status_code == 200
            # The ticket itself is nowhere but in the address.
            assert '"auth":"ticket"' in str((await stream.receive()).data)


async def test_request_without_a_ticket_is_left_to_other_classes(
    application: Any, ann: User
) -> None:
    async with connect(application, PATH, user=ann) as stream:
        assert '"auth":null' in str((await stream.receive()).data)
    async with connect(application, PATH) as stream:
        assert stream.status_code == 401
        # A browser would ask for a password after "Basic".
        assert stream.headers["www-authenticate"] == "Ticket"


def _tampered(ticket: str) -> str:
    return ("b" if ticket[0] == "a" else "a") + ticket[1:]


def _of_others(ticket: str) -> str:
    """What the project signed for something else."""
    return signing.dumps(signing.loads(ticket, salt="django_sse.tickets"), salt="project.mails")


async def test_bad_ticket_is_refused(application: Any, ann: User) -> None:
    ticket = make_ticket(ann, PATH)
    for given in [
        _tampered(ticket),
        _of_others(ticket),
        ticket[:-1],
        "",
        ":",
        "x" * 5000,
        "\0\ud7ff" + ticket,
        f"{ticket}&ticket={ticket}",
        f"{ticket}&ticket=",
    ]:
        # Also where other credentials come along: a forged ticket is no accident.
        async with connect(application, f"{PATH}?ticket={given}", user=ann) as stream:
            assert stream.status_code == 401, given
            assert stream.headers["www-authenticate"] == "Ticket"
            assert await stream.json() == {
                "detail": "The ticket is not valid here, or not any more."
            }


async def test_ticket_is_good_for_its_path_alone(application: Any, ann: User) -> None:
    ticket = make_ticket(ann, PATH)
    for path in ["/ticketed/x/", "/decorated/", "/checked/ticket/"]:
        assert await _status(application, with_ticket(path, ticket)) == 401


async def test_paths_are_compared_as_they_are_resolved(application: Any, ann: User) -> None:
    for path in ["/ticketed/a%20b/", "/ticketed/%C3%A9/", "/ticketed/a%252Fb/", "/ticketed/a+b/"]:
        assert await _status(application, with_ticket(path, make_ticket(ann, path))) == 200
    other = make_ticket(ann, "/ticketed/a%252Fb/")
    assert await _status(application, with_ticket("/ticketed/a%25252Fb/", other)) == 401


def _change_password(user: User) -> None:
    user.set_password("another")
    user.save()


@pytest.mark.parametrize(
    "change",
    [
        _change_password,
        lambda user: User.objects.filter(pk=user.pk).update(is_active=False),
        lambda user: user.delete(),
    ],
)
async def test_ticket_is_void_when_its_user_has_changed(
    application: Any, ann: User, change: Any
) -> None:
    address = with_ticket(PATH, make_ticket(ann, PATH))
    assert await _status(application, address) == 200
    await sync_to_async(change)(ann)
    assert await _status(application, address) == 401


async def test_ticket_survives_the_rotation_of_the_secret_key(
    application: Any, ann: User, settings: Any
) -> None:
    address = with_ticket(PATH, make_ticket(ann, PATH))
    settings.SECRET_KEY_FALLBACKS = [settings.SECRET_KEY]
    settings.SECRET_KEY = "another"
    assert await _status(application, address) == 200
    settings.SECRET_KEY_FALLBACKS = []
    assert await _status(application, address) == 401


async def test_ticket_expires(
    application: Any, ann: User, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = with_ticket(PATH, make_ticket(ann, PATH))
    now = signing.time.time()
    monkeypatch.setattr(signing.time, "time", lambda: now + 86_390)
    assert await _status(application, address) == 200
    monkeypatch.setattr(signing.time, "time", lambda: now + 86_410)
    assert await _status(application, address) == 401
    settings.DJANGO_SSE = {"TICKET_SECONDS": 2 * 86_400}
    assert await _status(application, address) == 200


async def test_recheck_asks_for_the_ticket_again(
    application: Any, ann: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = "/checked/ticket/"
    async with connect(application, with_ticket(path, make_ticket(ann, path))) as stream:
        assert (await stream.receive()).data == "open"
        await stream.receive_nothing(0.5)
        now = signing.time.time()
        monkeypatch.setattr(signing.time, "time", lambda: now + 86_410)
        assert (await stream.receive()).event == "revoked"
        await stream.receive_end()
    assert recorded("disconnect")[-1]["reason"] == "revoked"


@pytest.mark.django_db
@pytest.mark.parametrize(
    "user",
    [AnonymousUser(), None, User(username="unsaved"), object()],
    ids=["anonymous", "none", "unsaved", "other"],
)
def test_tickets_are_for_users_of_the_database(user: Any) -> None:
    with pytest.raises(ValueError, match="needs an active user"):
        make_ticket(user, PATH)


@pytest.mark.django_db
def test_ticket_is_not_made_for_an_inactive_user(ann: User) -> None:
    ann.is_active = False
    with pytest.raises(ValueError, match="needs an active user"):
        make_ticket(ann, PATH)


# TicketView.


def _ask(path: Any, token: str | None, **extra: Any) -> Any:
    client = APIClient(**extra)
    if token:
        client.credentials(HTTP_AUTHORIZATION=f"Token {token}")
    return client.post("/tickets/", {"path": path}, format="json")


async def test_view_gives_a_ticket_to_who_has_a_token(application: Any, ann: User) -> None:
    token = await Token.objects.acreate(user=ann)
    response = await sync_to_async(_ask)(PATH, token.key)
    assert response.status_code == 200
    assert response["Cache-Control"] == "no-store"
    given = response.json()
    assert given["url"] == with_ticket(PATH, given["ticket"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+Z", given["expires"])
    assert await _status(application, given["url"]) == 200


async def test_view_gives_tickets_for_streams_of_all_kinds(application: Any, ann: User) -> None:
    token = await Token.objects.acreate(user=ann)
    for path in ["/ticketed/a%20b/", "/ticketed/é/", "/decorated/"]:
        given = (await sync_to_async(_ask)(path, token.key)).json()
        assert await _status(application, given["url"]) == 200


@pytest.mark.django_db
@pytest.mark.usefixtures("application")
def test_view_refuses_what_is_no_stream(ann: User) -> None:
    token = Token.objects.create(user=ann).key
    for path in NO_STREAMS:
        response = _ask(path, token)
        assert response.status_code == 400, path
        assert list(response.json()) == ["path"], path


NO_STREAMS = [
    "/",
    "/tickets/",
    "/nothing-here/",
    "ticketed/",
    "//evil.example/ticketed/",
    "https://evil.example/ticketed/",
    "/ticketed/?a=b",
    "/ticketed/#a",
    "/inside/../ticketed/",
    "",
    None,
    ["/ticketed/"],
    "/" + "x" * 5000,
]


@pytest.mark.django_db
@pytest.mark.usefixtures("application")
def test_view_wants_to_know_who_asks(ann: User) -> None:
    assert _ask(PATH, None).status_code == 401
    assert _ask(PATH, "wrong").status_code == 401
    # A ticket is no way to another.
    client = APIClient()
    address = with_ticket("/tickets/", make_ticket(ann, "/tickets/"))
    assert client.post(address, {"path": PATH}, format="json").status_code == 401
    assert client.get("/tickets/").status_code == 401
    # A cookie alone could be another site's doing.
    client = APIClient(enforce_csrf_checks=True)
    client.force_login(ann)
    response = client.post("/tickets/", {"path": PATH}, format="json")
    assert response.status_code == 403
    assert "CSRF" in response.json()["detail"]


@pytest.mark.django_db
@pytest.mark.usefixtures("application")
def test_view_knows_the_prefix_of_the_project(ann: User) -> None:
    request = RequestFactory()
    view = tickets.TicketView()
    view.request = request.post("/shop/tickets/")  # type: ignore[assignment]
    set_script_prefix("/shop/")
    try:
        assert view.is_stream("/shop/ticketed/")
        assert not view.is_stream("/ticketed/")
    finally:
        set_script_prefix("/")


# {% sse_url … ticket=True %}.


def _render(tag: str, user: Any = None, **context: Any) -> str:
    request: Any = RequestFactory().get("/")
    if user is not None:
        request.user = user
        context["request"] = request
    return Template("{% load sse %}{% " + tag + " %}").render(Context(context))


async def test_tag_adds_a_ticket_of_the_user(application: Any, ann: User) -> None:
    for tag in ("sse_url 'ticketed' ticket=True", "sse_url 'ticketed-name' 'a b' ticket=True"):
        address = await sync_to_async(_render)(tag, ann)
        query = parse_qs(urlsplit(address).query)
        # As it stands, in a script: "&amp;" would be part of a name there.
        assert list(query) == ["last_event_id", "ticket"]
        # As it is read from an attribute.
        assert html.unescape(address) == address
        assert await _status(application, address) == 200


@pytest.mark.django_db
@pytest.mark.usefixtures("application")
def test_tag_adds_no_ticket_where_there_is_none(ann: User) -> None:
    assert "ticket" not in _render("sse_url 'quiet'", ann)
    assert "ticket" not in _render("sse_url 'quiet' ticket=True", AnonymousUser())
    with pytest.raises(ImproperlyConfigured, match="needs the request in its context"):
        _render("sse_url 'quiet' ticket=True")


@pytest.mark.django_db
@pytest.mark.usefixtures("application")
def test_tag_escapes_what_a_path_may_have(ann: User) -> None:
    address = _render("sse_url 'ticketed-name' which=\"a'b\" ticket=True", ann)
    assert "'" not in address
    assert "&#x27;b" in address


# From one end to the other.


def test_ticket_works_from_end_to_end_and_is_not_logged(serve: Serve) -> None:
    server = serve("daphne", TICKET_SECONDS=60)
    token = httpx.get(f"{server.url}/sign-in/ann/").json()["token"]
    headers = {"Authorization": f"Token {token}"}
    given = httpx.post(f"{server.url}/tickets/", json={"path": PATH}, headers=headers).json()
    for _ in range(2):
        with httpx.stream("GET", f"{server.url}{given['url']}") as response:
            assert response.status_code == 200
            lines = (line for line in response.iter_lines() if line.startswith("data:"))
            assert '"user":"ann"' in next(lines)
    wrong = given["url"].replace(PATH, "/ticketed/other/")
    assert httpx.get(f"{server.url}{wrong}").status_code == 401
    server.stop()
    own = [line for line in server.log().splitlines() if "/ticketed/" in line]
    # Daphne's own access log has the address as it came, as that of other servers.
    logged = [line for line in own if not re.search(r'"GET /\S+ ?|HTTP GET ', line)]
    assert not any(given["ticket"] in line for line in logged), logged


async def test_no_logger_of_ours_or_djangos_sees_a_ticket(
    application: Any, ann: User, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    ticket = make_ticket(ann, PATH)
    for address in (with_ticket(PATH, ticket), with_ticket("/ticketed/x/", ticket)):
        await _status(application, address)
    assert caplog.records
    signature = ticket.rpartition(":")[2]
    for record in caplog.records:
        if record.name.startswith("django"):
            assert signature not in f"{record.getMessage()} {record.args} {record.exc_text}"
