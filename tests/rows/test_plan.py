"""Plans: which querysets are the same, and how rows become text."""

from __future__ import annotations

import datetime
from typing import Any

import pytest
from django.contrib.auth.models import Group, User
from django.db.models import Prefetch, Q, Value
from rest_framework import serializers
from rest_framework.renderers import JSONRenderer

from django_sse.brokers.base import EventId
from django_sse.rows import plan as plans
from django_sse.rows.plan import Format, Plan, check_queryset, query_key
from testproject.shop.models import Order


class Uncomparable:
    """A parameter of a query that can neither be compared nor pickled."""

    def __reduce__(self) -> str:
        raise TypeError


class Pair:
    """A parameter that Python would take as equal to any other."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __eq__(self, other: object) -> bool:
        return True


def staff() -> Any:
    return User.objects.filter(is_staff=True)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (staff(), staff().order_by(), True),
        (staff(), User.objects.filter(is_staff=False), False),
        (User.objects.filter(pk=1), User.objects.filter(pk=1), True),
        (User.objects.none(), User.objects.none(), True),
        (User.objects.filter(pk__in=[1, 2]), User.objects.filter(pk__in=[1, 3]), False),
        (staff().prefetch_related("groups"), staff().prefetch_related("groups"), True),
        (staff().prefetch_related("groups"), staff(), False),
        (staff().prefetch_related(Prefetch("groups")), staff(), False),
        (
            staff().prefetch_related(Prefetch("groups", Group.objects.filter(name="a"))),
            staff().prefetch_related(Prefetch("groups", Group.objects.filter(name="b"))),
            False,
        ),
        (
            User.objects.filter(date_joined__gt=datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)),
            User.objects.filter(date_joined__gt=datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)),
            True,
        ),
    ],
)  # fmt: skip
def test_querysets_are_the_same_where_they_find_and_load_the_same(
    one: Any, other: Any, same: bool, transactional_db: None
) -> None:
    assert (query_key(one) == query_key(other)) is same


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (1, 1, True),
        (1, True, False),
        ([1, "a"], (1, "a"), True),
        (Pair(1), Pair(1), True),
        (Pair(1), Pair(2), False),
        (Uncomparable(), Uncomparable(), False),
    ],
)
def test_parameters_are_the_same_only_where_that_is_sure(one: Any, other: Any, same: bool) -> None:
    assert (plans._frozen(one) == plans._frozen(other)) is same


class Spaced(JSONRenderer):
    """A renderer with a way of its own."""

    def render(self, data: Any, *args: Any, **kwargs: Any) -> Any:
        return super().render(data, *args, **kwargs).replace(b":", b": ")


class Texts(Spaced):
    def render(self, data: Any, *args: Any, **kwargs: Any) -> Any:
        return super().render(data, *args, **kwargs).decode()


class UserSerializer(serializers.ModelSerializer[User]):
    class Meta:
        model = User
        fields = ["id", "username"]


def make(queryset: Any, renderer: Any = JSONRenderer) -> Plan:
    form = Format(UserSerializer, renderer, "id")
    return Plan(queryset, form, key=1, paths=(), owner=None, context=None, permits=None)


@pytest.mark.parametrize("renderer", [Spaced, Texts])
def test_renderer_of_a_project_makes_the_text(ada: User, renderer: Any) -> None:
    [row] = make(User.objects.all(), renderer).read({ada.pk: None}).values()
    assert row.text == f'{{"id": {ada.pk},"username": "ada"}}'


def test_text_is_shared_only_for_the_same_message_and_what_was_read(
    ada: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plans, "KEPT", 1)
    mark = EventId(1, 1)
    group = Group.objects.create(name="team")
    ada.groups.add(group)
    plan = make(User.objects.prefetch_related("groups"))
    [first] = plan.read({ada.pk: mark}).values()
    [again] = plan.read({ada.pk: mark}).values()
    assert again is first
    [later] = plan.read({ada.pk: EventId(1, 2)}).values()
    assert later is not first
    Group.objects.filter(pk=group.pk).update(name="new")
    [loaded] = plan.read({ada.pk: EventId(1, 2)}).values()
    assert loaded is not later


def test_many_rows_are_asked_for_in_several_queries(
    ada: User, bob: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plans, "KEYS", 1)
    assert len(make(User.objects.all()).read(dict.fromkeys([ada.pk, bob.pk, 0]))) == 2


def test_queryset_with_a_composite_key_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Order._meta, "pk_fields", [1, 2], raising=False)
    with pytest.raises(plans.ImproperlyConfigured, match="composite primary key"):
        check_queryset("Rows", Order.objects.filter(Q(pk=1)).annotate(one=Value(1)))


class Split:
    """A router that reads rows of users from a replica."""

    def db_for_write(self, model: Any, **hints: Any) -> str:
        return "primary"


def test_changes_are_expected_where_rows_are_written(settings: Any) -> None:
    settings.DATABASE_ROUTERS = [Split()]
    form = Format(UserSerializer, JSONRenderer, "id")
    options: Any = {"key": 1, "paths": (), "owner": None, "context": None, "permits": None}
    assert Plan(User.objects.all(), form, **options).written == {"primary"}
    chosen = Plan(User.objects.using("replica"), form, **options)
    # A database that was chosen may be another one that is written.
    assert chosen.written == {"primary", "replica"}
