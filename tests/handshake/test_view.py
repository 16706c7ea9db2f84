"""The handshake, where it refuses what no policy of DRF's does."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from rest_framework.negotiation import DefaultContentNegotiation

from django_sse import SSEView
from django_sse.connection.roster import roster
from django_sse.testing import connect


class Posted(SSEView):
    """Tells what was posted."""

    http_method_names = ["post"]

    async def stream(self) -> None:
        await self.send(self.request.data)


JSON = {"Content-Type": "application/json"}


async def test_body_that_is_nested_too_deeply_is_a_bad_request() -> None:
    body = b"[" * 200_000
    async with connect(Posted, method="POST", headers=JSON, body=body) as stream:
        assert stream.status_code == 400
        assert await stream.json() == {"detail": "The body is nested too deeply."}


@pytest.mark.parametrize(("size", "status"), [(20, 200), (21, 413)])
async def test_body_is_as_large_as_the_setting_allows(
    settings: Any, size: int, status: int
) -> None:
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 20
    body = b'"' + b"x" * (size - 2) + b'"'
    async with connect(Posted, method="POST", headers=JSON, body=body) as stream:
        assert stream.status_code == status
        if status == 413:
            assert await stream.json() == {"detail": "The body is larger than this server takes."}
        else:
            assert (await stream.receive()).data == "x" * 18


class Broken(DefaultContentNegotiation):
    def select_renderer(self, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("the negotiation is broken")


@pytest.mark.parametrize("debug", [False, True])
async def test_fault_before_the_negotiation_is_told_as_it_is(
    settings: Any, caplog: pytest.LogCaptureFixture, debug: bool
) -> None:
    settings.DEBUG = debug
    view = Posted.as_view(content_negotiation_class=Broken)
    async with connect(view, method="POST", json={}) as stream:
        assert stream.status_code == 500
        await stream.read()
    [record] = [it for it in caplog.records if it.levelname == "ERROR"]
    assert record.exc_info is not None
    assert repr(record.exc_info[1]) == "RuntimeError('the negotiation is broken')"


class Follower(SSEView):
    topics = ["a"]


async def test_streams_of_a_class_share_the_names_of_their_attributes() -> None:
    view = Follower.as_view()
    others = [Follower() for _ in range(20)]  # They open at once, and have nothing yet.
    async with connect(view) as stream:
        await stream.receive_block()
        [it] = [it for it in roster.streams() if isinstance(it, Follower)]
        # A dict of its own has more than a kilobyte.
        assert sys.getsizeof(vars(it)) < 500, list(vars(it))
    assert not any(vars(other) for other in others)


async def test_what_a_stream_lets_go_of_can_still_be_asked_for() -> None:
    async with connect(Follower.as_view(), headers={"X-Mine": "yes"}) as stream:
        await stream.receive_block()
        [it] = [it for it in roster.streams() if isinstance(it, Follower)]
        kept = vars(it.request._request)
        assert "headers" not in kept
        assert "GET" not in kept
        assert it.request.headers["X-Mine"] == "yes"
        assert it.request.GET == {}
        assert it.last_event_id is None
