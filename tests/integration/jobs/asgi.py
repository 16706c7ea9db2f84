"""The ASGI application of the jobs."""

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.integration.jobs.settings")

from django_sse.asgi import get_asgi_application

application = get_asgi_application()
