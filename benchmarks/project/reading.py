"""The object of the burst: six fields, as a project would have them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal

from rest_framework import serializers

from django_sse import serializes


@dataclass(slots=True)
class Reading:
    """What a sensor has seen."""

    number: int
    name: str
    value: Decimal
    taken: datetime
    labels: list[str]
    valid: bool


@serializes(Reading)
class ReadingSerializer(serializers.Serializer[Reading]):
    number = serializers.IntegerField()
    name = serializers.CharField()
    value = serializers.DecimalField(max_digits=10, decimal_places=2)
    taken = serializers.DateTimeField()
    labels = serializers.ListField(child=serializers.CharField())
    valid = serializers.BooleanField()


def reading() -> Reading:
    """Return one."""
    taken = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    return Reading(42, "north wall", Decimal("21.50"), taken, ["roof", "outside", "a"], True)
