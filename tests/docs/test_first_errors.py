"""The mistakes of the first hours are met by messages that say what to do."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.docs.pages import README, ROOT, Project
from tests.support.servers import free_port, listens

PAGE = ROOT / "docs" / "errors.md"
SECONDS = 20.0

Change = Callable[[Project], None]


@pytest.fixture(scope="module")
def quick_start(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The quick start, before ``migrate``."""
    project = Project(tmp_path_factory.mktemp("quick-start") / "project")
    project.paste(README)
    project.manage("makemigrations", "shop", "--verbosity", "0")
    return project


def replaced(path: str, old: str, new: str) -> Change:
    def change(project: Project) -> None:
        file = project.directory / path
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new))

    return change


def added(path: str, text: str) -> Change:
    return lambda project: project.write(path, text)


def nothing(project: Project) -> None:
    """Leave the project as it is: the mistake is another."""


FIRST = 'INSTALLED_APPS = ["daphne", "django_sse", "rest_framework", *INSTALLED_APPS, "shop"]'
LAST = 'INSTALLED_APPS = [*INSTALLED_APPS, "shop", "django_sse", "rest_framework", "daphne"]'
NO_REDIS = (
    'DJANGO_SSE = {"BROKER": {"BACKEND": "django_sse.brokers.redis.RedisBroker", '
    '"LOCATION": "redis://127.0.0.1:1"}, "PUBLISH_TIMEOUT": 1}'
)
CHECK = ("manage.py", "check")
ORDER = (
    *("manage.py", "shell", "-v", "0", "-c"),
    "from shop.models import Order; Order.objects.create(item='Cup', total='1.00')",
)
ASYNC = (
    *("manage.py", "shell", "-v", "0", "-c"),
    (
        "import asyncio\nfrom django_sse import publish\n"
        "async def main(): publish('orders', 'x')\nasyncio.run(main())"
    ),
)


# The mistake, in words of the page; what is changed; whether there are tables; a command that fails
# or warns; what it says.
@pytest.mark.parametrize(
    ("mistake", "change", "command", "said"),
    [
        (
            "`ASGI_APPLICATION` is missing",
            replaced("project/settings.py", 'ASGI_APPLICATION = "project.asgi.application"', ""),
            CHECK,
            'Set it to the dotted path of the application, "project.asgi.application".',
        ),
        (
            "`ASGI_APPLICATION` is missing",
            replaced("project/settings.py", 'ASGI_APPLICATION = "project.asgi.application"', ""),
            ("manage.py", "runserver", "--noreload"),
            "You have not set ASGI_APPLICATION, which is needed to run the server.",
        ),
        (
            "stands after",
            replaced("project/settings.py", FIRST, LAST),
            ("manage.py", "runserver", "--noreload"),
            "Daphne must be listed before django.contrib.staticfiles in INSTALLED_APPS.",
        ),
        (
            "an object has no serializer",
            lambda project: (project.directory / "shop/serializers.py").unlink(),
            ORDER,
            "no serializer for shop.models.Order. Register one with @serializes(Order)",
        ),
        (
            '`"django_sse"` is not in `INSTALLED_APPS`',
            replaced("project/settings.py", '"django_sse", ', ""),
            ORDER,
            '(They are imported where "django_sse" is in INSTALLED_APPS, and it is not.)',
        ),
        (
            "`def stream(self)` instead of `async def`",
            added(
                "shop/late.py",
                "from django_sse import SSEView\n\n\n"
                "class Late(SSEView):\n    def stream(self):\n        pass\n",
            ),
            ("-c", "import django; django.setup(); import shop.late"),
            "Late.stream() must be an `async def` (a coroutine, or an async generator).",
        ),
        (
            '`path("orders/", OrderEvents)`',
            replaced("project/urls.py", "    sse_path(", "    path("),
            CHECK,
            "pass OrderEvents.as_view() instead of OrderEvents",
        ),
        (
            "a view without `stream()`",
            replaced("shop/streams.py", 'topics = ["orders"]', "topics = []"),
            CHECK,
            "OrderEvents must define `async def stream(self)`, or topics.",
        ),
        (
            "Redis does not run",
            added("project/settings.py", NO_REDIS),
            ORDER,
            'Start Redis, or correct DJANGO_SSE["BROKER"]["LOCATION"].',
        ),
        (
            "a setting is misspelt",
            added("project/settings.py", 'DJANGO_SSE["HEARTBEATS"] = {}'),
            CHECK,
            "DJANGO_SSE has no setting 'HEARTBEATS'.",
        ),
        (
            "`publish()` in an `async def`",
            nothing,
            ASYNC,
            "publish() waits for the broker: use `await apublish(…)` in a coroutine",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) and " " in value else None,
)
def test_command_says_what_to_do(
    mistake: str,
    change: Change,
    command: tuple[str, ...],
    said: str,
    quick_start: Project,
    tmp_path: Path,
) -> None:
    project = Project(tmp_path / "project", quick_start)
    project.manage("migrate", "--verbosity", "0")
    change(project)
    try:
        output = project.run(*command)
    except AssertionError as error:
        output = str(error)
    assert said in output
    assert mistake in PAGE.read_text(encoding="utf-8")


WSGI = (
    "-c",
    (
        "from wsgiref.simple_server import make_server\nfrom project.wsgi import application\n"
        "make_server('127.0.0.1', {port}, application).serve_forever()"
    ),
)
RUNSERVER = ("manage.py", "runserver", "127.0.0.1:{port}", "--noreload")


@pytest.mark.parametrize(
    ("mistake", "change", "migrate", "command", "answered", "logged"),
    [
        ("the server speaks WSGI", nothing, True, WSGI, "this server speaks WSGI", ""),
        (
            "`runserver --noasgi`",
            nothing,
            True,
            (*RUNSERVER, "--noasgi"),
            "this server speaks WSGI",
            "(django_sse.W002) runserver speaks WSGI here, under which every stream answers 503.",
        ),
        (
            "`project/asgi.py` takes Django's own handler",
            replaced("project/asgi.py", "django_sse.asgi", "django.core.asgi"),
            True,
            RUNSERVER,
            "id: ",
            "Use django_sse.asgi.get_asgi_application() in asgi.py",
        ),
        (
            "`migrate` was not run",
            nothing,
            False,
            RUNSERVER,
            ":",
            "no such table: django_sse_state. Make the tables: manage.py migrate",
        ),
        (
            "*Not connected to Redis*",
            added("project/settings.py", NO_REDIS),
            True,
            RUNSERVER,
            ":",
            'Start Redis, or correct DJANGO_SSE["BROKER"]["LOCATION"].',
        ),
    ],
    ids=lambda value: value if isinstance(value, str) and " " in value else None,
)
def test_server_says_what_to_do(
    mistake: str,
    change: Change,
    migrate: bool,
    command: tuple[str, ...],
    answered: str,
    logged: str,
    quick_start: Project,
    tmp_path: Path,
) -> None:
    project = Project(tmp_path / "project", quick_start)
    if migrate:
        project.manage("migrate", "--verbosity", "0")
    change(project)
    port, log = free_port(), tmp_path / "log"
    process = project.popen([it.format(port=port) for it in command], log)
    try:
        _wait(lambda: listens(port) or process.poll() is not None)
        with httpx.stream(
            "GET", f"http://127.0.0.1:{port}/orders/events/", timeout=SECONDS
        ) as response:
            body = ""
            for piece in response.iter_text():
                body += piece
                if answered in body:
                    break
        assert answered in body
        _wait(lambda: logged in log.read_text())
        assert logged in log.read_text()
    finally:
        process.terminate()
        try:
            process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    assert mistake in PAGE.read_text(encoding="utf-8")


def _wait(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not is_so() and time.monotonic() < deadline:
        time.sleep(0.05)
