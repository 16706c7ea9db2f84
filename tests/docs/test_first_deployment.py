"""The files of the first deployment are run, as far as a machine without Docker allows."""

from __future__ import annotations

import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from django_sse.events import EventDecoder
from tests.docs.pages import README, ROOT, Project
from tests.integration.proxies.proxy import DEPLOYED, Proxy
from tests.support.postgres_server import PostgresServer
from tests.support.servers import HOST, free_port, listens

FILES = ROOT / "docs" / "examples" / "deployment"
SECONDS = 20.0
SECRETS = {"SECRET_KEY": "a-key-of-the-test", "POSTGRES_PASSWORD": "none"}
ORDER = "from shop.models import Order; Order.objects.create(item='Cup', total='1.00')"


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The quick start with the settings of the page about deploying."""
    project = Project(tmp_path_factory.mktemp("deployed") / "project")
    project.paste(README)
    page = ROOT / "docs" / "deploying.md"
    project.paste(page)
    project.manage("makemigrations", "shop", "--verbosity", "0")
    return project


def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((FILES / "compose.yaml").read_text())
    return found["services"]  # type: ignore[no-any-return]


def filled(environment: dict[str, str]) -> dict[str, str]:
    """Return an environment of compose.yaml with its variables filled in, as from `.env`."""

    def value(match: re.Match[str]) -> str:
        return SECRETS.get(match["name"]) or match["default"] or ""

    pattern = re.compile(r"\$\{(?P<name>\w+)(?::-(?P<default>[^}]*))?\}")
    return {name: pattern.sub(value, str(text)) for name, text in environment.items()}


@contextmanager
def running(
    project: Project, command: list[str], environment: dict[str, str], grace: float
) -> Iterator[None]:
    """Run a command of the files in the project; it has to end within its time of grace."""
    log = project.directory / "server.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=project.directory,
            env=project.environment(extra=environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        port = int(command[command.index("--port") + 1])
        deadline = time.monotonic() + SECONDS
        while not listens(port):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        yield
        process.send_signal(signal.SIGTERM)
        process.wait(grace)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    assert "Traceback" not in log.read_text()


def follow(proxy: Proxy, project: Project, environment: dict[str, str], host: str) -> bytes:
    """Read a stream through nginx while an order is made elsewhere; return what came."""
    url = f"{proxy.url}/orders/events/"
    with httpx.stream("GET", url, headers={"Host": host}, timeout=SECONDS) as response:
        assert response.status_code == 200, response.read()
        decoder, body = EventDecoder(), b""
        for piece in response.iter_raw():
            if not body:
                subprocess.run(
                    [sys.executable, "manage.py", "shell", "-v", "0", "-c", ORDER],
                    cwd=project.directory,
                    env=project.environment(extra=environment),
                    stdin=subprocess.DEVNULL,
                    check=True,
                    timeout=SECONDS,
                )
            body += piece
            if any(event.event == "created" for event in decoder.feed(piece)):
                return body
    raise AssertionError(body)


def ported(command: list[str], port: int) -> list[str]:
    """Return a command that listens on another port of 127.0.0.1."""
    assert "8000" in command
    return [{"8000": str(port), "0.0.0.0": HOST}.get(it, it) for it in command]


def test_compose_file_runs(
    deployed: Project, shared_postgres: PostgresServer, tmp_path: Path
) -> None:
    services = compose()
    dockerfile = (FILES / "Dockerfile").read_text()
    # The settings of a container, except that the database is the test's.
    database = shared_postgres.new_database()
    environment = filled(services["web"]["environment"]) | {
        "POSTGRES_HOST": str(database["HOST"]),
        "POSTGRES_PORT": str(database["PORT"]),
        "POSTGRES_USER": str(database["USER"]),
        "POSTGRES_DB": str(database["NAME"]),
    }
    assert environment["SECRET_KEY"] == SECRETS["SECRET_KEY"]
    project = Project(tmp_path / "project", deployed)

    # What the image and the service `migrate` run.
    [collect] = re.findall(
        r"^RUN (SECRET_KEY=\S+) python (.*collectstatic.*)$", dockerfile, re.MULTILINE
    )
    for command, extra in (
        (collect[1].split(), dict([collect[0].split("=")])),
        (services["migrate"]["command"][1:], environment),
    ):
        done = subprocess.run(
            [sys.executable, *command],
            cwd=project.directory,
            env=project.environment(extra=extra),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    [line] = re.findall(r"^CMD (\[.*\])$", dockerfile, re.MULTILINE)
    port = free_port()
    command = ported(yaml.safe_load(line), port)
    grace = float(services["web"]["stop_grace_period"].removesuffix("s"))
    static = {"alias /srv/project/static/;": f"alias {project.directory}/static/;"}
    with (
        running(project, command, environment, grace),
        Proxy(DEPLOYED, tmp_path / "nginx", port, changes=static) as proxy,
    ):
        assert b"event: created" in follow(proxy, project, environment, "localhost")
        style = httpx.get(f"{proxy.url}/static/django_sse/stream.css")
        assert "--accent" in style.text
        page = httpx.get(
            f"{proxy.url}/orders/events/", headers={"Host": "localhost", "Accept": "text/html"}
        )
        assert 'href="/static/django_sse/stream.css"' in page.text


def test_unit_of_systemd_runs(deployed: Project, tmp_path: Path) -> None:
    unit = (FILES / "project.service").read_text()
    options = dict(re.findall(r"^(\w+)=(.*)$", unit, re.MULTILINE))
    project = Project(tmp_path / "project", deployed)
    project.run("manage.py", "migrate", "--verbosity", "0")
    program, *arguments = shlex.split(options["ExecStart"])
    assert program == "/srv/project/venv/bin/uvicorn"
    assert options["WorkingDirectory"] == "/srv/project"
    environment = {"SECRET_KEY": "a-key-of-the-test", "ALLOWED_HOSTS": "example.com"}
    port = free_port()
    with (
        running(
            project,
            ported(["uvicorn", *arguments], port),
            environment,
            float(options["TimeoutStopSec"]),
        ),
        Proxy(DEPLOYED, tmp_path / "nginx", port) as proxy,
    ):
        assert b"event: created" in follow(proxy, project, environment, "example.com")


def test_unit_of_systemd_is_valid(tmp_path: Path) -> None:
    verify = shutil.which("systemd-analyze")
    if verify is None:
        pytest.skip("systemd-analyze is not installed: apt-get install systemd")
    unit = (FILES / "project.service").read_text()
    # Its program and its user are those of the machine where it is installed.
    for old, new in (("/srv/project/venv/bin/uvicorn", sys.executable), ("=/srv/project", "=/tmp")):
        assert old in unit
        unit = unit.replace(old, new)
    file = tmp_path / "project.service"
    file.write_text(unit)
    done = subprocess.run(
        [verify, "verify", str(file)], capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_container_may_stop_for_longer_than_streams_take() -> None:
    web = compose()["web"]
    [line] = re.findall(r"^CMD (\[.*\])$", (FILES / "Dockerfile").read_text(), re.MULTILINE)
    command: list[str] = yaml.safe_load(line)
    graceful = float(command[command.index("--timeout-graceful-shutdown") + 1])
    assert float(web["stop_grace_period"].removesuffix("s")) > graceful
