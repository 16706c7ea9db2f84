"""Triggers of PostgreSQL, as the page about models declares them, under real servers and clients."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.docs.pages import README, Project, blocks, files
from tests.docs.test_docs import SECONDS, Reader, serving
from tests.support.databases import sqlite_settings
from tests.support.postgres_server import PostgresServer
from tests.support.redis_server import RedisServer

from .test_models import PAGE

BROKERS = {
    "database": {"BACKEND": "django_sse.brokers.database.DatabaseBroker"},
    "memory": {"BACKEND": "django_sse.brokers.memory.MemoryBroker"},
    "redis": {"BACKEND": "django_sse.brokers.redis.RedisBroker"},
}
STREAMS = '''
from django.contrib.auth.models import Group, User


class UserSerializer(serializers.ModelSerializer):
    class Meta:
        model = User
        fields = ["id", "username"]


class Members(ModelSSEView):
    """The users of a group."""

    serializer_class = UserSerializer
    queryset = User.objects.filter(groups__name="team")
'''
#: Runs the code that comes in a line each, in one process for a whole test.
WORKER = """
import json
import sys

import django

django.setup()

import pgtrigger
from django.contrib.auth.models import Group, User
from django.db import connection, transaction
from django.db.utils import InterfaceError
from shop.models import Order

for line in sys.stdin:
    exec(json.loads(line))
    print("done", flush=True)
"""


def documented(word: str) -> str:
    [text] = [it.text for it in blocks(PAGE) if word in it.text and it.path is None]
    return text


class Site:
    """The project of the page on PostgreSQL, with the triggers that the page shows."""

    def __init__(
        self, directory: Path, server: PostgresServer, broker: dict[str, Any], sqlite: bool = False
    ) -> None:
        self.server = server
        self.database = server.new_database()
        if sqlite:
            self.database = sqlite_settings(directory / "db.sqlite3")
        self.project = project = Project(directory)
        project.paste(README, PAGE)
        project.write(
            "project/settings.py",
            f"{documented('INSTALLED_APPS')}\n"
            f"DATABASES = {{'default': {self.database!r}}}\nDJANGO_SSE = {{'BROKER': {broker!r}}}\n",
        )
        models = files(README)["shop/models.py"].replace(
            "    created = models.DateTimeField(default=timezone.now)\n",
            "    created = models.DateTimeField(default=timezone.now)\n\n"
            "    class Meta:\n        triggers = stream_triggers()\n",
        )
        assert "triggers" in models
        assert models.count("class Order(models.Model):") == 1
        declared = documented(
            "class Order(models.Model):\n    item = models.CharField(max_length=100)\n\n    class Meta"
        )
        imported = declared.partition("\n")[0]
        assert "triggers = stream_triggers()" in declared
        membership = documented("class Membership(")
        project.write(
            "shop/models.py",
            f"from django.contrib.auth.models import User\n{imported}\n{models}\n\n{membership}",
        )
        project.write("shop/streams.py", files(PAGE)["shop/streams.py"] + STREAMS)
        urls = files(PAGE)["project/urls.py"].replace(
            "import OrderChanges", "import Members, OrderChanges"
        )
        urls += '\nrouter.register("members", Members)\nurlpatterns += [path("live/", include(router.urls))]\n'
        project.write("project/urls.py", urls)
        project.manage("makemigrations", "shop", "-v", "0")
        project.manage("migrate", "-v", "0")
        self._worker: subprocess.Popen[str] | None = None

    def sql(self, statement: str) -> str:
        """Run SQL as a program does that knows nothing of Django: by psql."""
        return self.server.execute(statement, self.database["NAME"])

    def run(self, code: str) -> None:
        """Run code in another process of the project."""
        if self._worker is None:
            self.project.write("worker.py", WORKER)
            self._worker = subprocess.Popen(
                [sys.executable, "worker.py"],
                cwd=self.project.directory,
                env=self.project.environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        assert self._worker.stdin is not None
        assert self._worker.stdout is not None
        self._worker.stdin.write(json.dumps(code) + "\n")
        self._worker.stdin.flush()
        assert self._worker.stdout.readline() == "done\n", code

    def close(self) -> None:
        if self._worker is not None:
            self._worker.communicate(timeout=SECONDS)

    @property
    def waiting(self) -> int:
        """How many rows of the table are not told."""
        return int(self.sql("SELECT count(*) FROM django_sse_change"))


@pytest.fixture(scope="session")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def site(
    request: pytest.FixtureRequest, tmp_path: Path, shared_postgres: PostgresServer
) -> Iterator[Site]:
    name = getattr(request, "param", "database")
    broker = BROKERS[name]
    if name == "redis":
        broker = broker | {"LOCATION": request.getfixturevalue("shared_redis").url()}
    site = Site(tmp_path / "project", shared_postgres, broker)
    yield site
    site.close()


@contextmanager
def following(client: httpx.Client, path: str) -> Iterator[Callable[[], tuple[str | None, Any]]]:
    """Open a stream; gives a function that returns its next event."""
    with client.stream("GET", path) as response:
        reader = Reader(response)

        def event() -> tuple[str | None, Any]:
            found = reader.event()
            return found.event, json.loads(str(found.data))

        while event()[0] != "end":
            pass
        yield event


def names(count: int, event: Callable[[], tuple[str | None, Any]]) -> list[tuple[str | None, Any]]:
    """Return the next events, with the item or the key, in the order of keys."""
    found = [event() for _ in range(count)]
    found.sort(key=lambda it: it[1].get("id", 0))
    return [(name, data.get("item", data.get("id"))) for name, data in found]


INSERT = "INSERT INTO shop_order (item, quantity, total, created) VALUES "


@pytest.mark.parametrize("site", BROKERS, indirect=True)
def test_changes_without_signals_reach_streams_by_themselves(site: Site) -> None:
    with ExitStack() as stack:
        client = stack.enter_context(serving(site.project, "uvicorn"))
        event = stack.enter_context(following(client, "/live/orders/"))

        site.sql(INSERT + "('Cup', 1, 5, now()), ('Pot', 1, 5, now()), ('Vase', 1, 500, now())")
        assert names(2, event) == [("created", "Cup"), ("created", "Pot")]
        site.sql("UPDATE shop_order SET quantity = 3 WHERE item = 'Pot'")
        name, data = event()
        assert (name, data["item"], data["quantity"]) == ("changed", "Pot", 3)
        # It enters what this client may see, and leaves it.
        site.sql("UPDATE shop_order SET total = 7 WHERE item = 'Vase'")
        assert names(1, event) == [("created", "Vase")]
        site.run("Order.objects.filter(item='Vase').update(total=700)")
        assert names(1, event) == [("deleted", 3)]
        site.run("Order.objects.bulk_create(Order(item=it, total=1) for it in ('Tea', 'Jug'))")
        assert names(2, event) == [("created", "Tea"), ("created", "Jug")]
        site.run(
            "orders = list(Order.objects.filter(item__in=['Tea', 'Jug']))\n"
            "for order in orders: order.quantity = 9\n"
            "Order.objects.bulk_update(orders, ['quantity'])"
        )
        assert [event()[1]["quantity"] for _ in range(2)] == [9, 9]
        site.sql("DELETE FROM shop_order WHERE item IN ('Tea', 'Jug')")
        assert names(2, event) == [("deleted", 4), ("deleted", 5)]
        site.sql("UPDATE shop_order SET id = 50 WHERE item = 'Cup'")
        assert names(2, event) == [("deleted", 1), ("created", "Cup")]

        # What is rolled back, matches nothing or is ignored is not told.
        site.sql("BEGIN; DELETE FROM shop_order; ROLLBACK")
        site.sql("UPDATE shop_order SET quantity = 4 WHERE item = 'Nothing'")
        site.run(
            "with pgtrigger.ignore('shop.Order:stream_update'):\n"
            "    Order.objects.filter(item='Cup').update(quantity=6)"
        )
        # A signal does not tell again what the trigger has told.
        site.run("order = Order.objects.get(item='Pot'); order.quantity = 1; order.save()")
        assert names(1, event) == [("changed", "Pot")]
        site.run("order.quantity = 2; order.save()")
        name, data = event()
        assert (name, data["quantity"]) == ("changed", 2)
        site.sql("TRUNCATE shop_order")
        assert [event()[0] for _ in range(3)] == ["reset", "begin", "end"]
        assert site.waiting == 0
    assert "Traceback" not in (site.project.directory / "uvicorn.log").read_text()


def test_many_to_many_relation_of_another_app_tells_both_sides(site: Site) -> None:
    site.run(
        "team = Group.objects.create(name='team')\n"
        "ada, bob = (User.objects.create(username=it) for it in ('ada', 'bob'))"
    )
    with serving(site.project, "daphne") as client, following(client, "/live/members/") as event:
        site.sql("INSERT INTO auth_user_groups (user_id, group_id) SELECT id, 1 FROM auth_user")
        assert [event()[0] for _ in range(2)] == ["created", "created"]
        site.run("team.user_set.remove(ada)")
        assert event() == ("deleted", {"id": 1})
        site.sql("TRUNCATE auth_user_groups")
        assert [event()[0] for _ in range(3)] == ["reset", "begin", "end"]


def test_large_statement_is_one_row_and_one_notification(site: Site) -> None:
    with serving(site.project, "uvicorn") as client, following(client, "/live/orders/") as event:
        heard: list[str] = []
        listener = subprocess.Popen(
            [
                *(sys.executable, "-c", LISTENER, site.server.settings("x")["HOST"]),
                *(str(site.server.port), site.database["NAME"]),
            ],
            stdout=subprocess.PIPE,
            stdin=subprocess.PIPE,
            text=True,
        )
        assert listener.stdout is not None
        assert listener.stdout.readline() == "listening\n"
        site.sql(
            f"BEGIN; {INSERT.replace('VALUES', '')} SELECT 'Cup', 1, 5, now() FROM "
            "generate_series(1, 10000); UPDATE shop_order SET quantity = 2; COMMIT"
        )
        got = {event()[1]["id"]: None for _ in range(10_000)}
        assert len(got) == 10_000
        heard += listener.communicate("\n", timeout=SECONDS)[0].splitlines()
        assert heard == ["1"]


LISTENER = """
import sys

import psycopg

host, port, name = sys.argv[1:]
with psycopg.connect(host=host, port=port, dbname=name, user="postgres", autocommit=True) as it:
    it.execute("LISTEN django_sse_change")
    print("listening", flush=True)
    sys.stdin.readline()
    print(len(list(it.notifies(timeout=0.5))))
"""


def test_nothing_is_lost_while_nobody_listens_or_the_database_is_away(site: Site) -> None:
    site.sql(INSERT + "('Cup', 1, 5, now())")
    assert site.waiting == 1  # Nobody listens.
    with ExitStack() as stack:
        events = []
        for server in ("uvicorn", "daphne"):
            client = stack.enter_context(serving(site.project, server))
            events.append(stack.enter_context(following(client, "/live/orders/")))
        assert site.waiting == 0
        # What was told before is in the snapshot, and is not sent again.
        site.sql("UPDATE shop_order SET quantity = 8")
        for event in events:
            name, data = event()
            assert (name, data["quantity"]) == ("changed", 8)
        site.server.cut(site.database["NAME"])
        site.sql("UPDATE shop_order SET quantity = 9")
        for event in events:
            name, data = event()
            assert (name, data["quantity"]) == ("changed", 9)


def test_too_many_old_changes_are_not_told_one_by_one(site: Site) -> None:
    site.sql(INSERT + "('Cup', 1, 5, now())")
    site.sql(
        "DO $$ BEGIN FOR n IN 1 .. 2500 LOOP UPDATE shop_order SET quantity = n; END LOOP; END $$"
    )
    assert site.waiting == 2501
    with serving(site.project, "uvicorn") as client, following(client, "/live/orders/") as event:
        assert site.waiting == 0
        site.sql("UPDATE shop_order SET quantity = 1")
        assert event()[1]["quantity"] == 1


def test_role_without_permission_for_the_table_may_change_rows(site: Site) -> None:
    site.sql("CREATE ROLE clerk; GRANT ALL ON shop_order, shop_order_id_seq TO clerk")
    with serving(site.project, "uvicorn") as client, following(client, "/live/orders/") as event:
        site.sql(f"SET ROLE clerk; {INSERT} ('Cup', 1, 5, now())")
        assert names(1, event) == [("created", "Cup")]
    with pytest.raises(subprocess.CalledProcessError) as failure:
        site.sql("SET ROLE clerk; SELECT * FROM django_sse_change")
    assert "permission denied" in failure.value.stderr


def test_other_databases_go_on_with_signals(
    tmp_path: Path, shared_postgres: PostgresServer
) -> None:
    site = Site(tmp_path / "project", shared_postgres, BROKERS["database"], sqlite=True)
    try:
        with (
            serving(site.project, "uvicorn") as client,
            following(client, "/live/orders/") as event,
        ):
            site.run("Order.objects.create(item='Cup', total=1)")
            assert names(1, event) == [("created", "Cup")]
            site.run("Order.objects.update(quantity=2); Order.objects.get().delete()")
            assert names(1, event) == [("deleted", 1)]
        assert "trying again" not in (site.project.directory / "uvicorn.log").read_text()
    finally:
        site.close()
