"""The application of ``tests.project`` in a process in which an agent has wrapped what it can."""

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.project.settings")

from tests.project.agents import observe

application = observe()
