"""Reads ``DJANGO_SSE["BROKER"]["OPTIONS"]``, with the same errors in every broker."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from datetime import timedelta
from typing import Any

from django.core.exceptions import ImproperlyConfigured

# A century in seconds. A larger number is a mistake, and would overflow a server's counters.
_MAX_SECONDS = 100 * 366 * 86_400


def refuse_unknown(options: Mapping[str, Any], known: Collection[str]) -> None:
    """Raise ``ImproperlyConfigured`` for an option that is not one of ``known``."""
    for name in options:
        if name not in known:
            raise ImproperlyConfigured(
                f'DJANGO_SSE["BROKER"]["OPTIONS"] has an unknown option {name!r}. '
                f"This broker knows {', '.join(sorted(known))}."
            )


def whole_number(options: Mapping[str, Any], name: str, default: int) -> int:
    """Return the option as an ``int`` above zero; raise ``ImproperlyConfigured`` otherwise."""
    value = options.get(name, default)
    if type(value) is not int or value < 1:
        raise ImproperlyConfigured(
            f'DJANGO_SSE["BROKER"]["OPTIONS"][{name!r}] must be a whole number above 0, '
            f"got {value!r}."
        )
    return value


def seconds(options: Mapping[str, Any], name: str, default: float) -> float:
    """Return the option as seconds above zero; raise ``ImproperlyConfigured`` otherwise."""
    value = options.get(name, default)
    number = value.total_seconds() if isinstance(value, timedelta) else value
    if type(number) not in (int, float) or not 0 < number <= _MAX_SECONDS or math.isnan(number):
        raise ImproperlyConfigured(
            f'DJANGO_SSE["BROKER"]["OPTIONS"][{name!r}] must be a number of seconds above 0 '
            f"or a timedelta, got {value!r}."
        )
    return float(number)
