"""A bound serializer's short way gives what DRF's own gives, to the byte and to the exception."""

from __future__ import annotations

import datetime
import decimal
import functools
import uuid
from types import SimpleNamespace
from typing import Any

import pytest
from django.contrib.auth.models import Group, User
from django.core.exceptions import ObjectDoesNotExist
from django.utils.safestring import mark_safe
from rest_framework import serializers
from rest_framework.renderers import JSONRenderer

from django_sse.wire.representation import representation
from django_sse.wire.serialization import ObjectWriter


class Text(str):
    def __str__(self) -> str:
        return "its own words"


class Shouting(serializers.CharField):
    def to_representation(self, value: Any) -> str:
        return f"{value}!"


class Elsewhere(serializers.IntegerField):
    def get_attribute(self, instance: Any) -> Any:
        return 42


class Line(serializers.Serializer[Any]):
    sku = serializers.CharField()


class Everything(serializers.Serializer[Any]):
    text = serializers.CharField()
    number = serializers.IntegerField()
    ratio = serializers.FloatField()
    flag = serializers.BooleanField(allow_null=True)
    total = serializers.DecimalField(max_digits=9, decimal_places=2)
    when = serializers.DateTimeField()
    ref = serializers.UUIDField()
    choice = serializers.ChoiceField(choices=["a", "b"])
    tags = serializers.ListField(child=serializers.CharField())
    line = Line()
    lines = Line(many=True)
    dotted = serializers.CharField(source="line.sku")
    method = serializers.SerializerMethodField()
    whole = serializers.CharField(source="*")
    shouted = Shouting(source="text")
    elsewhere = Elsewhere()
    secret = serializers.CharField(write_only=True)
    absent = serializers.CharField(default="a default")
    optional = serializers.CharField(required=False)
    nullable = serializers.IntegerField(allow_null=True)

    def get_method(self, obj: Any) -> str:
        return f"by {type(self).__name__}"


def whole(**changes: Any) -> SimpleNamespace:
    line = SimpleNamespace(sku="A-1")
    given = {
        "text": "beans",
        "number": 3,
        "ratio": 1e22,
        "flag": True,
        "total": decimal.Decimal("1.50"),
        "when": datetime.datetime(2026, 1, 1, 12, 0, 0, 1, datetime.UTC),
        "ref": uuid.UUID(int=7),
        "choice": "a",
        "tags": ["x", "y"],
        "line": line,
        "lines": [line, line],
    }
    return SimpleNamespace(**given | changes)


def absent(name: str) -> SimpleNamespace:
    obj = whole()
    delattr(obj, name)
    return obj


class Failing(SimpleNamespace):
    @property
    def text(self) -> str:
        raise AttributeError("inside of a property")


class Gone(SimpleNamespace):
    @property
    def line(self) -> str:
        raise ObjectDoesNotExist


def needs(argument: Any) -> None:
    """Not a method that takes nothing."""


OBJECTS: list[Any] = [
    whole(),
    whole(text=None, number=None, flag=None, line=None, tags=None, when=None),
    whole(text=Text("x"), number=True, ratio=2, flag="yes", total="7"),
    whole(text=mark_safe("<b>"), number="12", ratio="1.5", flag=0),
    whole(text=lambda: "called", number=lambda: None, choice=lambda: "b"),
    whole(text=functools.partial(str, 5), nullable=3, optional="there", absent="there"),
    whole(text=needs),
    whole(text="".join),
    whole(number="no number"),
    whole(text=7),
    whole(line=lambda: SimpleNamespace(sku="B-2")),
    whole(choice="unknown", ref="not-a-uuid"),
    vars(whole()),
    {"text": "only"},
    absent("text"),
    absent("line"),
    absent("number"),
    Failing(**{k: v for k, v in vars(whole()).items() if k != "text"}),
    Gone(**{k: v for k, v in vars(whole()).items() if k != "line"}),
]


def outcome(represent: Any, obj: Any) -> Any:
    try:
        found = represent(obj)
        return found, [type(value) for value in found.values()], JSONRenderer().render(found)
    except Exception as error:
        return type(error), str(error).replace(" object at 0x", "")[:80]


@pytest.mark.parametrize("number", range(len(OBJECTS)))
def test_every_object_is_represented_as_by_drf(number: int) -> None:
    obj = OBJECTS[number]
    assert outcome(representation(Everything()), obj) == outcome(
        Everything().to_representation, obj
    )


@pytest.mark.django_db
def test_models_and_their_relations_are_represented_as_by_drf() -> None:
    class UserSerializer(serializers.ModelSerializer[User]):
        full = serializers.CharField(source="get_full_name")

        class Meta:
            model = User
            fields = "__all__"

    user = User.objects.create_user("ann", "ann@example.com", first_name="Ann", last_name="Lee")
    user.groups.add(Group.objects.create(name="staff"))
    expected = JSONRenderer().render(UserSerializer(user).data).decode()
    writer = ObjectWriter(
        overrides={User: UserSerializer}, renderer=JSONRenderer(), context=dict, owner=None
    )
    assert [writer.write(user) for _ in range(2)] == [expected] * 2


def test_a_serializer_with_its_own_way_keeps_it() -> None:
    class Own(Line):
        def to_representation(self, instance: Any) -> Any:
            return {**super().to_representation(instance), "own": True}

    patched = Line()
    patched.to_representation = lambda instance: {"patched": True}  # type: ignore[method-assign]
    line = SimpleNamespace(sku="A-1")
    assert representation(Own())(line) == {"sku": "A-1", "own": True}
    assert representation(patched)(line) == {"patched": True}
    assert representation(Line(many=True))([line]) == [{"sku": "A-1"}]
