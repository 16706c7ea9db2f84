"""A stream of one row: whether it is there, and what permissions say of the object."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.core.exceptions import PermissionDenied, ValidationError
from django.db.models import QuerySet
from django.http import Http404
from rest_framework.exceptions import APIException
from rest_framework.permissions import BasePermission


def first_or_404(queryset: QuerySet[Any], wanted: Mapping[str, Any]) -> Any:
    """Return the row that a URL names; raise ``Http404`` where there is none."""
    try:
        row = queryset.filter(**wanted).first()
    except (TypeError, ValueError, ValidationError):
        raise Http404 from None
    if row is None:
        raise Http404
    return row


def judges_objects(permission: Any) -> bool:
    """Return whether a permission checks objects."""
    own = getattr(type(permission), "has_object_permission", None)
    return own is not BasePermission.has_object_permission


def permits_row(view: Any, row: Any) -> bool:
    """Return whether the view's permissions allow a row. Raises errors that are no refusal."""
    try:
        view.check_object_permissions(view.request, row)
    except (PermissionDenied, Http404):
        return False
    except APIException as error:
        if error.status_code >= 500:
            raise
        return False
    return True
