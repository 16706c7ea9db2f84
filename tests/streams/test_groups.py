"""Groups on a channel layer that fails, and one that forgets."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest
from channels.layers import InMemoryChannelLayer, get_channel_layer

from django_sse import SSEView
from django_sse.testing import connect
from tests.support.waiting import eventually


class Layer(InMemoryChannelLayer):
    """Fails in each of its methods as often as it is told, and counts the calls."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.faults = Counter[str]()
        self.calls = Counter[str]()

    async def group_add(self, *args: Any) -> None:
        self._fail("group_add")
        await super().group_add(*args)

    async def group_discard(self, *args: Any) -> None:
        self._fail("group_discard")
        await super().group_discard(*args)

    async def receive(self, *args: Any) -> Any:
        self._fail("receive")
        return await super().receive(*args)

    def _fail(self, what: str) -> None:
        self.calls[what] += 1
        if self.faults[what]:
            self.faults[what] -= 1
            raise OSError("The channel layer is away.")


@pytest.fixture
def layer(settings: Any) -> Any:
    config = {"group_expiry": 0.1}
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": f"{__name__}.Layer", "CONFIG": config}}
    return get_channel_layer()


class Member(SSEView):
    heartbeat = None
    groups = ["one", "two"]

    async def stream(self) -> None:
        await self.send("joined")
        await asyncio.Event().wait()

    async def said(self, message: Any) -> None:
        await self.send(message["text"])


async def test_message_arrives_after_the_layer_has_failed(
    layer: Layer, caplog: pytest.LogCaptureFixture
) -> None:
    layer.faults["receive"] = 1
    async with connect(Member) as stream:
        await stream.receive()
        await layer.group_send("one", {"type": "said", "text": "x"})
        assert (await stream.receive()).data == "x"
    assert caplog.text.count("The channel layer failed; trying again in a second.") == 1


async def test_membership_is_renewed_before_it_expires(
    layer: Layer, caplog: pytest.LogCaptureFixture
) -> None:
    async with connect(Member) as stream:
        await stream.receive()
        layer.faults["group_add"] = 1
        # The layer forgets of itself; here, all at once.
        layer.groups.clear()
        await eventually(lambda: layer.calls["group_add"] >= 6)
        for name in Member.groups:
            await layer.group_send(name, {"type": "said", "text": name})
            assert (await stream.receive()).data == name
    assert caplog.text.count("A stream could not stay in the group 'one'.") == 1
    assert layer.groups == {}


async def test_groups_are_left_though_one_cannot_be(
    layer: Layer, caplog: pytest.LogCaptureFixture
) -> None:
    async with connect(Member) as stream:
        await stream.receive()
        layer.faults["group_discard"] = 1
    assert caplog.text.count("A stream could not leave the channel-layer group 'one'.") == 1
    assert set(layer.groups) == {"one"}


async def test_handler_whose_work_was_cancelled_has_failed(
    layer: Layer, caplog: pytest.LogCaptureFixture
) -> None:
    class Impatient(Member):
        async def cancelled(self, message: Any) -> None:
            work = asyncio.ensure_future(asyncio.sleep(9))
            work.cancel()
            await work

    async with connect(Impatient) as stream:
        await stream.receive()
        await layer.group_send("one", {"type": "cancelled"})
        await stream.read()
        assert "cancelled() was cancelled" in str(stream.failure)
    assert "Impatient.cancelled() failed." in caplog.text


async def test_handler_is_cancelled_with_its_stream(layer: Layer) -> None:
    cancelled = asyncio.Event()

    class Busy(Member):
        async def work(self, message: Any) -> None:
            await self.send("working")
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.set()
                raise

    async with connect(Busy) as stream:
        await stream.receive()
        await layer.group_send("one", {"type": "work"})
        assert (await stream.receive()).data == "working"
    assert cancelled.is_set()


async def test_odd_user_does_not_cost_the_log_its_line(
    layer: Layer, caplog: pytest.LogCaptureFixture
) -> None:
    class Odd:
        is_authenticated = True

        @property
        def pk(self) -> int:
            raise KeyError("user_id")

    class Failing(Member):
        async def fail(self, message: Any) -> None:
            raise RuntimeError("a fault")

    async with connect(Failing, user=Odd()) as stream:
        await stream.receive()
        await layer.group_send("one", {"type": "fail"})
        await stream.read()
        assert stream.failure is not None
    [record] = [it for it in caplog.records if "Failing.fail() failed." in it.getMessage()]
    assert record.user is None  # type: ignore[attr-defined]
