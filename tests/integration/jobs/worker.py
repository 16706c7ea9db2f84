"""The tasks of Celery that work on jobs: ``celery -A tests.integration.jobs.worker worker``."""

import os
import time

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.integration.jobs.settings")

import django
from celery import Celery

import django_sse

django.setup()
app = Celery("jobs", broker=os.environ.get("CELERY_BROKER", "memory://"))
app.conf.worker_hijack_root_logger = False


@app.task(name="count")
def count(job_id: str, number: int, pause: float) -> None:
    """Send so many numbers, with a pause in seconds after each."""
    with django_sse.JobWriter(job_id) as job:
        for value in range(number):
            job.send(str(value), event="word")
            job.progress(value + 1, number)
            time.sleep(pause)
