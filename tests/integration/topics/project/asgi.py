"""The ASGI application of the streams of numbers."""

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.integration.topics.project.settings")

from django_sse.asgi import get_asgi_application

application = get_asgi_application()
