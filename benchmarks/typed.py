"""Typed events: what does a ``ModelSerializer`` of ten fields cost beside DRF's own way?

``python -m benchmarks.typed`` prints the µs of an object: ours, DRF with one serializer for all
objects, and DRF with one for each, as a view has it.
"""

from __future__ import annotations

import datetime
import decimal
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

from .context import Context
from .report import Result
from .servers import ROOT


def measure(context: Context) -> Iterator[Result]:
    """Compare an event's text with that of ``serializer.data`` and ``JSONRenderer``."""
    printed = subprocess.run(
        [sys.executable, "-m", "benchmarks.typed", str(context.size(4000, 1000))],
        cwd=ROOT,
        env={**os.environ, **context.environment},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout
    ours, bound, each = map(float, printed.split())
    what = "a model of ten fields as text"
    yield Result(what, "", ours, bound, "µs", 0.7, note="beside DRF, one serializer for all")
    yield Result(what, "", ours, each, "µs", note="beside DRF, a serializer for each")


def main() -> int:
    """Measure in turns, and print the least of each."""
    import django  # noqa: PLC0415 - only in the process that measures

    django.setup()

    from django.db import models  # noqa: PLC0415
    from rest_framework import serializers  # noqa: PLC0415
    from rest_framework.renderers import JSONRenderer  # noqa: PLC0415

    from django_sse.wire.serialization import ObjectWriter  # noqa: PLC0415

    class Order(models.Model):  # noqa: DJ008
        item = models.CharField(max_length=100)
        quantity = models.IntegerField()
        total = models.DecimalField(max_digits=10, decimal_places=2)
        created = models.DateTimeField()
        day = models.DateField()
        paid = models.BooleanField()
        note = models.TextField()
        ref = models.UUIDField()
        weight = models.FloatField()

        class Meta:
            app_label = "benchmarks"

    class OrderSerializer(serializers.ModelSerializer[Order]):
        class Meta:
            model = Order
            fields = "__all__"

    order = Order(
        id=7,
        item="Espresso beans",
        quantity=2,
        total=decimal.Decimal("33.80"),
        created=datetime.datetime(2026, 1, 1, 12, 0, 3, 412345, datetime.UTC),
        day=datetime.date(2026, 1, 1),
        paid=True,
        note="Ring twice.",
        ref=uuid.UUID(int=7),
        weight=1.5,
    )
    renderer = JSONRenderer()
    writer = ObjectWriter(
        overrides={Order: OrderSerializer}, renderer=renderer, context=dict, owner=None
    )
    serializer: Any = OrderSerializer()

    def bound() -> str:
        serializer.instance = order
        serializer.__dict__.pop("_data", None)
        return str(renderer.render(serializer.data), "utf-8")

    def each() -> str:
        return str(JSONRenderer().render(OrderSerializer(order).data), "utf-8")

    assert writer.write(order) == bound() == each()
    count = int(sys.argv[1])
    turns = [
        [
            _cost(act, number)
            for act, number in (
                (lambda: writer.write(order), count),
                (bound, count),
                (each, count // 10),
            )
        ]
        for _ in range(5)
    ]
    print(*(min(column) for column in zip(*turns, strict=True)))
    return 0


def _cost(act: Callable[[], str], count: int) -> float:
    begun = time.perf_counter()
    for _ in range(count):
        act()
    return (time.perf_counter() - begun) / count * 1e6


if __name__ == "__main__":
    sys.exit(main())
