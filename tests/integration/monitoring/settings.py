"""The streams of numbers, with the admin beside them."""

from testproject.settings import MIDDLEWARE as DEMO_MIDDLEWARE
from tests.integration.topics.project.settings import *  # noqa: F403

# With protection against cross-site requests, which the admin's page is to have.
MIDDLEWARE = DEMO_MIDDLEWARE
ROOT_URLCONF = "tests.integration.monitoring.urls"
