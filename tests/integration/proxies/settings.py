"""The settings of the tests' streams, with what streams behind proxies need besides."""

from tests.project.settings import *  # noqa: F403

ROOT_URLCONF = "tests.integration.proxies.streams"
DJANGO_SSE = {"HEARTBEAT": {"PERIOD": 0.3}}
