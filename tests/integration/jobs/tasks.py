"""The tasks of Django that work on jobs: ``manage.py db_worker``."""

import asyncio
import time

import django_sse

try:
    from django.tasks import task
except ImportError:  # before Django 6.0
    from django_tasks import task


@task()
def count(job_id: str, number: int, pause: float) -> None:
    """Send so many numbers, with a pause in seconds after each."""
    with django_sse.JobWriter(job_id) as job:
        for value in range(number):
            job.send(str(value), event="word")
            job.progress(value + 1, number)
            time.sleep(pause)


@task()
async def acount(job_id: str, number: int, pause: float) -> None:
    """Do the same in a coroutine."""
    async with django_sse.JobWriter(job_id) as job:
        for value in range(number):
            await job.asend(str(value), event="word")
            await job.aprogress(value + 1, number)
            await asyncio.sleep(pause)
