"""From objects to text, by type."""

from __future__ import annotations

import datetime
import decimal
import enum
import json
import logging
import threading
import uuid
from collections import OrderedDict, namedtuple
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.core.exceptions import ImproperlyConfigured, SynchronousOnlyOperation
from django.test import override_settings
from django.utils import translation
from django.utils.functional import SimpleLazyObject
from django.utils.translation import gettext_lazy
from rest_framework import serializers
from rest_framework.renderers import BaseRenderer, JSONRenderer

from django_sse import SerializerNotFound, ServerSentEvent, SSEView, serializes
from django_sse.testing import connect
from django_sse.wire.serialization import ObjectWriter, SerializerClass, find_serializer
from testproject.shop.models import Customer, Order, Product

UTC = datetime.UTC
BERLIN = datetime.timezone(datetime.timedelta(hours=2))
Pair = namedtuple("Pair", "a b")


@dataclass
class Point:
    x: int
    y: int


class Point3(Point):
    pass


class PointSerializer(serializers.Serializer[Point]):
    x = serializers.IntegerField()
    y = serializers.IntegerField()


class CompactPointSerializer(serializers.BaseSerializer[Point]):
    def to_representation(self, instance: Point) -> Any:
        return [instance.x, instance.y]


class Level(enum.IntEnum):
    HIGH = 3


@pytest.fixture(autouse=True)
def points(registry: dict[type, SerializerClass]) -> None:
    serializes(Point)(PointSerializer)


def write(
    obj: Any,
    overrides: Mapping[type, SerializerClass] | None = None,
    renderer: BaseRenderer | None = None,
    owner: type | None = None,
) -> str:
    writer = ObjectWriter(
        overrides=overrides or {}, renderer=renderer or JSONRenderer(), context=dict, owner=owner
    )
    return writer.write(obj)


class Sending(SSEView):
    """Sends what its subclass or ``as_view()`` says."""

    objects: list[Any] = []

    async def stream(self) -> None:
        for obj in self.objects:
            await self.send(obj)


async def sent(view: Any, *objects: Any, fails: type[Exception] | None = None) -> list[str]:
    async with connect(view.as_view(objects=list(objects))) as stream:
        await stream.read()
        if fails is not None:
            assert isinstance(stream.failure, fails)
    return [event.data for event in stream.blocks if event.data is not None]


# By type.


@pytest.mark.parametrize(
    ("obj", "text"),
    [
        # Text is raw.
        ("plain", "plain"),
        ('{"a": 1}', '{"a": 1}'),
        ("", ""),
        # Registered types, at any depth.
        (Point(1, 2), '{"x":1,"y":2}'),
        (Point3(1, 2), '{"x":1,"y":2}'),
        ([Point(1, 2), Point3(3, 4)], '[{"x":1,"y":2},{"x":3,"y":4}]'),
        ((Point(1, 2),), '[{"x":1,"y":2}]'),
        ({"at": [Point(1, 2)]}, '{"at":[{"x":1,"y":2}]}'),
        ({"a": {"b": ({"c": Point(1, 2)},)}}, '{"a":{"b":[{"c":{"x":1,"y":2}}]}}'),
        ([], "[]"),
        ({}, "{}"),
        # What JSON knows.
        (5, "5"),
        (1.5, "1.5"),
        (True, "true"),
        ([None, "a", 'b"', "é"], '[null,"a","b\\"","é"]'),
        ({1: "a", None: 2}, '{"1":"a","null":2}'),
        (OrderedDict(b=1, a=2), '{"b":1,"a":2}'),
        (Pair(1, Point(2, 3)), '[1,{"x":2,"y":3}]'),
        ({7}, "[7]"),
        (frozenset([7]), "[7]"),
        (Level.HIGH, "3"),
        ([Level.HIGH, Order.Status.PAID], '[3,"paid"]'),
        (Order.Status.PAID, "paid"),
        ("\u2028", "\u2028"),
        (["\u2028\u2029"], '["\\u2028\\u2029"]'),
    ],
)
def test_object_is_written_by_its_type(obj: Any, text: str) -> None:
    assert write(obj) == text


@pytest.mark.parametrize(
    "value",
    [
        decimal.Decimal("1.10"),
        datetime.datetime(2024, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
        datetime.datetime(2024, 1, 2, 3, 4, 5, tzinfo=BERLIN),
        datetime.datetime(2024, 1, 2, 3, 4, 5),  # noqa: DTZ001
        datetime.date(2024, 1, 2),
        datetime.time(3, 4, 5, 678901),
        datetime.timedelta(days=1, seconds=2),
        uuid.UUID(int=7),
        b"bytes",
        gettext_lazy("Yes"),
        float("1e300"),
        "text",
        None,
    ],
    ids=lambda value: type(value).__name__,
)
def test_scalars_are_written_as_drf_does(value: Any) -> None:
    expected = JSONRenderer().render({"a": [value]}).decode()
    assert write({"a": [value]}) == expected
    if value is not None and not isinstance(value, str):
        assert write(value) == JSONRenderer().render(value).decode()


def test_lazy_text_is_written_in_the_active_language() -> None:
    with translation.override("de"):
        assert write([gettext_lazy("Yes")]) == '["Ja"]'


@pytest.mark.parametrize(
    "value", [datetime.time(1, tzinfo=UTC), float("nan"), float("inf")], ids=repr
)
def test_what_drf_refuses_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=r".") as expected:
        JSONRenderer().render([value])
    with pytest.raises(ValueError, match=r".") as caught:
        write([value])
    assert str(caught.value) == str(expected.value)


class Iterable:
    def __iter__(self) -> Iterator[int]:
        return iter([1, 2])


class Array:
    def tolist(self) -> list[int]:
        return [1, 2]


class Leaky:
    def __init__(self) -> None:
        self.password = "secret"

    def __getitem__(self, key: str) -> str:
        return self.password


@dataclass
class Unregistered:
    password: str = "secret"


@pytest.mark.parametrize(
    "obj",
    [Iterable(), Array(), Leaky(), Unregistered(), object(), iter([1]), {1: 2}.items(), Point, 1j],
    ids=lambda obj: type(obj).__name__,
)
@pytest.mark.parametrize("wrap", [lambda o: o, lambda o: [o], lambda o: {"a": ({"b": o},)}])
def test_objects_are_never_guessed_at(obj: Any, wrap: Any) -> None:
    with pytest.raises(SerializerNotFound) as caught:
        write(wrap(obj), owner=Sending)
    assert caught.value.type is type(obj)
    assert caught.value.view is Sending
    assert isinstance(caught.value, LookupError)
    name = type(obj).__qualname__
    text = str(caught.value)
    assert text.startswith(f"Sending has no serializer for {type(obj).__module__}.{name}. ")
    assert f"@serializes({name}) in an app's serializers.py" in text
    assert "or name it in Sending.serializer_classes." in text


def test_lazy_object_is_not_guessed_at() -> None:
    with pytest.raises(SerializerNotFound, match=r"\.Leaky\. Register"):
        write([SimpleLazyObject(Leaky)])


def test_publisher_is_told_its_own_remedy() -> None:
    with pytest.raises(SerializerNotFound, match=r"publish\(\) has .* pass serializer=…") as caught:
        write(Leaky())
    assert caught.value.view is None


# Which serializer.


def test_nearest_class_wins_and_the_view_before_the_registry(
    registry: dict[type, SerializerClass],
) -> None:
    class Other(PointSerializer):
        pass

    assert find_serializer(Point3, {}) is PointSerializer
    assert find_serializer(Point3, {Point: Other}) is Other
    # An override of a base class does not go before the type's own serializer.
    serializes(Point3)(CompactPointSerializer)
    assert find_serializer(Point3, {Point: Other}) is CompactPointSerializer
    assert find_serializer(Point, {Point: Other}) is Other
    assert find_serializer(int, {Point: Other}) is None
    # The last registration wins.
    serializes(Point, Customer)(Other)
    assert registry[Point] is registry[Customer] is Other


def test_scalar_and_container_may_be_registered() -> None:
    class MoneySerializer(serializers.BaseSerializer[decimal.Decimal]):
        def to_representation(self, instance: decimal.Decimal) -> str:
            return f"{instance} €"

    class PairSerializer(serializers.BaseSerializer[Any]):
        def to_representation(self, instance: Any) -> str:
            return f"{instance.a}/{instance.b}"

    overrides = {decimal.Decimal: MoneySerializer, Pair: PairSerializer}
    price = decimal.Decimal("1.10")
    assert write(price, overrides) == '"1.10 €"'
    assert write([price, Pair(1, 2)], overrides) == '["1.10 €","1/2"]'
    serializes(decimal.Decimal)(MoneySerializer)
    assert write({"price": price}) == '{"price":"1.10 €"}'


@pytest.mark.parametrize(
    ("types", "serializer", "message"),
    [
        ((), PointSerializer, r"needs a type, as in @serializes\(Customer\)"),
        ((Point(1, 2),), PointSerializer, "takes classes, got Point"),
        (("shop.Customer",), PointSerializer, "takes classes, got 'shop.Customer'"),
        ((Point,), Point, r"@serializes\(\) must name subclasses of .*BaseSerializer, got <class"),
        ((Point,), PointSerializer(), "BaseSerializer, got PointSerializer"),
    ],
)
def test_wrong_registration_is_refused(types: Any, serializer: Any, message: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=message):
        serializes(*types)(serializer)


def test_wrong_serializer_classes_are_refused_when_the_class_is_made() -> None:
    with pytest.raises(ImproperlyConfigured, match=r"Wrong\.serializer_classes must name .* got 5"):
        type("Wrong", (SSEView,), {"serializer_classes": {Point: 5}})


async def test_view_overrides_the_registry() -> None:
    class Compact(Sending):
        serializer_classes = {Point: CompactPointSerializer}

    assert await sent(Sending, Point(1, 2)) == ['{"x":1,"y":2}']
    assert await sent(Compact, Point(1, 2), [Point3(3, 4)]) == ["[1,2]", "[[3,4]]"]


async def test_serializer_is_bound_once_with_the_context_of_its_view() -> None:
    made: list[Any] = []

    class Contextual(serializers.BaseSerializer[Point]):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            made.append(self.context)

        def to_representation(self, instance: Point) -> Any:
            request, view = self.context["request"], self.context["view"]
            return [request.query_params["q"], view.kwargs["shop"], self.context["extra"]]

    class Own(Sending):
        serializer_classes = {Point: Contextual}

        def get_serializer_context(self) -> dict[str, Any]:
            return super().get_serializer_context() | {"extra": 1}

    view = Own.as_view(objects=[Point(1, 2), Point(3, 4), [Point(5, 6)]])
    async with connect(view, "/?q=x", kwargs={"shop": 7}) as stream:
        assert (await stream.receive()).data == '["x",7,1]'
        assert [(await stream.receive()).data for _ in range(2)] == ['["x",7,1]', '[["x",7,1]]']
    assert len(made) == 1


# Renderers.


class Indented(JSONRenderer):
    media_type = "application/json; indent=2"


class Spaced(JSONRenderer):
    compact = False
    ensure_ascii = True


class Lenient(JSONRenderer):
    strict = False


class Shouting(JSONRenderer):
    def render(self, *args: Any, **kwargs: Any) -> bytes:
        return super().render(*args, **kwargs).upper()


class Lines(BaseRenderer):
    media_type = "text/x-lines"

    def render(self, data: Any, *args: Any, **kwargs: Any) -> str:
        return "\n".join(f"{key}={value}" for key, value in data.items())


@pytest.mark.parametrize("renderer", [JSONRenderer, Indented, Spaced, Lenient, Shouting, Lines])
def test_text_is_the_renderers(renderer: type[BaseRenderer]) -> None:
    data = {"a": 1, "é": "\u2028", "c": Level.HIGH}
    if renderer is Lenient:
        data["d"] = float("inf")
    expected = renderer().render(data, renderer.media_type, {})
    expected = expected if isinstance(expected, str) else expected.decode()
    assert write(data, renderer=renderer()) == expected
    assert expected != JSONRenderer().render({})


async def test_view_has_its_own_renderer() -> None:
    class Own(Sending):
        renderer_class = Lines

    class Chosen(Sending):
        def get_renderer(self) -> BaseRenderer:
            return Lines() if self.request.query_params else Shouting()

    assert await sent(Own, Point(1, 2), "raw") == ["x=1\ny=2", "raw"]
    assert await sent(Chosen, Point(1, 2)) == ['{"X":1,"Y":2}']


async def test_serialize_is_the_overridable_whole() -> None:
    class Own(Sending):
        def serialize(self, obj: Any) -> str:
            return f"<{super().serialize(obj)}>"

    assert await sent(Own, Point(1, 2), [], "raw") == ['<{"x":1,"y":2}>', "<[]>", "raw"]


# In a stream.


async def test_missing_serializer_ends_the_stream_cleanly(caplog: pytest.LogCaptureFixture) -> None:
    reasons = []

    class Ending(Sending):
        async def disconnect(self) -> None:
            reasons.append(self.close_reason)

    objects = Point(1, 2), [Leaky()], Point(3, 4)
    assert await sent(Ending, *objects, fails=SerializerNotFound) == ['{"x":1,"y":2}']
    assert reasons == ["error"]
    [record] = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], SerializerNotFound)
    assert "Ending.stream() failed" in record.getMessage()
    assert "secret" not in caplog.text


async def test_missing_serializer_may_be_caught() -> None:
    class Catching(SSEView):
        async def stream(self) -> None:
            for obj in (Leaky(), float("nan"), "\ud800", [b"\xff"]):
                with pytest.raises((SerializerNotFound, ValueError)):
                    await self.send(obj, event="never", id="never")
            await self.send(Point(1, 2))

    async with connect(Catching) as stream:
        body = await stream.read()
    assert body == b':\n\ndata: {"x":1,"y":2}\n\n'


async def test_dict_of_the_caller_is_not_mutated() -> None:
    at = Point(1, 2)
    given = {"at": at, "list": [at], "nested": {"at": at}}
    assert json.loads((await sent(Sending, given))[0])["nested"] == {"at": {"x": 1, "y": 2}}
    assert given == {"at": at, "list": [at], "nested": {"at": at}}
    assert given["at"] is at


class CountingSerializer(serializers.ModelSerializer[Customer]):
    orders = serializers.SerializerMethodField()

    class Meta:
        model = Customer
        fields = ["first_name", "orders"]

    def get_orders(self, customer: Customer) -> int:
        threads.append(threading.current_thread())
        return customer.orders.count()


threads: list[threading.Thread] = []


@pytest.mark.django_db(transaction=True)
async def test_query_set_becomes_an_array() -> None:
    await Customer.objects.abulk_create(Customer(first_name=name) for name in "AB")
    customers = Customer.objects.order_by("pk")
    texts = await sent(
        Sending,
        customers,
        customers.none(),
        Customer.objects.filter(pk=-1),
        customers.values("first_name"),
        ServerSentEvent(customers.filter(first_name="B"), event="e"),
    )
    assert [[c["first_name"] for c in json.loads(text)] for text in texts] == [
        ["A", "B"],
        [],
        [],
        ["A", "B"],
        ["B"],
    ]
    assert texts[1:3] == ["[]", "[]"]


@pytest.mark.django_db(transaction=True)
async def test_serializer_may_query_the_database_in_a_thread(
    caplog: pytest.LogCaptureFixture,
) -> None:
    threads.clear()
    customer = await Customer.objects.acreate(first_name="Jet")
    product = await Product.objects.acreate(name="Keyboard", prices=[100])
    await Order.objects.acreate(customer=customer, product=product, total=1)

    class InLoop(Sending):
        serializer_classes = {Customer: CountingSerializer}

    class InThread(InLoop):
        serialize_in_thread = True

    objects = [customer, [customer], Customer.objects.all(), {"all": Customer.objects.all()}]
    one = '{"first_name":"Jet","orders":1}'
    assert await sent(InThread, *objects) == [one, f"[{one}]", f"[{one}]", f'{{"all":[{one}]}}']
    assert len(set(threads)) == 1
    assert threading.main_thread() not in threads
    # Without it, Django itself says what is wrong, and nothing is half-sent.
    assert await sent(InLoop, "first", customer, fails=SynchronousOnlyOperation) == ["first"]
    assert "Set test_serializer_may_query_the_database_in_a_thread" in caplog.text
    assert "InLoop.serialize_in_thread = True, or make a list of a QuerySet" in caplog.text


@pytest.mark.django_db(transaction=True)
async def test_models_are_written_as_drf_does() -> None:
    user = await get_user_model().objects.acreate(username="jet")

    class UserSerializer(serializers.ModelSerializer[Any]):
        class Meta:
            model = get_user_model()
            fields = ["id", "username", "date_joined"]

    class Users(Sending):
        serializer_classes = {get_user_model(): UserSerializer}

    with override_settings(TIME_ZONE="Europe/Berlin"):
        [text] = await sent(Users, user)
        assert text == JSONRenderer().render(UserSerializer(user).data).decode()


def test_app_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("django.apps.apps.is_installed", lambda name: False)
    writer = ObjectWriter(overrides={}, renderer=JSONRenderer(), context=dict, owner=None)
    with pytest.raises(
        SerializerNotFound, match='"django_sse" is in INSTALLED_APPS, and it is not'
    ):
        writer.write(Leaky())
