"""``depends_on``: which paths lead from one model to the rows of another."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Group, Permission, User
from django.contrib.contenttypes.models import ContentType
from django.core.exceptions import ImproperlyConfigured

from django_sse.rows.paths import Path, paths_of
from testproject.shop.models import Customer, Order


@pytest.mark.parametrize(
    ("row_model", "depends_on", "found"),
    [
        (Order, {Customer: "orders"}, [Path(Customer, None, "customer")]),
        (User, {Group: "user_set"}, [Path(Group, None, "groups")]),
        (User, {Group: "user"}, [Path(Group, None, "groups")]),
        (Group, {User: ["groups"]}, [Path(User, None, "user")]),
        (Customer, {Order: "customer"}, [Path(Order, "customer_id", "id")]),
        (User, {LogEntry: "content_type__permission__user"}, [
            Path(LogEntry, "content_type_id", "user_permissions__content_type")
        ]),
        (Permission, {LogEntry: "content_type__permission"}, [
            Path(LogEntry, "content_type_id", "content_type")
        ]),
        (User, {ContentType: "permission__group__user"}, [
            Path(ContentType, None, "groups__permissions__content_type")
        ]),
    ],
)  # fmt: skip
def test_path_is_turned_into_a_filter_of_rows(
    row_model: Any, depends_on: Any, found: list[Path]
) -> None:
    assert paths_of("Rows", row_model, depends_on) == found


@pytest.mark.parametrize(
    ("row_model", "depends_on", "words"),
    [
        (Order, {Customer: "order_set"}, "Customer has no relation 'order_set'"),
        (Order, {Customer: "first_name"}, "Customer has no relation 'first_name'"),
        (Order, {Group: "user_set"}, "leads to User and not to Order"),
        (ContentType, {User: "user_permissions__content_type"}, "Only the first part"),
    ],
)
def test_path_that_leads_elsewhere_is_refused(row_model: Any, depends_on: Any, words: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=words):
        paths_of("Rows", row_model, depends_on)
