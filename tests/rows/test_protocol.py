"""What documents and typed clients say of the events of rows is what streams send."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import override_settings
from jsonschema import Draft202012Validator
from rest_framework import serializers

from django_sse import ModelSSEView, sse_path
from django_sse.contracts.asyncapi import asyncapi_document
from django_sse.contracts.streams import document
from django_sse.contracts.typescript import typescript
from django_sse.testing import connect
from testproject.shop.models import Order

from .conftest import Copy, in_thread


class TextKey(serializers.ModelSerializer[Order]):
    """Clients know an order by a text, under another name."""

    number = serializers.CharField(source="pk")

    class Meta:
        model = Order
        fields = ["number", "quantity"]


class PlainSerializer(serializers.ModelSerializer[Order]):
    class Meta:
        model = Order
        fields = ["id", "quantity"]


class Free(serializers.BaseSerializer[Order]):
    def to_representation(self, instance: Any) -> Any:
        return {"id": instance.pk}


class NoKeySerializer(serializers.ModelSerializer[Order]):
    class Meta:
        model = Order
        fields = ["quantity"]


class UserSerializer(serializers.ModelSerializer[User]):
    class Meta:
        model = User
        fields = ["id", "username"]


class Plain(ModelSSEView):
    heartbeat = None
    queryset = Order.objects.all()
    serializer_class = PlainSerializer


class ByText(Plain):
    serializer_class = TextKey


class Users(Plain):
    queryset = User.objects.all()
    serializer_class = UserSerializer


class Chosen(Plain):
    """The model is that of the serializer."""

    queryset = None

    def get_queryset(self) -> Any:
        return Order.objects.all()


class Own(Plain):
    events = {"deleted": dict}


class Freely(Plain):
    serializer_class = Free


class Keyless(Plain):
    serializer_class = NoKeySerializer


urlpatterns = [
    sse_path("plain/", Plain),
    sse_path("text/", ByText),
    sse_path("given/", Plain.as_view(serializer_class=TextKey)),
    sse_path("chosen/", Chosen),
    sse_path("users/", Users),
    sse_path("names/", Users.as_view(lookup_field="username")),
    sse_path("own/", Own.as_view(lookup_field="id")),
    sse_path("free/", Freely),
    sse_path("keyless/", Keyless),
]
KEYS: dict[str, dict[str, str]] = {
    "plain": {"id": "integer"},
    "text": {"number": "string"},
    "given": {"number": "string"},
    "chosen": {"id": "integer"},
    "users": {"id": "integer"},
    "names": {"username": "string"},
}


@override_settings(ROOT_URLCONF=__name__)
def test_documents_name_the_type_of_the_key() -> None:
    described = document()
    schemas = {
        stream["path"].strip("/"): next(
            it["schema"] for it in stream["events"] if it["event"] == "deleted"
        )
        for stream in described["streams"]
    }
    found = {}
    for path, schema in schemas.items():
        if "$ref" in schema:
            schema = described["schemas"][schema["$ref"].rpartition("/")[2]]  # noqa: PLW2901
        found[path] = {name: it["type"] for name, it in schema.get("properties", {}).items()}
        assert schema.get("required", []) == list(found[path])
    assert found == {**KEYS, "own": {}, "free": {}, "keyless": {}}
    # Views with the same rows share the schema.
    assert schemas["plain"] == schemas["chosen"] == {"$ref": "#/schemas/PlainKey"}

    client = typescript()
    assert "export interface UserUsernameKey {\n  " in client
    assert "deleted: TextKeyKey;" in client
    messages = asyncapi_document(title="Shop", version="1")["components"]["schemas"]
    assert messages["PlainKey"]["properties"] == {"id": {"type": "integer"}}


@pytest.mark.parametrize("path", ["plain", "text", "given", "chosen"])
async def test_deleted_is_what_documents_say(
    path: str, order: Callable[..., Order], settings: Any
) -> None:
    from django_sse.asgi import get_asgi_application  # noqa: PLC0415

    settings.ROOT_URLCONF = __name__
    described = document()
    [schema] = [
        it["schema"]
        for stream in described["streams"]
        for it in stream["events"]
        if stream["path"] == f"/{path}/" and it["event"] == "deleted"
    ]
    row = await in_thread(order)()
    pk = row.pk
    async with connect(get_asgi_application(), f"/{path}/") as stream:
        copy = Copy(stream)
        await copy.until("end")
        await row.adelete()
        event, data = await copy.event()
    assert event == "deleted"
    validator = Draft202012Validator({**schema, "schemas": described["schemas"]})
    assert list(validator.iter_errors(data)) == []
    assert list(validator.iter_errors({"item": pk})) != []
