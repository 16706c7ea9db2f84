"""Says which lines of code allocated what the process holds, for ``--explain``."""

from __future__ import annotations

import gc
import tracemalloc
from collections import Counter
from typing import Any

from django.http import HttpRequest, JsonResponse

_marked: dict[str, Any] = {}


async def mark(request: HttpRequest) -> JsonResponse:
    """Begin to trace; what is allocated before is no part of the report."""
    gc.collect()
    _marked["types"] = _types()
    tracemalloc.start(int(request.GET.get("frames", 1)))
    return JsonResponse({})


async def report(request: HttpRequest) -> JsonResponse:
    """Return what was allocated since and is still held: by line, and by type of object."""
    garbage = gc.collect()
    snapshot = tracemalloc.take_snapshot().filter_traces(
        [
            tracemalloc.Filter(False, tracemalloc.__file__),
            tracemalloc.Filter(False, __file__),
        ]
    )
    types = _types()
    types.subtract(_marked["types"])
    tracemalloc.stop()
    kind = "traceback" if "frames" in request.GET else "lineno"
    return JsonResponse(
        {
            "garbage": garbage,
            "traced": sum(trace.size for trace in snapshot.traces),
            "lines": [
                [_place(each.traceback), each.size, each.count]
                for each in snapshot.statistics(kind)[:400]
            ],
            "types": [[name, number] for name, number in types.most_common(200)],
        }
    )


def _place(traceback: tracemalloc.Traceback) -> str:
    return " < ".join(
        f"{'/'.join(frame.filename.rsplit('/', 3)[-3:])}:{frame.lineno}"
        for frame in reversed(traceback)
    )


def _types() -> Counter[str]:
    return Counter(
        f"{type(each).__module__}.{type(each).__qualname__}" for each in gc.get_objects()
    )
