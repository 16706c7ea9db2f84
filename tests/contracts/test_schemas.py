"""JSON Schemas of serializers: what they make is valid by them."""

from __future__ import annotations

import datetime
import decimal
import json
import uuid
from typing import Any, NotRequired, TypedDict

import pytest
from django.contrib.auth.models import Group, Permission, User
from jsonschema import Draft202012Validator
from rest_framework import serializers
from rest_framework.renderers import JSONRenderer

from django_sse.contracts.schemas import Schemas


class GroupSerializer(serializers.ModelSerializer[Group]):
    class Meta:
        model = Group
        fields = ["id", "name"]


class EverythingSerializer(serializers.Serializer[Any]):
    flag = serializers.BooleanField(help_text="Whether.")
    count = serializers.IntegerField()
    share = serializers.FloatField(allow_null=True)
    total = serializers.DecimalField(max_digits=8, decimal_places=2)
    exact = serializers.DecimalField(max_digits=8, decimal_places=2, coerce_to_string=False)
    name = serializers.CharField(allow_null=True)
    mail = serializers.EmailField()
    key = serializers.UUIDField()
    at = serializers.DateTimeField()
    day = serializers.DateField()
    color = serializers.ChoiceField(choices=["red", "green"], allow_null=True)
    colors = serializers.MultipleChoiceField(choices=["red", "green"])
    tags = serializers.ListField(child=serializers.CharField())
    counts = serializers.DictField(child=serializers.IntegerField())
    anything = serializers.JSONField(allow_null=True)
    group = GroupSerializer(allow_null=True)
    groups = GroupSerializer(many=True)
    double = serializers.SerializerMethodField()
    unknown = serializers.SerializerMethodField()
    secret = serializers.CharField(write_only=True)

    def get_double(self, obj: Any) -> int:
        return 2

    def get_unknown(self, obj: Any):  # type: ignore[no-untyped-def]
        return {"a": 1}


VALUES: dict[str, Any] = {
    "flag": True,
    "count": 1,
    "share": None,
    "total": decimal.Decimal("1.50"),
    "exact": decimal.Decimal("1.50"),
    "name": None,
    "mail": "a@example.com",
    "key": uuid.UUID(int=7),
    "at": datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
    "day": datetime.date(2026, 1, 1),
    "color": "red",
    "colors": {"red"},
    "tags": ["a"],
    "counts": {"a": 1},
    "anything": [1],
    "group": Group(id=1, name="g"),
    "groups": [Group(id=1, name="g")],
}


def test_what_a_serializer_makes_is_valid() -> None:
    schemas = Schemas()
    schema = schemas.of(EverythingSerializer, {})
    assert schema == {"$ref": "#/schemas/Everything"}
    document = {**schema, "schemas": schemas.named}
    Draft202012Validator.check_schema(document)
    validator = Draft202012Validator(document)
    made = json.loads(JSONRenderer().render(EverythingSerializer(VALUES).data))
    validator.validate(made)
    # Each field is described: a value of a wrong type is found.
    free = {"anything", "unknown"}
    for name in set(made) - free:
        wrong = made | {name: {"wrong": []} if name != "counts" else 7}
        assert not validator.is_valid(wrong), name
        assert not validator.is_valid({it: made[it] for it in made if it != name}), name
    everything = schemas.named["Everything"]
    assert "secret" not in everything["properties"]
    assert everything["properties"]["flag"]["description"] == "Whether."
    assert set(schemas.named) == {"Everything", "Group"}


class UserSerializer(serializers.ModelSerializer[User]):
    class Meta:
        model = User
        fields = ["id", "username", "last_login", "groups", "is_staff"]


class PermissionSerializer(serializers.ModelSerializer[Permission]):
    class Meta:
        model = Permission
        fields = ["content_type", "name"]
        read_only_fields = ["content_type"]


def test_models_are_described_with_the_keys_of_their_relations() -> None:
    schemas = Schemas()
    schemas.of(UserSerializer, {})
    properties = schemas.named["User"]["properties"]
    assert properties["id"] == {"type": "integer"}
    assert properties["last_login"] == {"type": ["string", "null"], "format": "date-time"}
    assert properties["groups"]["items"]["type"] == "integer"
    schemas.of(PermissionSerializer, {})
    assert schemas.named["Permission"]["properties"]["content_type"] == {"type": "integer"}


class Price(TypedDict):
    price: int
    note: NotRequired[str]


class Odd(serializers.BaseSerializer[Any]):
    def to_representation(self, instance: Any) -> Any:
        return 7


@pytest.mark.parametrize(
    ("declared", "schema"),
    [
        (str, {"type": "string"}),
        (None, {"type": "null"}),
        (dict, {"type": "object"}),
        (list[int], {"type": "array", "items": {"type": "integer"}}),
        (int | None, {"anyOf": [{"type": "integer"}, {"type": "null"}]}),
        (
            Price,
            {
                "type": "object",
                "properties": {"price": {"type": "integer"}, "note": {"type": "string"}},
                "required": ["price"],
            },
        ),
        (Group, {"$ref": "#/schemas/Group"}),
        (type("Text", (str,), {}), {"type": "string"}),
        (object, {}),
        (Odd, {"$ref": "#/schemas/Odd"}),
    ],
)
def test_declared_types_are_described(declared: Any, schema: Any) -> None:
    assert Schemas().of(declared, {Group: GroupSerializer}) == schema


def test_two_serializers_of_one_name_are_apart() -> None:
    other = type("GroupSerializer", (serializers.Serializer,), {})
    schemas = Schemas()
    assert schemas.of(GroupSerializer, {}) == {"$ref": "#/schemas/Group"}
    assert schemas.of(other, {}) == {"$ref": "#/schemas/Group2"}
    assert schemas.of(GroupSerializer, {}) == {"$ref": "#/schemas/Group"}
