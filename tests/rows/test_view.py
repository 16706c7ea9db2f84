"""What clients of a ``ModelSSEView`` get."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any
from unittest.mock import Mock

import pytest
from django.contrib.auth.models import Group, User
from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError, transaction
from django.urls import include, path, reverse
from django_filters import CharFilter, NumberFilter
from django_filters.rest_framework import DjangoFilterBackend, FilterSet
from rest_framework import serializers
from rest_framework.filters import SearchFilter
from rest_framework.permissions import BasePermission
from rest_framework.renderers import BaseRenderer
from rest_framework.routers import DefaultRouter

from django_sse import ModelSSEView, apublish, apublish_changes, publish_changes, sse_path
from django_sse.connection.threads import pool
from django_sse.exceptions import StreamClosed
from django_sse.rows import changes, paths
from django_sse.rows import group as groups
from django_sse.rows import plan as plans
from django_sse.rows import subscription as subscriptions
from django_sse.rows import view as views
from django_sse.testing import connect
from django_sse.topics.hub import get_hub
from testproject.shop.models import Customer, Order
from testproject.shop.serializers import OrderSerializer
from tests.support.waiting import eventually

from .conftest import Copy, in_thread


class Orders(ModelSSEView):
    """New orders are everybody's; those that are paid are the staff's."""

    heartbeat = None
    serializer_class = OrderSerializer
    queryset = Order.objects.select_related("customer", "product")
    depends_on = {Customer: "orders"}

    def get_queryset(self) -> Any:
        rows = super().get_queryset()
        return rows if self.user and self.user.is_staff else rows.filter(status="new")


async def test_list_is_sent_and_kept_up_to_date(order: Callable[..., Order]) -> None:
    first = await in_thread(order)()
    async with connect(Orders) as stream:
        copy = Copy(stream)
        await copy.until("end")
        assert [name for name, _ in copy.events] == ["begin", "created", "end"]
        assert copy.events[0] == ("begin", {"key": "id"})
        assert copy.rows[first.pk]["customer"] == "Ada Lovelace"
        second = await in_thread(order)(quantity=2)
        event, data = await copy.event()
        assert (event, data["id"], data["quantity"]) == ("created", second.pk, 2)
        first.quantity = 7
        await first.asave()
        event, data = await copy.event()
        assert (event, data["id"], data["quantity"]) == ("changed", first.pk, 7)
        pk = second.pk
        await second.adelete()
        assert await copy.event() == ("deleted", {"id": pk})


async def test_rows_leave_and_enter_what_a_user_may_see(
    order: Callable[..., Order], ada: User
) -> None:
    ada.is_staff = True
    row = await in_thread(order)()
    async with connect(Orders, user=ada) as staff, connect(Orders) as anyone:
        theirs, copy = Copy(staff), Copy(anyone)
        await theirs.until("end")
        await copy.until("end")
        row.status = "paid"
        await row.asave()
        assert await copy.event() == ("deleted", {"id": row.pk})
        assert (await theirs.event())[0] == "changed"
        hidden = await in_thread(order)(status="paid")
        assert (await theirs.event())[1]["id"] == hidden.pk
        await hidden.adelete()
        assert (await theirs.event())[0] == "deleted"
        row.status = "new"
        await row.asave()
        assert (await copy.event())[0] == "created"
        assert {data["id"] for _, data in copy.events if "id" in data} == {row.pk}


async def test_changes_wait_for_the_commit_and_are_dropped_with_it(
    order: Callable[..., Order],
) -> None:
    def change(fail: bool) -> None:
        try:
            with transaction.atomic():
                order()
                if fail:
                    raise RuntimeError
        except RuntimeError:
            pass

    async with connect(Orders) as stream:
        copy = Copy(stream)
        await copy.until("end")
        await in_thread(change)(True)
        await stream.receive_nothing(0.1)
        await in_thread(change)(False)
        assert (await copy.event())[0] == "created"


async def test_what_signals_do_not_see_is_told(order: Callable[..., Order]) -> None:
    row = await in_thread(order)()
    async with connect(Orders) as stream:
        copy = Copy(stream)
        await copy.until("end")
        await Order.objects.aupdate(quantity=9)
        await stream.receive_nothing(0.1)
        await in_thread(publish_changes)(Order.objects.all())
        assert (await copy.event())[1]["quantity"] == 9
        await Order.objects.filter(pk=row.pk).adelete()
        assert await copy.event() == ("deleted", {"id": row.pk})


async def test_row_is_sent_again_when_what_it_shows_changes(
    order: Callable[..., Order], shop: Any
) -> None:
    row = await in_thread(order)()
    async with connect(Orders) as stream:
        copy = Copy(stream)
        await copy.until("end")
        shop[0].last_name = "Byron"
        await shop[0].asave()
        event, data = await copy.event()
        assert (event, data["id"], data["customer"]) == ("changed", row.pk, "Ada Byron")


# One row, and routes.


class OwnOnly(BasePermission):
    """Lets a user see a user whose first name is the same."""

    def has_object_permission(self, request: Any, view: Any, obj: Any) -> bool:
        return bool(request.user.first_name == obj.first_name)


class UserSerializer(serializers.ModelSerializer[User]):
    class Meta:
        model = User
        fields = ["username", "first_name"]


class Users(ModelSSEView):
    heartbeat = None
    queryset = User.objects.all()
    serializer_class = UserSerializer
    lookup_field = "username"
    permission_classes = [OwnOnly]
    filter_backends = [SearchFilter]
    search_fields = ["username"]


router = DefaultRouter()
router.register("orders", Orders)
router.register("users", Users)
urlpatterns = [
    path("api/", include(router.urls)),
    sse_path("changes/", Orders),
    sse_path("checked/", Orders.as_view(recheck_period=0.05)),
    sse_path("changes/<int:pk>/", Orders),
    sse_path("checked/<int:pk>/", Orders.as_view(recheck_period=0.05)),
    sse_path("products/<int:number>/", Orders.as_view(lookup_url_kwarg="number")),
]


@pytest.fixture
def application(settings: Any) -> Any:
    from django_sse.asgi import get_asgi_application  # noqa: PLC0415

    settings.ROOT_URLCONF = __name__
    return get_asgi_application()


async def test_router_gives_streams_of_all_rows_and_of_one(
    order: Callable[..., Order], application: Any
) -> None:
    rows = [await in_thread(order)(quantity=number) for number in (1, 2)]
    assert reverse("order-list") == "/api/orders/"
    addresses = [reverse("order-detail", args=[rows[0].pk]), f"/changes/{rows[0].pk}/"]
    for address in [*addresses, f"/products/{rows[0].pk}/"]:
        async with connect(application, address) as stream:
            copy = Copy(stream)
            await copy.until("end")
            assert list(copy.rows) == [rows[0].pk]
            await rows[1].asave()
            await rows[0].asave()
            assert (await copy.event())[1]["id"] == rows[0].pk
    for address in ("/api/orders/", "/changes/"):
        async with connect(application, address) as stream:
            copy = Copy(stream)
            await copy.until("end")
            assert list(copy.rows) == [row.pk for row in rows]
    for address in ("/api/orders/0/", "/changes/0/", "/api/orders/what/"):
        async with connect(application, address) as stream:
            assert stream.status_code == 404
    async with connect(application, "/api/", headers={"accept": "application/json"}) as stream:
        assert (await stream.json())["orders"] == "http://testserver/api/orders/"


async def test_one_row_follows_the_permissions_of_its_object(
    application: Any, ada: User, bob: User
) -> None:
    async with connect(application, "/api/users/bob/", user=ada) as stream:
        assert stream.status_code == 403
    async with connect(application, "/api/users/ada/", user=ada) as stream:
        copy = Copy(stream)
        await copy.until("end")
        assert copy.key == "username"
        await User.objects.filter(pk=ada.pk).aupdate(first_name="Eve")
        await apublish_changes(User.objects.all())
        assert await copy.event() == ("deleted", {"username": "ada"})


async def test_filter_backends_narrow_the_rows(application: Any, ada: User, bob: User) -> None:
    async with connect(application, "/api/users/?search=bo", user=ada) as stream:
        copy = Copy(stream)
        await copy.until("end")
        assert list(copy.rows) == ["bob"]


class OrderFilter(FilterSet):
    """``?status=new&least=3&customer=Ada``: choices, a range, and a column of another model."""

    least = NumberFilter(field_name="quantity", lookup_expr="gte")
    customer = CharFilter(field_name="customer__first_name")

    class Meta:
        model = Order
        fields = ["status"]


class Filtered(Orders):
    """Orders, by django-filter."""

    filter_backends = [DjangoFilterBackend]
    filterset_class = OrderFilter

    def get_queryset(self) -> Any:
        return Order.objects.select_related("customer", "product")


class ByFields(Filtered):
    filterset_class = None
    filterset_fields = {"quantity": ["exact", "gte"], "id": ["in"]}


async def test_rows_enter_and_leave_a_filterset(order: Callable[..., Order], shop: Any) -> None:
    low, high, paid = [
        await in_thread(order)(**it)
        for it in ({"quantity": 1}, {"quantity": 5}, {"quantity": 5, "status": "paid"})
    ]
    address = "/?status=new&least=3&customer=Ada"
    async with connect(Filtered, address) as one, connect(Filtered) as two:
        copy, everything = Copy(one), Copy(two)
        await copy.until("end")
        await everything.until("end")
        assert (set(copy.rows), set(everything.rows)) == ({high.pk}, {low.pk, high.pk, paid.pk})

        low.quantity = 3
        await low.asave()
        assert await copy.event() == ("created", copy.rows[low.pk])
        high.quantity = 2
        await high.asave()
        assert await copy.event() == ("deleted", {"id": high.pk})
        await Order.objects.filter(pk=paid.pk).aupdate(status="new")
        await apublish_changes([paid])
        assert await copy.event() == ("created", copy.rows[paid.pk])
        # A row leaves and enters by what is in another model, too.
        shop[0].first_name = "Grace"
        await shop[0].asave()
        assert {(await copy.event())[0] for _ in range(2)} == {"deleted"}
        shop[0].first_name = "Ada"
        await shop[0].asave()
        assert {(await copy.event())[0] for _ in range(2)} == {"created"}
        assert set(copy.rows) == {low.pk, paid.pk}
        assert not [it for it in everything.events if it[0] == "deleted"]


async def test_filterset_fields_follow_the_rows_of_a_page(order: Callable[..., Order]) -> None:
    rows = [await in_thread(order)(quantity=number) for number in range(1, 5)]
    shown = [rows[0].pk, rows[2].pk]
    async with connect(ByFields, f"/?id__in={shown[0]},{shown[1]}") as stream:
        copy = Copy(stream)
        await copy.until("end")
        assert list(copy.rows) == shown
        await rows[1].asave()
        await rows[2].adelete()
        assert await copy.event() == ("deleted", {"id": shown[1]})
    async with connect(ByFields, "/?quantity__gte=4") as stream:
        copy = Copy(stream)
        await copy.until("end")
        assert list(copy.rows) == [rows[3].pk]


async def test_query_that_a_filterset_refuses_is_a_plain_error(shop: Any) -> None:
    async with connect(Filtered, "/?least=many&status=lost") as stream:
        assert stream.status_code == 400
        assert set(await stream.json()) == {"least", "status"}


# Reconnecting.


class Idle(Orders):
    """Keeps the hub open, which a test without streams would close."""

    queryset = Order.objects.none()

    def get_queryset(self) -> Any:
        return Order.objects.none()


@pytest.mark.parametrize("alone", [False, True])
async def test_client_resumes_in_the_same_process(alone: bool, order: Callable[..., Order]) -> None:
    stays, leaves = [await in_thread(order)(quantity=number) for number in (1, 2)]
    async with connect(Idle), connect(Idle if alone else Orders) as other:
        theirs = Copy(other)
        await theirs.until("end")
        async with connect(Orders) as stream:
            await Copy(stream).until("end")
            seen = stream.last_event_id
        stays.quantity = 8
        await stays.asave()
        leaves.status = "paid"
        await leaves.asave()
        brief = await in_thread(order)()
        new = await in_thread(order)()
        if not alone:
            await theirs.when({stays.pk, brief.pk, new.pk})
        await brief.adelete()
        if not alone:
            await theirs.when({stays.pk, new.pk})
        for _ in range(2):  # A second time, as if the connection had broken in the replay.
            async with connect(Orders, headers={"last-event-id": seen}) as stream:
                got = [await Copy(stream, "id").event() for _ in range(3)]
                assert [(name, data["id"]) for name, data in got] == [
                    ("changed", stays.pk),
                    ("deleted", leaves.pk),
                    ("created", new.pk),
                ]
                await stream.receive_nothing(0.05)
                last = stream.last_event_id
        async with connect(Orders, headers={"last-event-id": last}) as stream:
            await stream.receive_nothing(0.1)
            await stays.asave()
            assert (await Copy(stream, "id").event())[0] == "changed"


@pytest.mark.parametrize("seen", ["7-7", "snapshot", "nonsense"])
async def test_client_that_cannot_resume_is_reset(seen: str, order: Callable[..., Order]) -> None:
    await in_thread(order)()
    async with connect(Orders, headers={"last-event-id": seen}) as stream:
        copy = Copy(stream)
        await copy.until("end")
        assert [name for name, _ in copy.events] == ["reset", "begin", "created", "end"]


async def test_client_that_leaves_in_a_snapshot_does_not_resume(
    order: Callable[..., Order],
) -> None:
    async with connect(Orders) as stream:
        assert (await stream.receive()).event == "begin"
        assert stream.last_event_id == "snapshot"


async def test_position_of_another_queryset_is_no_position_here(
    order: Callable[..., Order], ada: User
) -> None:
    ada.is_staff = True
    await in_thread(order)(status="paid")
    async with connect(Orders, user=ada) as stream:
        await Copy(stream).until("end")
        seen = stream.last_event_id
    async with connect(Orders, headers={"last-event-id": seen}) as stream:
        copy = Copy(stream)
        await copy.until("end")
        assert [name for name, _ in copy.events] == ["reset", "begin", "end"]


async def test_snapshot_comes_in_pages_and_without_gaps(order: Callable[..., Order]) -> None:
    def many(count: int) -> None:
        with transaction.atomic():
            for _ in range(count):
                order()

    await in_thread(many)(7)
    for size in (1, 3, 7, 8):
        async with connect(Orders.as_view(snapshot_page=size)) as stream:
            copy = Copy(stream)
            await copy.until("end")
            assert len(copy.rows) == 7


class Gate:
    """Counts the pages that are read, and holds each one back after it was read, until ``open()``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.read: list[Any] = []
        self._free = threading.Semaphore(0)
        page = plans.Plan.page

        def held(plan: Any, after: Any, size: int) -> Any:
            found = page(plan, after, size)
            self.read.append(after)
            self._free.acquire(timeout=10)
            return found

        monkeypatch.setattr(plans.Plan, "page", held)

    def open(self, pages: int = 100) -> None:
        self._free.release(pages)


async def all_have_come(number: int) -> Any:
    """Wait until a group has so many clients; return it."""
    groups = get_hub().attached["groups of rows"]
    await eventually(lambda: [len(it._followers) for it in groups.values()] == [number])
    return next(iter(groups.values()))


async def test_clients_that_come_at_once_share_the_pages_of_a_snapshot(
    order: Callable[..., Order], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = {(await in_thread(order)()).pk for _ in range(7)}
    gate = Gate(monkeypatch)
    async with AsyncExitStack() as stack:
        view = Orders.as_view(snapshot_page=2)
        coming = [stack.enter_async_context(connect(view)) for _ in range(20)]
        copies = [Copy(stream) for stream in await asyncio.gather(*coming)]
        group = await all_have_come(20)
        gate.open()
        for copy in copies:
            await copy.until("end")
            assert set(copy.rows) == rows
    # Not 80: the first client has a read of its own for each of the four pages, and so may one or two
    # that come late. The others share.
    assert len(gate.read) <= 16
    assert group._pages == {}


async def test_shared_page_has_nothing_that_was_read_before_a_client_asked(
    order: Callable[..., Order], monkeypatch: pytest.MonkeyPatch
) -> None:
    stays, leaves = [await in_thread(order)() for _ in range(2)]
    gate = Gate(monkeypatch)
    async with connect(Orders) as one:
        await eventually(lambda: gate.read)
        # Nothing tells of it: the page that was read is older than what the next client may see.
        await Order.objects.filter(pk=leaves.pk).aupdate(status="paid")
        async with connect(Orders) as two, connect(Orders) as three:
            await all_have_come(3)
            gate.open()
            copies = [Copy(stream) for stream in (one, two, three)]
            for copy in copies:
                await copy.until("end")
            seen = [set(copy.rows) for copy in copies]
    assert seen == [{stays.pk, leaves.pk}, {stays.pk}, {stays.pk}]
    assert len(gate.read) == 2


async def test_page_that_nobody_waits_for_any_more_is_not_read(
    order: Callable[..., Order], monkeypatch: pytest.MonkeyPatch
) -> None:
    await in_thread(order)()
    gate = Gate(monkeypatch)
    async with connect(Orders) as one, connect(Orders.as_view(snapshot_page=2)) as two:
        await eventually(lambda: gate.read)
        async with connect(Orders.as_view(snapshot_page=3)):
            group = await all_have_come(3)
            gate.open(1)
            await eventually(lambda: [size for _, size in group._pages] == [3])
        await eventually(lambda: not group._pages)
        gate.open()
        await Copy(one).until("end")
        await Copy(two).until("end")
    assert len(gate.read) == 2


async def test_page_that_cannot_be_read_ends_all_streams_that_wait_for_it(
    order: Callable[..., Order], monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    async with connect(Orders) as one:
        await eventually(lambda: gate.read)
        async with connect(Orders) as two, connect(Orders) as three:
            await all_have_come(3)
            monkeypatch.setattr(plans.Plan, "page", Mock(side_effect=DatabaseError("away")))
            gate.open()
            await Copy(one).until("end")
            for stream in (two, three):
                await stream.read()
                assert str(stream.failure) == "away"


# Permissions that change while the stream is open.


async def test_recheck_finds_the_rows_that_a_user_may_see_now(
    order: Callable[..., Order], ada: User, application: Any
) -> None:
    await in_thread(order)(status="paid")
    async with connect(application, "/checked/", user=ada) as stream:
        copy = Copy(stream)
        await copy.until("end")
        assert copy.rows == {}
        await stream.receive_nothing(0.15)
        await User.objects.filter(pk=ada.pk).aupdate(is_staff=True)
        await copy.until("reset")
        await copy.until("end")
        assert len(copy.rows) == 1
        await User.objects.filter(pk=ada.pk).aupdate(is_staff=False)
        await copy.until("end")
        assert copy.rows == {}
        await User.objects.filter(pk=ada.pk).aupdate(is_active=False)
        await copy.until("revoked")


async def test_recheck_of_one_row_takes_it_away_and_brings_it_back(
    order: Callable[..., Order], ada: User, application: Any
) -> None:
    row = await in_thread(order)(status="paid")
    await User.objects.filter(pk=ada.pk).aupdate(is_staff=True)
    ada.is_staff = True
    async with connect(application, f"/checked/{row.pk}/", user=ada) as stream:
        copy = Copy(stream)
        await copy.until("end")
        assert set(copy.rows) == {row.pk}
        for is_staff, seen in (False, set()), (True, {row.pk}):
            await User.objects.filter(pk=ada.pk).aupdate(is_staff=is_staff)
            await copy.until("reset")
            await copy.until("end")
            assert set(copy.rows) == seen


class Members(ModelSSEView):
    """Users, to those who are in a group with them."""

    heartbeat = None
    serializer_class = UserSerializer
    lookup_field = "username"
    queryset = User.objects.order_by("username")
    depends_on = {Group: "user_set"}

    def get_queryset(self) -> Any:
        return super().get_queryset().filter(groups__user=self.user).distinct()


async def test_many_to_many_changes_let_rows_enter_and_leave(ada: User, bob: User) -> None:
    team = await Group.objects.acreate(name="team")
    async with connect(Members, user=ada) as stream:
        copy = Copy(stream)
        await copy.until("end")
        assert copy.rows == {}
        await team.user_set.aadd(ada, bob)
        await copy.when({"ada", "bob"})
        await bob.groups.aclear()
        await copy.when({"ada"})
        await bob.groups.aset([team])
        await copy.when({"ada", "bob"})
        await team.user_set.aclear()
        await copy.when(set())
        await team.user_set.aadd(ada)
        await team.adelete()
        await copy.when(set())


class CustomerSerializer(serializers.ModelSerializer[Customer]):
    count = serializers.SerializerMethodField()

    class Meta:
        model = Customer
        fields = ["id", "count"]

    def get_count(self, customer: Any) -> int:
        return int(customer.orders.count())


class Customers(ModelSSEView):
    heartbeat = None
    queryset = Customer.objects.all()
    serializer_class = CustomerSerializer
    depends_on = {Order: "customer"}


async def test_row_is_checked_when_what_points_to_it_comes_moves_and_goes(
    order: Callable[..., Order], shop: Any
) -> None:
    other = await Customer.objects.acreate(first_name="Eve", last_name="New")
    async with connect(Customers) as stream:
        copy = Copy(stream)
        await copy.until("end")
        row = await in_thread(order)()
        assert await copy.event() == ("changed", {"id": shop[0].pk, "count": 1})
        row.customer = other
        await row.asave()
        moved = [await copy.event() for _ in range(2)]
        assert {(it["id"], it["count"]) for _, it in moved} == {(shop[0].pk, 0), (other.pk, 1)}
        await apublish_changes([row])
        assert await copy.event() == ("changed", {"id": other.pk, "count": 1})
        await row.adelete()
        assert await copy.event() == ("changed", {"id": other.pk, "count": 0})


class Logged(ModelSSEView):
    """Users with a staff flag of their own, by a serializer that needs the request."""

    heartbeat = None
    queryset = User.objects.all()
    serializer_needs_request = True

    class serializer_class(serializers.Serializer[User]):  # noqa: N801
        pk = serializers.IntegerField()
        asked_by = serializers.SerializerMethodField()

        def get_asked_by(self, row: Any) -> str:
            return str(self.context["request"].user)


async def test_serializer_that_needs_the_request_gets_it(ada: User, bob: User, broker: Any) -> None:
    async with connect(Logged, user=ada) as one, connect(Logged, user=bob) as two:
        for stream, user in (one, ada), (two, bob):
            copy = Copy(stream)
            await copy.until("end")
            assert copy.rows[ada.pk] == {"pk": ada.pk, "asked_by": user.username}
        await ada.asave()
        for stream, user in (one, ada), (two, bob):
            assert (await Copy(stream, "pk").event())[1]["asked_by"] == user.username


async def test_one_change_is_one_query_and_one_text_for_all_with_the_same_rights(
    order: Callable[..., Order], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    written: list[Any] = []
    read, row = plans.Plan.read, plans._Writer.row
    monkeypatch.setattr(plans.Plan, "read", lambda self, it: asked.append(self) or read(self, it))
    monkeypatch.setattr(plans._Writer, "row", lambda self, it: written.append(it) or row(self, it))
    staff = User(is_staff=True)
    first = await in_thread(order)()
    async with (
        connect(Orders) as one,
        connect(Orders) as two,
        connect(Orders, user=staff) as three,
    ):
        copies = [Copy(stream) for stream in (one, two, three)]
        for copy in copies:
            await copy.until("end")
        written.clear()
        await first.asave()
        for copy in copies:
            assert (await copy.event())[0] == "changed"
    assert len(asked) == 2  # Of the staff's group, and of the other one.
    assert len(written) == 1


# What goes wrong.


async def test_check_is_tried_again_while_the_database_is_away(
    order: Callable[..., Order], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    read = plans.Plan.read
    faults = [DatabaseError("away"), DatabaseError("away")]

    def failing(self: Any, marks: Any) -> Any:
        if faults:
            raise faults.pop()
        return read(self, marks)

    monkeypatch.setattr(plans.Plan, "read", failing)
    monkeypatch.setattr(groups, "AGAIN", 0.01)
    async with connect(Orders) as stream:
        copy = Copy(stream)
        await copy.until("end")
        row = await in_thread(order)()
        event, data = await copy.event()
        assert (event, data["id"]) == ("created", row.pk)
        faults.append(DatabaseError("away once more"))
        second = await in_thread(order)()
        assert (await copy.event())[1]["id"] == second.pk
    # Once for each time that it is away, not for each attempt.
    logged = [it for it in caplog.records if "trying again" in it.message]
    assert [it.levelname for it in logged if it.levelname != "DEBUG"] == ["ERROR", "ERROR"]


class FailingSerializer(OrderSerializer):
    """Fails for orders of thirteen."""

    def to_representation(self, instance: Any) -> Any:
        if instance.quantity == 13:
            raise RuntimeError("thirteen")
        return super().to_representation(instance)


class Fails(Orders):
    serializer_class = FailingSerializer


async def test_serializer_that_fails_ends_the_stream(
    order: Callable[..., Order], caplog: pytest.LogCaptureFixture
) -> None:
    async with connect(Fails) as stream:
        await Copy(stream).until("end")
        await in_thread(order)(quantity=13)
        await stream.receive_end()
    assert "Changes of shop.Order cannot be sent" in caplog.text


async def test_lost_messages_reset_all_clients(order: Callable[..., Order]) -> None:
    async with connect(Orders) as stream:
        copy = Copy(stream)
        await copy.until("end")
        row = await in_thread(order)()
        await copy.until("created")
        await Order.objects.all().aupdate(quantity=5)
        get_hub()._lost(["model:shop.order"])
        await copy.until("end")
        assert [name for name, _ in copy.events[-4:]] == ["reset", "begin", "created", "end"]
        assert copy.rows[row.pk]["quantity"] == 5


async def test_message_that_cannot_be_read_resets_all_clients(
    order: Callable[..., Order], caplog: pytest.LogCaptureFixture
) -> None:
    async with connect(Orders) as stream:
        copy = Copy(stream)
        await copy.until("end")
        await apublish("model:shop.order", "nonsense")
        await copy.until("end")
        assert [name for name, _ in copy.events[-3:]] == ["reset", "begin", "end"]
    assert "Messages about shop.Order cannot be read" in caplog.text


async def test_group_without_clients_is_forgotten(
    order: Callable[..., Order], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(groups, "LINGER", 0.05)
    async with connect(Idle):
        async with connect(Orders) as stream:
            await Copy(stream).until("end")
            seen = stream.last_event_id
        kept = get_hub().attached["groups of rows"]
        assert len(kept) == 2
        await eventually(lambda: len(kept) == 1)
        async with connect(Orders, headers={"last-event-id": seen}) as stream:
            assert (await stream.receive()).event == "reset"


async def test_thread_is_given_back_once_where_the_last_client_leaves_during_a_read(
    order: Callable[..., Order], monkeypatch: pytest.MonkeyPatch
) -> None:
    await in_thread(order)()
    before = sum(lane.streams for lane in pool._lanes)
    gate = Gate(monkeypatch)

    async def go_on_without_clients(group: Any) -> None:
        await eventually(lambda: not group._followers)
        assert group._lock.locked()
        gate.open()

    async with connect(Orders):
        await eventually(lambda: gate.read)
        going_on = asyncio.create_task(go_on_without_clients(await all_have_come(1)))
    await going_on
    assert sum(lane.streams for lane in pool._lanes) == before


@pytest.mark.parametrize("alone", [False, True])
async def test_group_remembers_so_many_changes(
    alone: bool, order: Callable[..., Order], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(groups, "REMEMBERED", 2)
    row = await in_thread(order)()
    async with connect(Idle if alone else Orders) as other:
        theirs = Copy(other)
        await theirs.until("end")
        async with connect(Orders) as stream:
            await Copy(stream).until("end")
            seen = stream.last_event_id
        for _ in range(3):
            await in_thread(order)() if alone else await row.asave()
            if not alone:
                await theirs.until("changed")
        async with connect(Orders, headers={"last-event-id": seen}) as stream:
            assert (await stream.receive()).event == "reset"


async def test_client_of_a_long_snapshot_catches_up_with_what_it_could_not_hold(
    order: Callable[..., Order], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [await in_thread(order)() for _ in range(3)]
    gate, page = threading.Event(), plans.Plan.page

    def held(self: Any, *args: Any) -> Any:
        found = page(self, *args)
        gate.wait(5)
        return found

    monkeypatch.setattr(plans.Plan, "page", held)
    async with connect(Orders.as_view(snapshot_page=1, outbox_limit=1)) as stream:
        copy = Copy(stream)
        await copy.until("begin")
        rows[0].quantity = 4
        await rows[0].asave()
        [group] = get_hub().attached["groups of rows"].values()
        await eventually(lambda: group._touched)
        gate.set()
        await copy.until("end")
        event, data = await copy.event()
        assert (event, data["id"], data["quantity"]) == ("changed", rows[0].pk, 4)
        await rows[1].asave()
        assert (await copy.event())[1]["id"] == rows[1].pk


async def asynchronous(self: Any) -> Any:
    """Stand in for a hook that DRF calls without an `await`."""


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"topics": ["a"]}, "topics has no meaning"),
        ({"rewind": 3}, "rewind has no meaning"),
        ({"serialize": lambda self, obj: ""}, r"serialize\(\) takes the place"),
        ({"overflow": "drop_oldest"}, "cannot keep its copy"),
        ({"depends_on": [Customer]}, "must be a dict of models and paths"),
        ({"depends_on": {"Customer": "orders"}}, "must have models as its keys, got 'Customer'"),
        ({"depends_on": {Customer: "nothing"}}, "no relation 'nothing'"),
        ({"get_queryset": asynchronous}, r"get_queryset\(\) must be a plain `def`"),
        ({"snapshot_page": 0}, "must be a whole number of rows"),
    ],
)
def test_wrong_view_is_refused(attributes: dict[str, Any], words: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=words):
        type("Wrong", (Orders,), attributes)


class Xml(BaseRenderer):
    media_type = "application/xml"


class NoKey(serializers.ModelSerializer[Order]):
    class Meta:
        model = Order
        fields = ["quantity"]


class Free(serializers.BaseSerializer[Order]):
    def to_representation(self, instance: Any) -> Any:
        return {"id": instance.pk, "free": True} if instance.quantity < 5 else {}


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (Order.objects.all()[:3], "is sliced"),
        (Order.objects.all().union(Order.objects.all()), r"is a union\(\)"),
        (Order.objects.values("pk"), r"is a values\(\)"),
    ],
)
async def test_queryset_without_rows_of_a_key_is_refused(
    rows: Any, words: str, transactional_db: None, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ImproperlyConfigured, match=words):
        type("Wrong", (Orders,), {"queryset": rows})
    with pytest.raises(ImproperlyConfigured, match=words):
        Orders.as_view(queryset=rows)
    async with connect(type("Late", (Orders,), {"get_queryset": lambda self: rows})) as stream:
        assert stream.status_code == 500
    assert re.search(words, caplog.text)


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"queryset": None}, "must have a `queryset`"),
        ({"serializer_class": NoKey}, "needs a serializer with 'pk'"),
        (
            {"queryset": User.objects.all(), "serializer_class": None},
            "must have a `serializer_class`",
        ),
        ({"renderer_class": Xml}, "must be a JSON renderer"),
    ],
)
async def test_what_cannot_be_streamed_is_an_error_before_the_stream(
    attributes: dict[str, Any], words: str, caplog: pytest.LogCaptureFixture, transactional_db: None
) -> None:
    view = type("Wrong", (ModelSSEView,), {
        "queryset": Order.objects.all(), "serializer_class": OrderSerializer, **attributes
    })  # fmt: skip
    async with connect(view) as stream:
        assert stream.status_code == 500
    assert re.search(words, caplog.text)


async def test_serializer_of_any_kind_must_have_the_key(order: Callable[..., Order]) -> None:
    class Freely(Orders):
        serializer_class = Free

    await in_thread(order)()
    async with connect(Freely) as stream:
        copy = Copy(stream)
        await copy.until("end")
        assert list(copy.rows.values()) == [{"id": next(iter(copy.rows)), "free": True}]
    await in_thread(order)(quantity=7)
    async with connect(Freely) as stream:
        await stream.read()
        assert "must put 'id' into its data" in str(stream.failure)


async def test_publish_changes_needs_saved_objects() -> None:
    with pytest.raises(ValueError, match="without a primary key"):
        await apublish_changes([Order()])


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (Order(pk=1), r"Write publish_changes\(\[order\]\) for one object"),
        (Order, "takes a QuerySet, or a list of objects"),
        (None, "takes a QuerySet, or a list of objects"),
        ([1, 2], r"takes a QuerySet, or objects of models, got 1\..*pk__in=keys"),
    ],
)
def test_publish_changes_says_what_it_takes(rows: Any, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        publish_changes(rows)


# Corners.


async def test_history_that_is_forgotten_in_between_begins_anew(
    order: Callable[..., Order], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with connect(Orders) as other:
        await Copy(other).until("end")
        seen = other.last_event_id
        [group] = get_hub().attached["groups of rows"].values()
        monkeypatch.setattr(type(group), "remembers", Mock(side_effect=[True, False]))
        async with connect(Orders, headers={"last-event-id": seen}) as stream:
            copy = Copy(stream)
            await copy.until("end")
            assert [name for name, _ in copy.events] == ["reset", "begin", "end"]


async def test_messages_lost_while_a_check_runs_reset_all_clients(
    order: Callable[..., Order], monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, begun, read = threading.Event(), threading.Event(), plans.Plan.read

    def held(self: Any, marks: Any) -> Any:
        begun.set()
        gate.wait(5)
        return read(self, marks)

    async with connect(Orders) as stream:
        copy = Copy(stream)
        await copy.until("end")
        monkeypatch.setattr(plans.Plan, "read", held)
        row = await in_thread(order)()
        await eventually(begun.is_set)
        get_hub()._lost(["model:shop.order"])
        gate.set()
        await copy.until("end")
        await copy.when({row.pk})


async def test_long_replay_waits_for_a_slow_client(
    order: Callable[..., Order], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscriptions, "HIGH_WATER", 1)
    monkeypatch.setattr(views, "HIGH_WATER", 1)
    row = await in_thread(order)()
    async with connect(Orders) as other:
        theirs = Copy(other)
        await theirs.until("end")
        seen = other.last_event_id
        await row.asave()
        await theirs.until("changed")
        async with connect(Orders, headers={"last-event-id": seen}) as stream:
            assert (await stream.receive()).event == "changed"


async def test_related_rows_are_found_once_for_all_groups_and_not_kept_for_ever(
    order: Callable[..., Order], shop: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    pks = plans.Plan.pks
    monkeypatch.setattr(groups, "READINGS", 1)
    monkeypatch.setattr(
        plans.Plan, "pks", lambda self, *args: asked.append(args) or pks(self, *args)
    )
    await in_thread(order)()
    async with connect(Orders) as one, connect(Orders, user=User(is_staff=True)) as two:
        copies = [Copy(one), Copy(two)]
        for copy in copies:
            await copy.until("end")
        for _ in range(2):
            await shop[0].asave()
            for copy in copies:
                assert (await copy.event())[0] == "changed"
    assert len(asked) == 2


def test_relation_without_a_way_back_is_refused() -> None:
    relation = Mock(auto_created=False)
    relation.remote_field.hidden = True
    with pytest.raises(ImproperlyConfigured, match="has no way back"):
        paths._back("Rows", "tags", relation)


async def test_stream_that_has_ended_sends_no_rows() -> None:
    view = Orders()
    with pytest.raises(StreamClosed):
        await view._put(b"")
    view._outbox, view._plan, view.close_reason = Mock(), Mock(), "client"
    with pytest.raises(StreamClosed):
        await view._subscribe(anew=False)


def test_as_view_watches_what_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    class Empty(ModelSSEView):
        pass

    monkeypatch.setattr(changes, "_watched", set())
    Empty.as_view(queryset=Order.objects.all(), serializer_class=OrderSerializer)
    assert changes._watched == {Order}
    sse_path("", Orders, kwargs={})  # Without attributes, the class has done it.
    assert changes._watched == {Order}
    Empty.as_view(serializer_class=OrderSerializer, depends_on={Customer: "orders"})
    assert changes._watched == {Order, Customer}
    with pytest.raises(ImproperlyConfigured, match="no relation 'nothing'"):
        Empty.as_view(queryset=Order.objects.all(), depends_on={Customer: "nothing"})


@pytest.mark.parametrize("attributes", [{"serializer_class": OrderSerializer}, {}])
def test_view_is_watched_before_a_stream_opens_if_its_model_is_known(
    attributes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker has no streams, and must publish its changes."""
    monkeypatch.setattr(changes, "_watched", set())
    monkeypatch.setattr(changes, "_dependents", {})
    attributes |= {"get_queryset": lambda self: Order.objects.all()}
    type("Chosen", (ModelSSEView,), attributes | {"depends_on": {Customer: "orders"}})
    assert changes._watched == {Customer, *([Order] if "serializer_class" in attributes else [])}
