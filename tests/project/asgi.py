"""The ASGI applications that servers run in tests."""

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.project.settings")

from django.core.asgi import get_asgi_application as djangos_application

from django_sse.asgi import get_asgi_application

application = get_asgi_application()
#: The same project under Django's own handler.
without_takeover = djangos_application()
