"""Fixtures for all tests: a database that threads can share, and servers that end with the test."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings

# Import the fixtures for environments in which the package's pytest plugin is not installed.
from django_sse.pytest_plugin import sse_connect, sse_published  # noqa: F401
from tests.project.journal import Journal
from tests.support.mariadb_server import MariaDBServer
from tests.support.postgres_server import PostgresServer, program
from tests.support.servers import Server, copy_database, make_database
from tests.support.services import missing

#: The tests that `-m "not slow"` leaves out: they show the behaviour of servers, Redis, proxies and
#: browsers.
SLOW = (
    "docs",
    "integration/attack",
    "integration/clients",
    "integration/contract",
    "integration/health/test_limits.py",
    "integration/health/test_shutdown.py",
    "integration/health/test_stalled.py",
    "integration/html",
    "integration/jobs",
    "integration/monitoring/test_doctor.py",
    "integration/monitoring/test_sse_stats.py",
    "integration/nginx",
    "integration/page",
    "integration/proxies",
    "integration/rows",
    "integration/test_browser.py",
    "integration/test_servers.py",
    "integration/topics/test_commands.py",
    "integration/topics/test_flow.py",
    "integration/topics/test_slow_clients.py",
)


def pytest_configure() -> None:
    # A shell lets background jobs ignore SIGINT, and the tests' servers would inherit that.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # Django's default hasher takes 0.25 s of CPU for each password, on purpose.
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if item.path.relative_to(here).as_posix().startswith(SLOW):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def django_db_modify_db_settings(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep the tests' database in a file.

    Connections to one in memory are never closed by Django, so no test could see whether the
    package closes them.
    """
    name = tmp_path_factory.mktemp("database") / "test.sqlite3"
    settings.DATABASES["default"].setdefault("TEST", {})["NAME"] = str(name)


@pytest.fixture(scope="session")
def sample_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated database with the sample data, for tests that do not write to it."""
    return make_database(tmp_path_factory.mktemp("database") / "sample.sqlite3")


@pytest.fixture
def database(sample_database: Path, tmp_path: Path) -> Path:
    """A copy of the sample database, for one test."""
    return copy_database(sample_database, tmp_path / "shop.sqlite3")


@pytest.fixture(scope="session")
def shared_postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL for all tests that do it no harm; each uses a database of its own."""
    _need_postgres()
    with PostgresServer() as server:
        yield server


@pytest.fixture(scope="session")
def shared_mariadb() -> Iterator[MariaDBServer]:
    """A MariaDB for all tests; each uses a database of its own."""
    with MariaDBServer() as server:
        yield server


def _need_postgres() -> None:
    """Skip the test where PostgreSQL is missing; fail where ``REQUIRE_SERVICES=1`` is set."""
    if program("postgres") is None or program("initdb") is None:
        missing("postgres", package="postgresql")


@pytest.fixture
def postgres_server() -> Iterator[PostgresServer]:
    """A PostgreSQL for one test, which may do with it what it likes."""
    _need_postgres()
    with PostgresServer() as server:
        yield server


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    """The journal of the streams of ``serve()``."""
    return Journal(tmp_path / "journal")


@pytest.fixture
def serve(database: Path, tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """``serve("daphne", …)`` starts a ``Server`` with the streams of ``tests.project``.

    It ends with the test, which fails where the server has logged a fault.
    """
    servers: list[Server] = []
    with ExitStack() as stack:

        def start(name: str, *args: Any, **options: Any) -> Server:
            server = stack.enter_context(_server(name, tmp_path, database, *args, **options))
            servers.append(server)
            return server

        yield start
    for server in servers:
        assert server.faults() == [], server.log()


@pytest.fixture(scope="session")
def shared_servers(
    sample_database: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], tuple[Server, Path]]]:
    running: dict[str, tuple[Server, Path]] = {}
    with ExitStack() as stack:

        def get(name: str) -> tuple[Server, Path]:
            if name not in running:
                directory = tmp_path_factory.mktemp(name)
                database = copy_database(sample_database, directory / "shop.sqlite3")
                server = stack.enter_context(_server(name, directory, database))
                running[name] = server, directory / "journal"
            return running[name]

        yield get


@pytest.fixture(params=["daphne", "uvicorn"])
def shared(
    request: pytest.FixtureRequest, shared_servers: Callable[[str], tuple[Server, Path]]
) -> Iterator[Server]:
    """A server for tests that do not stop it: Daphne, then Uvicorn."""
    server, _ = shared_servers(request.param)
    faults = len(server.faults())
    yield server
    assert server.faults()[faults:] == [], server.log()


@pytest.fixture
def shared_journal(shared: Server, shared_servers: Callable[[str], tuple[Server, Path]]) -> Journal:
    """The journal of the streams of ``shared``, from here on."""
    return Journal(shared_servers(shared.name)[1])


def _server(
    name: str,
    directory: Path,
    database: Path,
    application: str = "tests.project.asgi:application",
    env: Mapping[str, str] | None = None,
    **options: Any,
) -> Server:
    # Without a time limit, Uvicorn waits for ever for clients that do not leave.
    args = ["--timeout-graceful-shutdown", "2"] if name == "uvicorn" else []
    return Server(
        name,
        application,
        directory=directory,
        database=database,
        settings="tests.project.settings",
        args=args,
        env={"JOURNAL": str(directory / "journal"), **(env or {})},
        **options,
    )


@pytest.fixture
def registry() -> Iterator[dict[type, Any]]:
    """The registry of ``@serializes``; it is restored after the test."""
    # Import it here: pytest loads a conftest before Django's settings.
    from django_sse.wire.serialization import registry, replaced  # noqa: PLC0415

    before, replaced_before = dict(registry), dict(replaced)
    yield registry
    for now, then in ((registry, before), (replaced, replaced_before)):
        now.clear()
        now.update(then)


@pytest.fixture
def broker() -> Iterator[Any]:
    """A broker in memory, which this process uses during the test."""
    from django_sse.brokers import use_broker  # noqa: PLC0415
    from django_sse.brokers.memory import MemoryBroker  # noqa: PLC0415

    broker = MemoryBroker()
    before = use_broker(broker)
    yield broker
    use_broker(before)


@pytest.fixture
def ending(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The shutdown of the process, which is undone after the test."""
    from django_sse.connection.shutdown import shutdown  # noqa: PLC0415

    monkeypatch.setattr(shutdown, "draining", False)
    return shutdown
