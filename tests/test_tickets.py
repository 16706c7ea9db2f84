"""Tickets, where no server is needed; all else of them is in ``tests/integration/health``."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth import get_user_model
from rest_framework.authentication import SessionAuthentication
from rest_framework.test import APIRequestFactory, force_authenticate
from rest_framework.views import APIView

from django_sse import SSEView, sse_path, tickets
from django_sse.tickets import TicketAuthentication, TicketView
from django_sse.topics.exclusion import client_of


class Quiet(SSEView):
    async def stream(self) -> None:
        pass


class Robot:
    """A user that an authentication class made up."""

    pk = 1
    is_active = is_authenticated = True


class WithTickets(Quiet):
    authentication_classes = [SessionAuthentication, TicketAuthentication]


class Choosing(Quiet):
    def get_authenticators(self) -> list[Any]:
        return [TicketAuthentication()]


urlpatterns = [
    sse_path("quiet/", Quiet),
    sse_path("given/", Quiet.as_view(authentication_classes=[TicketAuthentication])),
    sse_path("with/", WithTickets),
    sse_path("choosing/", Choosing),
]


@pytest.mark.django_db
def test_view_gives_a_page_its_id_where_it_asks_for_one(settings: Any) -> None:
    settings.ROOT_URLCONF = __name__
    user = get_user_model().objects.create_user("ann")
    for wish, fields in (
        ({}, {"ticket", "url", "expires"}),
        ({"client": True}, {"ticket", "url", "expires", "client"}),
    ):
        request = APIRequestFactory().post("/t/", {"path": "/quiet/", **wish}, format="json")
        force_authenticate(request, user)
        answer = TicketView.as_view()(request).data
        assert set(answer) == fields
        page = APIRequestFactory().get(answer["url"])
        assert client_of(page) == answer.get("client")
        assert TicketAuthentication().authenticate(APIView().initialize_request(page)) is not None


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        (
            "/quiet/?status=open",
            "Send the path alone, without a site and a query. Add the query to `url`.",
        ),
        (
            "https://shop.example/quiet/",
            "Send the path alone, without a site and a query. Add the query to `url`.",
        ),
        ("/nothing/", "There is no stream at this path."),
    ],
)
def test_view_says_what_is_wrong_with_a_path(settings: Any, path: str, reason: str) -> None:
    settings.ROOT_URLCONF = __name__
    request = APIRequestFactory().post("/tickets/", {"path": path}, format="json")
    force_authenticate(request, Robot())
    response = TicketView.as_view()(request)
    assert (response.status_code, response.data) == (400, {"path": [reason]})


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("path", "warnings"), [("/quiet/", 1), ("/given/", 0), ("/with/", 0), ("/choosing/", 0)]
)
def test_view_warns_once_of_a_stream_that_takes_no_tickets(
    settings: Any,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    warnings: int,
) -> None:
    settings.ROOT_URLCONF = __name__
    monkeypatch.setattr(tickets, "_warned", set())
    for name in ("ann", "bob"):
        request = APIRequestFactory().post("/t/", {"path": path}, format="json")
        force_authenticate(request, get_user_model().objects.create_user(name))
        assert TicketView.as_view()(request).status_code == 200
    assert caplog.text.count("a ticket for tests.test_tickets.Quiet, which takes none") == warnings
    assert len(caplog.records) == warnings


def test_view_gives_no_ticket_to_who_is_not_of_the_database(settings: Any) -> None:
    settings.ROOT_URLCONF = __name__
    request = APIRequestFactory().post("/tickets/", {"path": "/quiet/"}, format="json")
    force_authenticate(request, Robot())
    response = TicketView.as_view()(request)
    assert response.status_code == 403
    assert response.data == {"detail": "There are no tickets for users of this kind."}
