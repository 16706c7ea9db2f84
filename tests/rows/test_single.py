"""What permissions say of the object of a single row."""

from __future__ import annotations

from typing import Any
from unittest.mock import Mock

import pytest
from django.core.exceptions import PermissionDenied
from django.http import Http404
from rest_framework.exceptions import APIException, NotAuthenticated

from django_sse.rows.single import permits_row


class Away(APIException):
    status_code = 503


@pytest.mark.parametrize(
    ("error", "permitted"),
    [(None, True), (PermissionDenied(), False), (Http404(), False), (NotAuthenticated(), False)],
)
def test_refusal_hides_the_row(error: Any, permitted: bool) -> None:
    view = Mock(**{"check_object_permissions.side_effect": error})
    assert permits_row(view, object()) is permitted


@pytest.mark.parametrize("error", [Away(), RuntimeError("away")])
def test_permission_that_cannot_be_asked_says_nothing(error: Exception) -> None:
    view = Mock(**{"check_object_permissions.side_effect": error})
    with pytest.raises(type(error)):
        permits_row(view, object())
