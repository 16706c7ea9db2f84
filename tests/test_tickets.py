"""Tickets, where no database is needed; all else of them is in ``tests/integration/health``."""

from __future__ import annotations

from typing import Any

from rest_framework.test import APIRequestFactory, force_authenticate

from django_sse import SSEView, sse_path
from django_sse.tickets import TicketView


class Quiet(SSEView):
    async def stream(self) -> None:
        pass


class Robot:
    """A user that an authentication class made up."""

    pk = 1
    is_active = is_authenticated = True


urlpatterns = [sse_path("quiet/", Quiet)]


def test_view_gives_no_ticket_to_who_is_not_of_the_database(settings: Any) -> None:
    settings.ROOT_URLCONF = __name__
    request = APIRequestFactory().post("/tickets/", {"path": "/quiet/"}, format="json")
    force_authenticate(request, Robot())
    response = TicketView.as_view()(request)
    assert response.status_code == 403
    assert response.data == {"detail": "There are no tickets for users of this kind."}
