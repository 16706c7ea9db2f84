"""The numbers of the process."""

from __future__ import annotations

from collections import Counter

from django_sse import SSEView, stats
from django_sse.testing import connect


class Two(SSEView):
    async def stream(self) -> None:
        await self.send("one")
        await self.send("two")


async def test_stats_count_a_stream_from_its_beginning_to_its_end() -> None:
    before = Counter(stats())
    async with connect(Two) as stream:
        assert stats()["open"] == before["open"] + 1
        await stream.read()
    async with connect(Two) as stream:
        await stream.receive()
        await stream.receive()
        await stream.receive_end()
    after = Counter(stats())
    after.subtract(before)
    assert {name: number for name, number in after.items() if number} == {
        "opened": 2,
        "closed": 2,
        "completed": 2,
        "sent": 4,
    }
