"""The settings of the streams of numbers, with addresses of jobs."""

import os
from importlib.util import find_spec

from tests.integration.topics.project.settings import *  # noqa: F403
from tests.integration.topics.project.settings import INSTALLED_APPS as APPS

ROOT_URLCONF = "tests.integration.jobs.urls"
ASGI_APPLICATION = "tests.integration.jobs.asgi.application"
INSTALLED_APPS = list(APPS)
if find_spec("django_tasks_db"):
    INSTALLED_APPS.append("django_tasks_db")
    TASKS = {"default": {"BACKEND": os.environ.get("TASKS", "django_tasks_db.DatabaseBackend")}}
