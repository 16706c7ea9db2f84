"""The ASGI application, in the stranger's own wrapper where it has one."""

from django.conf import settings
from django.utils.module_loading import import_string

from django_sse.asgi import get_asgi_application

application = get_asgi_application()
if settings.STRANGER.wrapper is not None:
    application = import_string(settings.STRANGER.wrapper)(application)
