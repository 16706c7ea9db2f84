"""What ``python -m build`` makes installs in an empty environment, and runs the quick start there."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import httpx
import pytest

from django_sse.events import EventDecoder
from tests.docs.pages import README, ROOT, files
from tests.support.servers import free_port, listens

SECONDS = 20.0
NEEDED = (
    "django_sse/py.typed",
    "django_sse/templates/django_sse/stream.html",
    "django_sse/templates/admin/django_sse/openstream/change_list.html",
    "django_sse/static/django_sse/stream.js",
    "django_sse/static/django_sse/stream.css",
    "django_sse/locale/de/LC_MESSAGES/django.mo",
)


def environment() -> dict[str, str]:
    """Return the environment without what the tests have put there."""
    ours = ("PYTHON", "COV", "DJANGO")
    return {name: it for name, it in os.environ.items() if not name.startswith(ours)}


def run(*command: str, cwd: Path, timeout: float = 110) -> str:
    """Run a command in that environment; return what it wrote."""
    done = subprocess.run(
        command,
        cwd=cwd,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The wheel, and the source distribution from which it was built."""
    target = tmp_path_factory.mktemp("dist")
    command = ["-m", "build", "--no-isolation", "--outdir", str(target), str(ROOT)]
    run(sys.executable, *command, cwd=target)
    [wheel], [source] = target.glob("*.whl"), target.glob("*.tar.gz")
    return wheel, source


def test_distributions_have_all_files(built: tuple[Path, Path]) -> None:
    wheel, source = built
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert [name for name in NEEDED if name not in names] == []
    # Nothing else is installed.
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {
        "django_sse",
        "django_sse_views",
    }
    with tarfile.open(source) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    assert [name for name in (*NEEDED, "README.md", "docs/index.md") if name not in inside] == []


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", ["wheel", "source distribution"])
def test_quick_start_runs_in_an_empty_environment(
    kind: str, built: tuple[Path, Path], tmp_path: Path
) -> None:
    run(sys.executable, "-m", "venv", str(tmp_path / "venv"), cwd=tmp_path)
    python = str(tmp_path / "venv" / "bin" / "python")
    file = built[0] if kind == "wheel" else built[1]
    install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    run(python, *install, f"{file}[daphne]", cwd=tmp_path)
    project = tmp_path / "site"
    project.mkdir()
    run(python, "-m", "django", "startproject", "project", ".", cwd=project)
    run(python, "manage.py", "startapp", "shop", cwd=project)
    for path, text in files(README).items():
        target = project / path
        before = target.read_text() if path == "project/settings.py" else ""
        target.write_text(f"{before}\n\n{text}")
    run(python, "manage.py", "makemigrations", "shop", cwd=project)
    run(python, "manage.py", "migrate", cwd=project)
    port = free_port()
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [python, "manage.py", "runserver", f"127.0.0.1:{port}", "--noreload"],
            cwd=project,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        deadline = time.monotonic() + SECONDS
        while not listens(port):
            assert time.monotonic() < deadline, (tmp_path / "log").read_text()
            time.sleep(0.05)
        address = f"http://127.0.0.1:{port}"
        style = httpx.get(f"{address}/static/django_sse/stream.css")
        assert style.status_code == 200
        with httpx.stream("GET", f"{address}/orders/events/", timeout=SECONDS) as response:
            pieces, decoder = response.iter_raw(), EventDecoder()
            decoder.feed(next(pieces))
            order = "from shop.models import Order; Order.objects.create(item='Cup', total='1.00')"
            run(python, "manage.py", "shell", "-c", order, cwd=project)
            while not any(event.event == "created" for event in decoder.feed(next(pieces))):
                pass
    finally:
        process.terminate()
        process.wait(SECONDS)
