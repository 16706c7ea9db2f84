"""The ASGI application that servers run for ``tests.attack``."""

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.attack.project.settings")

from django_sse.asgi import get_asgi_application

application = get_asgi_application()
