"""The handshake, where it refuses what no policy of DRF's does."""

from __future__ import annotations

from typing import Any

import pytest
from rest_framework.negotiation import DefaultContentNegotiation

from django_sse import SSEView
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
