"""Objects that stand for others, and models whose class is not the one that was registered."""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import wrapt
from asgiref.sync import sync_to_async
from django.contrib.auth.models import User
from django.core.exceptions import SynchronousOnlyOperation
from django.utils.functional import LazyObject, SimpleLazyObject
from django.utils.translation import gettext_lazy
from rest_framework import serializers

from django_sse import ServerSentEvent, SSEView, apublish, publish, serializes
from django_sse.testing import capture_published, connect
from django_sse.wire.serialization import look_through
from testproject.shop.models import Product


class Point:
    def __init__(self, x: int) -> None:
        self.x = x


class PointSerializer(serializers.Serializer[Point]):
    x = serializers.IntegerField()


class UserSerializer(serializers.ModelSerializer[User]):
    class Meta:
        model = User
        fields = ["username"]


class ProductSerializer(serializers.ModelSerializer[Product]):
    class Meta:
        model = Product
        fields = ["name"]


class LazyPoint(LazyObject):
    def _setup(self) -> None:
        self._wrapped = Point(1)


@pytest.fixture(autouse=True)
def registered(registry: Any) -> None:
    serializes(Point)(PointSerializer)
    serializes(User)(UserSerializer)
    serializes(Product)(ProductSerializer)


POINT = Point(1)


class Sending(SSEView):
    heartbeat = None
    make: Callable[[], Any] = staticmethod(lambda: None)

    async def stream(self) -> None:
        await self.send(self.make())
        await self.send({"nested": [self.make()]})
        await self.send(ServerSentEvent(self.make(), event="whole"))


@pytest.mark.parametrize(
    "make",
    [
        lambda: SimpleLazyObject(lambda: POINT),
        lambda: SimpleLazyObject(lambda: SimpleLazyObject(lambda: POINT)),
        LazyPoint,
        lambda: weakref.proxy(POINT),
        lambda: wrapt.ObjectProxy(POINT),
        lambda: wrapt.ObjectProxy(SimpleLazyObject(lambda: POINT)),
    ],
    ids=["lazy", "lazy-twice", "own-lazy", "weak", "wrapt", "mixed"],
)
async def test_proxy_is_the_object_that_it_stands_for(make: Callable[[], Any]) -> None:
    async with connect(Sending.as_view(make=staticmethod(make))) as stream:
        events = [await stream.receive() for _ in range(3)]
    assert [event.data for event in events] == ['{"x":1}', '{"nested":[{"x":1}]}', '{"x":1}']
    with capture_published() as published:
        await apublish("points", make())
        await sync_to_async(publish)("points", {"by": make()})
        await apublish("points", make(), serializer=PointSerializer)
    assert [it.event.data for it in published] == ['{"x":1}', '{"by":{"x":1}}', '{"x":1}']


async def test_lazy_text_is_text() -> None:
    async with connect(
        Sending.as_view(make=staticmethod(lambda: SimpleLazyObject(lambda: "plain")))
    ) as stream:
        assert (await stream.receive()).data == "plain"
    with capture_published() as published:
        await apublish(gettext_lazy("orders"), "text", key=SimpleLazyObject(lambda: "k"))
        await apublish([gettext_lazy("a"), SimpleLazyObject(lambda: "b")], "text")
    assert [it.topics for it in published] == [("orders",), ("a", "b")]
    assert all(type(topic) is str for it in published for topic in it.topics)
    assert type(published[0].key) is str


def test_object_that_claims_no_class_is_itself() -> None:
    class Odd:
        __class__ = "not a class"  # type: ignore[assignment]

    class Liar:
        """Says that it is a point, and has another object within."""

        __class__ = Point
        __wrapped__ = "text"

    odd, liar = Odd(), Liar()
    assert look_through(odd) == (odd, Odd)
    assert look_through(liar) == (liar, Point)
    endless: Any = POINT
    for _ in range(20):
        endless = wrapt.ObjectProxy(endless)
    assert look_through(endless)[1] is Point


@pytest.fixture
def ada(transactional_db: None) -> User:
    return User.objects.create_user("ada")


async def test_lazy_object_that_queries_says_what_to_do(ada: User) -> None:
    def make() -> Any:
        return SimpleLazyObject(lambda: User.objects.get(username="ada"))

    async with connect(Sending.as_view(make=staticmethod(make))) as stream:
        await stream.receive_block()
        with pytest.raises(AssertionError):
            await stream.receive()
        assert isinstance(stream.failure, SynchronousOnlyOperation)
        assert "Sending.serialize_in_thread = True" in stream.failure.__notes__[0]
    view = Sending.as_view(make=staticmethod(make), serialize_in_thread=True)
    async with connect(view) as stream:
        assert (await stream.receive()).data == '{"username":"ada"}'
        assert (await stream.receive()).data == '{"nested":[{"username":"ada"}]}'
    with pytest.raises(SynchronousOnlyOperation) as caught:
        await apublish("users", make())
    assert "`await request.auser()`" in caught.value.__notes__[0]


def test_models_of_other_classes_are_found_by_their_parent(ada: User) -> None:
    class Named(Product):
        class Meta:
            app_label = "shop"
            proxy = True

    Product.objects.create(name="Keyboard", prices=[1])
    rows = [
        Product.objects.only("name").get(),
        Named.objects.get(),
        Named.objects.defer("prices").get(),
    ]
    with capture_published() as published:
        publish("products", rows)
        publish("users", [User.objects.only("username").get(), SimpleLazyObject(lambda: ada)])
    assert json.loads(published[0].event.data or "") == [{"name": "Keyboard"}] * 3
    assert json.loads(published[1].event.data or "") == [{"username": "ada"}] * 2
