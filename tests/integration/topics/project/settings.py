"""The demo's settings, with streams of numbers; the broker and its limits come from the environment."""

import json
import os

from testproject.settings import *  # noqa: F403
from testproject.settings import INSTALLED_APPS as DEMO_APPS
from testproject.settings import MIDDLEWARE as DEMO_MIDDLEWARE

INSTALLED_APPS = [*DEMO_APPS, "tests.integration.topics.project"]
# Tests post without a page that would give them a token.
MIDDLEWARE = [name for name in DEMO_MIDDLEWARE if "csrf" not in name]
ROOT_URLCONF = "tests.integration.topics.project.urls"
ASGI_APPLICATION = "tests.integration.topics.project.asgi.application"
DJANGO_SSE = json.loads(os.environ.get("NUMBERS_SSE", "{}"))
if "NUMBERS_DATABASE" in os.environ:
    DATABASES = {"default": json.loads(os.environ["NUMBERS_DATABASE"])}
    if "mysql" in DATABASES["default"]["ENGINE"]:
        import pymysql

        pymysql.install_as_MySQLdb()
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "loggers": {"django_sse": {"handlers": ["console"], "level": "INFO"}},
}
