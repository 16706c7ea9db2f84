"""What ``make demo`` serves: the project, and its static files, as `runserver` does."""

from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler

from testproject.asgi import application as project

application = ASGIStaticFilesHandler(project)
