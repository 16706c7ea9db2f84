"""The package's names, and what importing them needs."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys

import pytest

import django_sse


def test_names_are_all_there() -> None:
    for name in django_sse.__all__:
        assert getattr(django_sse, name) is not None, name
    assert set(django_sse.__all__) <= set(dir(django_sse))
    for name in ("SSEView", "sse_path", "ServerSentEvent", "Heartbeat", "serializes"):
        assert name in django_sse.__all__


def test_names_are_those_that_type_checkers_see() -> None:
    source = inspect.getsource(django_sse)
    for name in django_sse.__all__:
        assert name == "__version__" or f"import {name} as {name}\n" in source, name


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'django_sse' has no attribute 'Nonsense'"):
        django_sse.Nonsense  # noqa: B018


@pytest.mark.parametrize(
    "code",
    [
        "from django_sse import ServerSentEvent, Heartbeat; Heartbeat(5, ServerSentEvent('a'))",
        "from django_sse import StreamClosed, StreamFinished, InvalidEvent, SerializerNotFound",
        "from django_sse.asgi import get_asgi_application",
        "import django_sse.pytest_plugin; import sys; assert 'django' not in sys.modules",
    ],
)
def test_import_needs_no_settings(code: str) -> None:
    env = {k: v for k, v in os.environ.items() if k != "DJANGO_SETTINGS_MODULE"}
    code += "\nimport sys; assert 'rest_framework.settings' not in sys.modules"
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


WITHOUT_ACCOUNTS = """
import asyncio
from django.conf import settings
settings.configure(
    INSTALLED_APPS=["django_sse", "rest_framework"],
    REST_FRAMEWORK={"UNAUTHENTICATED_USER": None, "DEFAULT_AUTHENTICATION_CLASSES": []},
    SECRET_KEY="x", ROOT_URLCONF="tests.none",
)
import django
django.setup()
from django_sse import SSEView
from django_sse.testing import connect

class Open(SSEView):
    recheck_period = 0.01
    async def stream(self):
        await self.send("a")
        await asyncio.sleep(0.1)
        await self.send("b")

async def main():
    async with connect(Open) as stream:
        print(await stream.read())

asyncio.run(main())
"""


def test_project_without_accounts_has_streams() -> None:
    env = {k: v for k, v in os.environ.items() if k != "DJANGO_SETTINGS_MODULE"}
    command = [sys.executable, "-W", "error", "-c", WITHOUT_ACCOUNTS]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == (str(b":\n\ndata: a\n\ndata: b\n\n"), "")
