"""The streams, and the files of their pages, as ``runserver`` serves them."""

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.integration.page.settings")

from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler

from django_sse.asgi import get_asgi_application

application = ASGIStaticFilesHandler(get_asgi_application())
