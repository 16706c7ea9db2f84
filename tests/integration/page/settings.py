"""The settings of streams with pages, under a strict Content-Security-Policy."""

from tests.project.settings import *  # noqa: F403
from tests.project.settings import MIDDLEWARE as TESTS_MIDDLEWARE

ROOT_URLCONF = "tests.integration.page.streams"
MIDDLEWARE = ["tests.integration.page.streams.policy", *TESTS_MIDDLEWARE]
DJANGO_SSE = {"HEARTBEAT": {"PERIOD": 0.3}}
REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["rest_framework.authentication.SessionAuthentication"],
}
