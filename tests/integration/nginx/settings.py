"""The settings of the tests' streams, with a heartbeat that a test can wait for, or none."""

import os

from tests.project.settings import *  # noqa: F403

DJANGO_SSE = {"HEARTBEAT": {"PERIOD": float(os.environ["HEARTBEAT"])}}
