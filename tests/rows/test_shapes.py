"""Models and querysets of all shapes: each is streamed right, or refused with the reason."""

# The models live for one test, and nothing shows them.
# ruff: noqa: DJ001, DJ008

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, suppress
from types import SimpleNamespace
from typing import Any

import pytest
from django.apps import apps
from django.contrib.auth.models import Group, User
from django.core.exceptions import ImproperlyConfigured
from django.db import connection, models, transaction
from django.db.models import Count, F, Value, Window
from django.db.models.functions import RowNumber
from rest_framework import serializers

from django_sse import ModelSSEView, apublish_changes, publish_changes
from django_sse.checks import check_triggers
from django_sse.rows import changes
from django_sse.testing import StreamClient, connect
from testproject.shop.models import Order

from .conftest import Copy, in_thread


class Code:
    """A key of a type of its own, as libraries for ULIDs and hash ids have."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __str__(self) -> str:
        return self.text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Code) and self.text == other.text

    def __lt__(self, other: Code) -> bool:
        return self.text < other.text

    def __hash__(self) -> int:
        return hash(self.text)


class CodeField(models.CharField):
    def to_python(self, value: Any) -> Any:
        return value if value is None or isinstance(value, Code) else Code(str(value))

    def from_db_value(self, value: Any, *args: Any) -> Any:
        return self.to_python(value)

    def get_prep_value(self, value: Any) -> Any:
        return None if value is None else str(value)


def define() -> SimpleNamespace:
    """Make the models; they belong to the shop while a test runs."""

    class Team(models.Model):
        id = models.UUIDField(primary_key=True, default=uuid.uuid4)
        name = models.CharField(max_length=20)

        class Meta:
            app_label = "shop"

    class Task(models.Model):
        code = CodeField(max_length=20, primary_key=True)
        team = models.ForeignKey(Team, models.SET_NULL, null=True)
        spare = models.ForeignKey(Team, models.CASCADE, null=True, related_name="spared")
        title = models.CharField(max_length=20)

        class Meta:
            app_label = "shop"

    class Vessel(models.Model):
        name = models.CharField(max_length=20)

        class Meta:
            app_label = "shop"

    class Ship(Vessel):
        team = models.ForeignKey(Team, models.CASCADE, null=True)

        class Meta:
            app_label = "shop"

    class Ferry(Ship):
        class Meta:
            proxy = True
            app_label = "shop"

    class Dock(models.Model):
        dock = models.AutoField(primary_key=True)
        place = models.CharField(max_length=20)

        class Meta:
            app_label = "shop"

    # Its key is that of Vessel; that of Dock is another one.
    class Wreck(Vessel, Dock):
        class Meta:
            app_label = "shop"

    class Page(models.Model):
        site = models.CharField(max_length=20)
        slug = models.SlugField()
        key = models.CharField(max_length=20, unique=True, null=True)

        class Meta:
            app_label = "shop"
            constraints = [models.UniqueConstraint(fields=["site", "slug"], name="page")]

    class Word(models.Model):
        word = models.CharField(max_length=20, primary_key=True, db_collation="NOCASE")
        text = models.CharField(max_length=20, default="")

        class Meta:
            app_label = "shop"

    class Leaf(models.Model):
        # The database does it itself, where Django lets it.
        team = models.ForeignKey(Team, getattr(models, "DB_CASCADE", models.CASCADE))
        name = models.CharField(max_length=20)

        class Meta:
            app_label = "shop"

    class Blob(models.Model):
        id = models.BinaryField(primary_key=True)

        class Meta:
            app_label = "shop"

    class Seat(models.Model):
        pk = models.CompositePrimaryKey("team_id", "number")
        team = models.ForeignKey(Team, models.CASCADE)
        number = models.IntegerField()
        color = models.CharField(max_length=20, default="")

        class Meta:
            app_label = "shop"

    class Link(models.Model):
        one = models.ForeignKey("Node", models.CASCADE, to_field="code", related_name="from_links")
        other = models.ForeignKey("Node", models.CASCADE, to_field="code", related_name="to_links")

        class Meta:
            app_label = "shop"

    class Node(models.Model):
        code = models.CharField(max_length=20, unique=True)
        nodes = models.ManyToManyField("self", through=Link, symmetrical=False)

        class Meta:
            app_label = "shop"

    return SimpleNamespace(**{it.__name__: it for it in locals().values()})


@pytest.fixture
def shapes(transactional_db: None, broker: Any) -> Iterator[SimpleNamespace]:
    before = set(apps.all_models["shop"])
    made = define()
    its = [it for it in vars(made).values() if not it._meta.proxy]
    watched, dependents = set(changes._watched), dict(changes._dependents)
    with connection.schema_editor() as editor:
        for model in its:
            editor.create_model(model)
    yield made
    with connection.schema_editor() as editor:
        for model in reversed(its):
            editor.delete_model(model)
    for name in set(apps.all_models["shop"]) - before:
        del apps.all_models["shop"][name]
    apps.clear_cache()
    changes._watched.clear()
    changes._watched.update(watched)
    changes._dependents.clear()
    changes._dependents.update(dependents)


def view(rows: Any, *fields: str, **attributes: Any) -> Any:
    """Return a view of rows whose serializer has these fields."""
    meta = type("Meta", (), {"model": rows.model, "fields": fields})
    serializer = type("RowSerializer", (serializers.ModelSerializer,), {"Meta": meta})
    return type(
        "Rows",
        (ModelSSEView,),
        {"queryset": rows, "serializer_class": serializer, "heartbeat": None, **attributes},
    )


async def copy_of(stream: StreamClient) -> Copy:
    copy = Copy(stream)
    await copy.until("end")
    return copy


async def event(copy: Copy) -> tuple[str | None, Any]:
    """Return the next event, with what it says beside the key."""
    name, data = await copy.event()
    return name, data.get("name", data.get("title", data.get("text", data.get(copy.key))))


# Keys.


async def test_keys_of_any_type_are_told_and_read(shapes: SimpleNamespace) -> None:
    teams = view(shapes.Team.objects.all(), "id", "name")
    tasks = view(
        shapes.Task.objects.all(), "code", "title", "team", depends_on={shapes.Team: "task_set"}
    )
    async with connect(teams) as one, connect(tasks) as two:
        copy, its = await copy_of(one), await copy_of(two)
        team = await shapes.Team.objects.acreate(name="a")
        assert await event(copy) == ("created", "a")
        task = await shapes.Task.objects.acreate(code=Code("x-1"), title="x", team=team)
        assert await event(its) == ("created", "x")
        await team.asave()  # It is in the task.
        assert await event(copy) == ("changed", "a")
        assert await event(its) == ("changed", "x")
        await task.adelete()
        last = await its.event()
        while last[0] == "changed":  # A check may find the task for the team's first message, too.
            last = await its.event()
        assert last == ("deleted", {"code": "x-1"})
        key = str(team.pk)
        await team.adelete()
        assert await copy.event() == ("deleted", {"id": key})


async def test_key_that_the_database_writes_in_another_way_is_found(
    shapes: SimpleNamespace,
) -> None:
    await shapes.Word.objects.acreate(word="Ab")
    async with connect(view(shapes.Word.objects.all(), "word", "text")) as stream:
        copy = await copy_of(stream)
        # The row is that of "Ab": the collation does not distinguish them.
        await shapes.Word(word="aB", text="new").asave(force_update=True)
        assert await copy.event() == ("changed", {"word": "Ab", "text": "new"})


async def test_lookup_field_that_changes_moves_the_row_to_its_new_key(
    shapes: SimpleNamespace,
) -> None:
    pages = view(shapes.Page.objects.all(), "key", "site", lookup_field="key")
    a, b, c = [
        await shapes.Page.objects.acreate(site=it, slug=it, key=it) for it in ("a", "b", "c")
    ]

    def swap() -> None:
        with transaction.atomic():
            shapes.Page.objects.filter(pk=a.pk).update(key="x")
            shapes.Page.objects.filter(pk=b.pk).update(key="a")
            shapes.Page.objects.filter(pk=a.pk).update(key="b")
            publish_changes([a, b])

    async with AsyncExitStack() as stack:
        # It keeps what the process remembers.
        await stack.enter_async_context(connect(view(shapes.Word.objects.all(), "word")))
        async with connect(pages) as stream:
            copy = await copy_of(stream)
            c.key = "d"
            await c.asave()
            assert [await copy.event() for _ in range(2)] == [
                ("deleted", {"key": "c"}),
                ("created", {"key": "d", "site": "c"}),
            ]
            seen = stream.last_event_id
            await in_thread(swap)()
            c.key = "e"
            await c.asave()
            sites = {"a": "b", "b": "a", "e": "c"}
            while {key: row["site"] for key, row in copy.rows.items()} != sites:
                await copy.event()
            await stream.receive_nothing(0.1)
        async with connect(pages, headers={"Last-Event-ID": seen}) as stream:
            later = Copy(stream, key="key")
            later.rows = {it: {"key": it} for it in ("a", "b", "d")}
            while later.rows != copy.rows:
                await later.event()
            await stream.receive_nothing(0.1)
            assert {name for name, _ in later.events} == {"deleted", "created"}


async def test_row_that_takes_the_key_of_another_one_stays(shapes: SimpleNamespace) -> None:
    pages = view(shapes.Page.objects.all(), "key", "site", lookup_field="key")
    a = await shapes.Page.objects.acreate(site="a", slug="a", key="a")
    b = await shapes.Page.objects.acreate(site="b", slug="b", key="b")
    async with connect(pages) as stream:
        copy = await copy_of(stream)
        # Only the row that has its key is told first, as if the other message were late.
        await shapes.Page.objects.filter(pk=b.pk).aupdate(key=None)
        a.key = "b"
        await a.asave()
        assert [(await copy.event())[0] for _ in range(2)] == ["deleted", "created"]
        await in_thread(shapes.Page.objects.filter(pk=b.pk).delete)()
        await stream.receive_nothing(0.1)
        assert copy.rows == {"b": {"key": "b", "site": "a"}}


async def test_page_that_finds_a_new_key_tells_all_clients(
    shapes: SimpleNamespace,
) -> None:
    pages = view(shapes.Page.objects.all(), "key", "site", lookup_field="key")
    row = await shapes.Page.objects.acreate(site="a", slug="a", key="a")
    async with connect(pages) as stream:
        copy = await copy_of(stream)
        await shapes.Page.objects.filter(pk=row.pk).aupdate(key="b")  # Nothing tells of it.
        async with connect(pages) as other:
            await copy_of(other)
            await copy.when({"b"})


@pytest.mark.parametrize("lookup", ["site", "text"])
def test_lookup_field_of_many_rows_is_refused(shapes: SimpleNamespace, lookup: str) -> None:
    model = shapes.Page if lookup == "site" else shapes.Word
    pages = view(model.objects.all(), "pk", lookup)
    if lookup == "site":  # It is unique together with another field.
        pages.as_view(lookup_field=lookup)
        return
    with pytest.raises(ImproperlyConfigured, match="of which Word may have many rows"):
        pages.as_view(lookup_field=lookup)


async def test_object_in_an_object_is_no_key(shapes: SimpleNamespace) -> None:
    class VesselSerializer(serializers.ModelSerializer[Any]):
        class Meta:
            model = shapes.Vessel
            fields = ["id"]

    class ShipSerializer(serializers.ModelSerializer[Any]):
        vessel_ptr = VesselSerializer()

        class Meta:
            model = shapes.Ship
            fields = ["vessel_ptr", "vessel_ptr_id"]

    ship = await shapes.Ship.objects.acreate(name="a")
    ships = view(shapes.Ship.objects.all(), serializer_class=ShipSerializer)
    async with connect(ships) as stream:
        assert set((await copy_of(stream)).rows) == {ship.pk}


# Inheritance.


async def test_row_of_a_child_is_one_of_its_parents(shapes: SimpleNamespace) -> None:
    vessels = view(shapes.Vessel.objects.all(), "id", "name")
    ships = view(shapes.Ship.objects.all(), "id", "name")
    ferries = view(shapes.Ferry.objects.all(), "id", "name")
    async with connect(vessels) as one, connect(ships) as two, connect(ferries) as three:
        copies = [await copy_of(it) for it in (one, two, three)]
        ferry = await shapes.Ferry.objects.acreate(name="a")
        assert [await event(it) for it in copies] == [("created", "a")] * 3
        await shapes.Vessel.objects.filter(pk=ferry.pk).aupdate(name="b")
        await (await shapes.Vessel.objects.aget(pk=ferry.pk)).asave()
        assert [await event(it) for it in copies] == [("changed", "b")] * 3
        pk = ferry.pk
        await (await shapes.Vessel.objects.aget(pk=pk)).adelete()
        assert [(await it.event())[0] for it in copies] == ["deleted"] * 3


async def test_row_under_another_key_is_one_of_its_parents(shapes: SimpleNamespace) -> None:
    for _ in range(3):
        await shapes.Vessel.objects.acreate(name="other")
    docks = view(shapes.Dock.objects.all(), "dock", "place")
    wrecks = view(shapes.Wreck.objects.all(), "id", "place")
    async with connect(docks) as one, connect(wrecks) as two:
        copy, its = await copy_of(one), await copy_of(two)
        wreck = await shapes.Wreck.objects.acreate(name="a", place="x")
        assert (wreck.pk, wreck.dock) == (4, 1)
        await copy.when({1})
        await its.when({4})
        dock = await shapes.Dock.objects.aget()
        dock.place = "y"
        await dock.asave()
        for it, key in ((copy, 1), (its, 4)):
            while it.rows.get(key, {}).get("place") != "y":
                await it.event()
        await wreck.adelete()
        await copy.when(set())
        await its.when(set())


def test_parent_has_no_foreign_key_of_a_child(shapes: SimpleNamespace) -> None:
    view(shapes.Team.objects.all(), "id", depends_on={shapes.Ship: "team"})
    vessel = shapes.Vessel.objects.create(name="a")
    vessel.name = "b"
    vessel.save()
    vessel.delete()


def test_check_finds_parents_without_triggers(shapes: SimpleNamespace, covered: set[Any]) -> None:
    assert check_triggers() == []
    covered.update([shapes.Ship, shapes.Team])
    [message] = check_triggers()
    assert message.id == "django_sse.W008"
    assert "Ship has stream_triggers(), but not shop.Vessel, whose table" in message.msg
    covered.add(shapes.Vessel)
    assert check_triggers() == []


# What is saved and deleted.


async def test_foreign_key_leads_to_rows_however_the_object_was_loaded(
    shapes: SimpleNamespace,
) -> None:
    teams = view(shapes.Team.objects.all(), "id", "name", depends_on={shapes.Task: "team"})
    a, b = [await shapes.Team.objects.acreate(name=it) for it in ("a", "b")]
    for code in ("1", "2", "3"):
        await shapes.Task.objects.acreate(code=code, title="x", team=a, spare=b)

    async def touched() -> set[Any]:
        found = {(await event(copy))[1]}
        while True:
            try:
                found.add((await event_within(copy))[1])
            except Exception:
                return found

    async def event_within(copy: Copy) -> tuple[str | None, Any]:
        name, data = await copy.event(0.2)
        return name, data["name"]

    async with connect(teams) as stream:
        copy = await copy_of(stream)
        task = await shapes.Task.objects.aget(code="1")
        task.team_id = F("spare_id")
        await task.asave()
        assert await touched() == {"a", "b"}
        await (await shapes.Task.objects.only("title").aget(code="1")).adelete()
        assert await touched() == {"b"}
        stale = await shapes.Task.objects.defer("team").aget(code="2")
        await shapes.Task.objects.filter(code="2").aupdate(team=b)
        await stale.asave()
        assert await touched() == {"b"}
        stale.team = a  # It is not saved.
        await stale.adelete()
        assert await touched() == {"b"}
        # A new object takes the place of a row.
        await shapes.Task(code="3", title="y", team=b).asave()
        assert await touched() == {"a", "b"}


async def test_row_whose_foreign_key_is_emptied_by_a_delete_is_told(
    shapes: SimpleNamespace,
) -> None:
    tasks = view(shapes.Task.objects.all(), "code", "title", "team")
    team, spare = [await shapes.Team.objects.acreate(name=it) for it in ("a", "b")]
    await shapes.Task.objects.acreate(code="1", title="x", team=team)
    await shapes.Task.objects.acreate(code="2", title="y", team=team, spare=spare)
    async with connect(tasks) as stream:
        copy = await copy_of(stream)
        await in_thread(shapes.Team.objects.filter(name="a").delete)()
        for _ in range(2):
            name, data = await copy.event()
            assert (name, data["team"]) == ("changed", None)
        await in_thread(shapes.Team.objects.filter(name="b").delete)()  # It cascades.
        assert await copy.event() == ("deleted", {"code": "2"})


async def test_row_that_the_database_deletes_with_its_object_is_told(
    shapes: SimpleNamespace,
) -> None:
    team = await shapes.Team.objects.acreate(name="a")
    leaf = await shapes.Leaf.objects.acreate(team=team, name="x")
    async with connect(view(shapes.Leaf.objects.all(), "id", "name")) as stream:
        copy = await copy_of(stream)
        await in_thread(shapes.Team.objects.all().delete)()
        assert await copy.event() == ("deleted", {"id": leaf.pk})


async def test_object_with_a_composite_key_touches_rows(shapes: SimpleNamespace) -> None:
    teams = view(shapes.Team.objects.all(), "id", "name", depends_on={shapes.Seat: "team"})
    a, b = [await shapes.Team.objects.acreate(name=it) for it in ("a", "b")]
    async with connect(teams) as stream:
        copy = await copy_of(stream)
        seat = await shapes.Seat.objects.acreate(team=a, number=1)
        assert await event(copy) == ("changed", "a")
        seat.color = "red"
        await seat.asave()
        assert await event(copy) == ("changed", "a")
        await in_thread(publish_changes)([seat])
        assert await event(copy) == ("changed", "a")
        await shapes.Seat.objects.aupdate(team=b)
        await in_thread(publish_changes)(shapes.Seat.objects.all())
        assert await event(copy) == ("changed", "b")
        await (await shapes.Seat.objects.aget()).adelete()
        assert await event(copy) == ("changed", "b")
        with pytest.raises(ValueError, match="without a primary key"):
            await apublish_changes([shapes.Seat(team=a)])


async def test_relation_by_another_field_than_the_key_touches_both_sides(
    shapes: SimpleNamespace,
) -> None:
    async with connect(view(shapes.Node.objects.all(), "code", "id")) as stream:
        copy = await copy_of(stream)
        a, b = [await shapes.Node.objects.acreate(code=it) for it in ("a", "b")]
        assert [(await copy.event())[0] for _ in range(2)] == ["created", "created"]
        await a.nodes.aadd(b)
        assert {(await copy.event())[1]["code"] for _ in range(2)} == {"a", "b"}
        await a.nodes.aclear()
        assert {(await copy.event())[1]["code"] for _ in range(2)} == {"a", "b"}


async def test_savepoint_that_is_rolled_back_tells_nothing(shapes: SimpleNamespace) -> None:
    def change() -> None:
        with transaction.atomic():
            shapes.Vessel.objects.create(name="a")
            with suppress(ZeroDivisionError), transaction.atomic():
                shapes.Vessel.objects.create(name="b")
                with transaction.atomic():
                    shapes.Vessel.objects.create(name="c")
                raise ZeroDivisionError
            with transaction.atomic():
                shapes.Vessel.objects.create(name="d")
                transaction.set_rollback(True)
            shapes.Vessel.objects.create(name="e")

    async with connect(view(shapes.Vessel.objects.all(), "id", "name")) as stream:
        copy = await copy_of(stream)
        await in_thread(change)()
        assert [await event(copy) for _ in range(2)] == [("created", "a"), ("created", "e")]
        await stream.receive_nothing(0.1)


# Querysets.


def odd(made: SimpleNamespace) -> dict[str, tuple[Any, str]]:
    rows = made.Vessel.objects.all()
    ranked = rows.annotate(rank=Window(RowNumber(), order_by="name"))
    return {
        "window": (ranked, "has a window function"),
        "filtered window": (ranked.filter(rank__lte=1), "has a window function"),
        "distinct": (rows.order_by("name").distinct("name"), r"is a distinct\(\) of fields"),
        "lock": (rows.select_for_update(), r"is a select_for_update\(\)"),
        "bytes": (made.Blob.objects.all(), "has a primary key of bytes"),
        "composite key": (made.Seat.objects.all(), "has a composite primary key"),
        "dates": (Order.objects.dates("created", "day"), r"is a values\(\)"),
    }


@pytest.mark.parametrize(
    "name",
    ["window", "filtered window", "distinct", "lock", "bytes", "composite key", "dates"],
)
def test_queryset_that_cannot_be_asked_for_a_row_is_refused(
    shapes: SimpleNamespace, name: str
) -> None:
    rows, words = odd(shapes)[name]
    with pytest.raises(ImproperlyConfigured, match=words):
        view(rows, "pk")


async def test_what_is_no_queryset_is_refused(
    shapes: SimpleNamespace, caplog: pytest.LogCaptureFixture
) -> None:
    for rows in (shapes.Vessel.objects.raw("SELECT 1 AS id"), [shapes.Vessel()], None):
        vessels = view(shapes.Vessel.objects.all(), "id", get_queryset=lambda self, it=rows: it)
        async with connect(vessels) as stream:
            assert stream.status_code == 500
        assert "must stream a QuerySet of a model's objects, got" in caplog.text
        caplog.clear()


async def test_queryset_with_joins_and_annotations_is_streamed(shapes: SimpleNamespace) -> None:
    rows = (
        shapes.Team.objects.filter(task__title__startswith="x")
        .annotate(tasks=Count("task"))
        .defer("name")
        .order_by("-task__title")
        .distinct()
    )
    teams = view(rows, "id", "name", depends_on={shapes.Task: "team"}, snapshot_page=1)
    teams.serializer_class._declared_fields["tasks"] = serializers.IntegerField()
    teams.serializer_class.Meta.fields = ["id", "name", "tasks"]
    a, b = [await shapes.Team.objects.acreate(name=it) for it in ("a", "b")]
    for code in ("1", "2"):
        await shapes.Task.objects.acreate(code=code, title="x", team=a)
    async with connect(teams) as stream:
        copy = await copy_of(stream)
        assert [it["tasks"] for it in copy.rows.values()] == [2]
        await shapes.Task.objects.acreate(code="3", title="x", team=b)
        assert (await copy.event())[1]["tasks"] == 1
        await in_thread(shapes.Task.objects.filter(team=a).delete)()
        await copy.when({str(b.pk)})


@pytest.mark.parametrize("rows", [Order, [], Order.objects.raw("SELECT 1 AS id")])
def test_class_with_no_queryset_is_refused(rows: Any) -> None:
    with pytest.raises(ImproperlyConfigured, match="must stream a QuerySet"):
        type("Wrong", (ModelSSEView,), {"queryset": rows})


class Signed(models.QuerySet):  # type: ignore[type-arg]
    """Objects that know for which user they were read."""

    owner = ""

    def signed(self, owner: str) -> Signed:
        rows = self._chain()
        rows.owner = owner
        return rows

    def _clone(self) -> Signed:
        rows = super()._clone()
        if self.owner:
            rows.owner = self.owner
        return rows

    def _fetch_all(self) -> None:
        super()._fetch_all()
        for row in self._result_cache:
            row.text = self.owner


@pytest.mark.parametrize("way", ["annotation", "queryset"])
async def test_no_user_gets_the_text_of_another_one(
    way: str, shapes: SimpleNamespace, ada: User, bob: User
) -> None:
    def get_queryset(self: Any) -> Any:
        if way == "annotation":
            return shapes.Word.objects.annotate(_mine=Value(self.user.username))
        return Signed(shapes.Word).signed(self.user.username)

    words = view(shapes.Word.objects.all(), "word", "mine", get_queryset=get_queryset)
    source = "_mine" if way == "annotation" else "text"
    words.serializer_class._declared_fields["mine"] = serializers.CharField(source=source)
    async with connect(words, user=ada) as one, connect(words, user=bob) as two:
        copies = [await copy_of(it) for it in (one, two)]
        word = await shapes.Word.objects.acreate(word="a")
        assert [(await it.event())[1]["mine"] for it in copies] == ["ada", "bob"]
        await word.asave()
        assert [(await it.event())[1]["mine"] for it in copies] == ["ada", "bob"]


async def test_object_through_which_the_rows_were_found_is_read_again(
    shapes: SimpleNamespace,
) -> None:
    team = await shapes.Team.objects.acreate(name="a")
    await shapes.Task.objects.acreate(code="1", title="x", team=team)
    found = await shapes.Team.objects.aget()
    tasks = view(
        shapes.Task.objects.all(),
        "code",
        "name",
        get_queryset=lambda self: found.task_set.all(),
        depends_on={shapes.Team: "task_set"},
    )
    tasks.serializer_class._declared_fields["name"] = serializers.CharField(source="team.name")
    async with connect(tasks) as stream:
        copy = await copy_of(stream)
        team.name = "b"
        await team.asave()
        assert await event(copy) == ("changed", "b")


# publish_changes().


@pytest.mark.parametrize(
    "choose",
    [
        lambda rows: rows.order_by("-name")[:1],
        lambda rows: rows.filter(name="b").union(rows.filter(name="b"), all=True),
        lambda rows: rows.filter(name="b").values("name"),
        lambda rows: rows.filter(name="b").order_by("name").distinct(),
    ],
)
async def test_any_queryset_can_be_told(
    shapes: SimpleNamespace, choose: Callable[[Any], Any]
) -> None:
    for name in ("a", "b"):
        await shapes.Vessel.objects.acreate(name=name)
    async with connect(view(shapes.Vessel.objects.all(), "id", "name")) as stream:
        copy = await copy_of(stream)
        await in_thread(publish_changes)(choose(shapes.Vessel.objects.all()))
        assert await event(copy) == ("changed", "b")
        await stream.receive_nothing(0.1)


@pytest.mark.parametrize("rows", [[1], [{"id": 1}], "ab"])
def test_keys_are_not_told(rows: Any) -> None:
    with pytest.raises(TypeError, match="takes a QuerySet, or objects of models, got"):
        publish_changes(rows)


def test_membership_is_told_by_the_keys_of_its_ends(
    transactional_db: None, broker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[Any] = []
    monkeypatch.setattr(changes, "publish", lambda topics, text, **_: found.append((topics, text)))
    view(User.objects.all(), "id", depends_on={Group: "user_set"})
    user, group = User.objects.create(username="a"), Group.objects.create(name="g")
    group.user_set.add(user)
    found.clear()
    user.groups.clear()
    assert found == [
        (["model:auth.group"], f'{{"pk":[{group.pk}]}}'),
        (["model:auth.user"], f'{{"pk":[{user.pk}]}}'),
    ]
