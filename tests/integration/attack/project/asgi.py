"""The ASGI application that servers run for ``tests.integration.attack``."""

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.integration.attack.project.settings")

from django_sse.asgi import get_asgi_application

application = get_asgi_application()
