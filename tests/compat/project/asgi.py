"""The ASGI application, in the stranger's own wrapper where it has one."""

# ruff: noqa: E402 - an agent that patches what is imported has to be there before
import os

from django.utils.module_loading import import_string

from tests.compat.strangers import find

_stranger = find(os.environ["STRANGER"])
if _stranger.before is not None:
    import_string(_stranger.before)()

from django_sse.asgi import get_asgi_application

application = get_asgi_application()
if _stranger.wrapper is not None:
    application = import_string(_stranger.wrapper)(application)
