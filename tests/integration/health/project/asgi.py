"""The ASGI application that servers run for ``tests.integration.health``."""

import os
import signal

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.integration.health.project.settings")

from django.conf import settings
from django.core.asgi import get_asgi_application as djangos_application

from django_sse.asgi import get_asgi_application
from tests.project.journal import record

_before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
if os.environ.get("BARE"):
    # The same project without anything of ours, to see what the server does by itself.
    settings.INSTALLED_APPS.remove("django_sse")
    application = djangos_application()
else:
    from channels.auth import AuthMiddlewareStack
    from channels.routing import ProtocolTypeRouter, URLRouter
    from django.urls import path, re_path

    http = get_asgi_application()
    from tests.integration.health.project.streams import Flood

    routes = [
        path("channels/flood/", AuthMiddlewareStack(Flood.as_asgi())),
        re_path("", http),
    ]
    application = ProtocolTypeRouter({"http": URLRouter(routes), "lifespan": http})
_after = {number: signal.getsignal(number) for number in _before}
record("imported", hooked=_before != _after)
