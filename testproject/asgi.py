"""The entry point of ASGI servers: Daphne, Uvicorn, Hypercorn, Granian, gunicorn."""

import os

from django_sse.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "testproject.settings")

application = get_asgi_application()
