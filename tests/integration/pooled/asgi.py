"""The application."""

from django_sse.asgi import get_asgi_application

application = get_asgi_application()
