"""Jobs that work in the process, and in a task of Celery."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

from asgiref.sync import sync_to_async
from rest_framework import serializers

from django_sse import JobView, ServerSentEvent

from . import tasks
from .worker import count


class CountSerializer(serializers.Serializer[object]):
    number = serializers.IntegerField()
    pause = serializers.FloatField(default=0.02)


class Counting(JobView):
    """Sends so many numbers, with a pause in seconds after each."""

    serializer_class = CountSerializer

    async def work(self) -> AsyncIterator[ServerSentEvent]:
        for number in range(self.data["number"]):
            yield ServerSentEvent(str(number), event="word")
            await asyncio.sleep(self.data["pause"])


class InCelery(JobView):
    """Lets a worker send the numbers."""

    serializer_class = CountSerializer

    async def enqueue(self, job_id: str) -> None:
        await sync_to_async(count.delay)(job_id, self.data["number"], self.data["pause"])


class InTask(JobView):
    """Lets a worker of Django's tasks send the numbers."""

    serializer_class = CountSerializer
    queue_timeout = 20

    async def enqueue(self, job_id: str) -> None:
        await tasks.count.aenqueue(job_id, self.data["number"], self.data["pause"])


class InCoroutine(InTask):
    """Lets it do so in a coroutine."""

    async def enqueue(self, job_id: str) -> None:
        await tasks.acount.aenqueue(job_id, self.data["number"], self.data["pause"])


class Slowly(Counting):
    """Takes its time to start."""

    async def enqueue(self, job_id: str) -> None:
        await sync_to_async(time.sleep)(0.5)
        await super().enqueue(job_id)
