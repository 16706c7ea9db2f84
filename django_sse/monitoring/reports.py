"""Report on a stream: to the staff, to the log, and to a test that watches it."""

from __future__ import annotations

import logging
import math
import time
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from django_sse.connection.outbox import Outbox
from django_sse.connection.users import user_key, user_name

logger = logging.getLogger("django_sse")

#: The key in a scope of a callable that gets what a stream raised, besides the log; for tests.
ON_FAILURE = "django_sse.on_failure"
#: How often, in so many seconds, an error that befalls many streams is logged.
REPEATS = 10
REPEAT_SECONDS = 60.0
#: Characters of a path or a name that are reported: clients choose them.
MAX_CHARACTERS = 200
#: Topics of one stream that are reported.
MAX_TOPICS = 10


def describe(stream: Any, outbox: Outbox | None) -> dict[str, Any]:
    """Return what the staff may know of a stream, in types that JSON knows.

    ``age`` is in seconds; ``sent`` and ``buffered`` are bytes.
    """
    loop = stream.event_loop
    topics = stream.followed_topics
    return {
        "id": stream.stream_id,
        "view": f"{type(stream).__module__}.{type(stream).__qualname__}",
        "path": _short(stream.request.path),
        "user": user_key(stream.user),
        "user_name": _short(user_name(stream.user)),
        "address": stream.request.META.get("REMOTE_ADDR", ""),
        "topics": list(topics[:MAX_TOPICS]),
        "further_topics": max(0, len(topics) - MAX_TOPICS),
        "age": 0.0 if loop is None else loop.time() - stream.opened_at,
        "sent": 0 if outbox is None else outbox.written,
        "buffered": 0 if outbox is None else outbox.size,
        "last_id": stream.newest_id,
    }


def log_error(stream: Any, message: str, *args: Any, error: BaseException | None = None) -> None:
    """Log an error of a stream, with ``error``'s traceback and what structured logs may know."""
    logger.error(
        message,
        type(stream).__qualname__,
        *args,
        exc_info=error,
        extra={
            "stream_id": stream.stream_id,
            "view": f"{type(stream).__module__}.{type(stream).__qualname__}",
            "path": stream.request.path,
            "user": _logged_user(stream),
            "close_reason": stream.close_reason,
            # As on Django's own lines: handlers that report errors look for the URL there.
            "request": stream.request._request,
        },
        stacklevel=2,
    )


def log_repeated(stream: Any, message: str, *, error: BaseException) -> None:
    """Log an error that may befall all streams at once, as where a database is away.

    Of the errors of one type in one view, the first ``REPEATS`` in ``REPEAT_SECONDS`` are logged as
    by ``log_error()``. The next one after that time says how many were left out.
    """
    view = f"{type(stream).__module__}.{type(stream).__qualname__}"
    seen = _repeated[view, f"{type(error).__module__}.{type(error).__qualname__}"]
    now = time.monotonic()
    if now - seen.since >= REPEAT_SECONDS:
        if seen.count > REPEATS:
            message = f"{message} {seen.count - REPEATS} more such errors were not logged."
        seen.since, seen.count = now, 0
    seen.count += 1
    if seen.count <= REPEATS:
        log_error(stream, message, error=error)


@dataclass(slots=True)
class _Seen:
    """How many errors of a kind there were since a moment."""

    since: float = -math.inf
    count: int = 0


_repeated: defaultdict[tuple[str, str], _Seen] = defaultdict(_Seen)


def tell_test(stream: Any, error: Exception) -> None:
    """Give what a stream raised to the test that watches it, if one does."""
    tell = getattr(stream, "scope", {}).get(ON_FAILURE)
    if tell is not None:
        tell(error)


def _logged_user(stream: Any) -> str | None:
    try:
        return user_key(stream.user)
    except Exception:
        return (
            None  # A project's own user class may fail, and the line must be written all the same.
        )


def _short(text: str) -> str:
    return text if len(text) <= MAX_CHARACTERS else f"{text[:MAX_CHARACTERS]}…"
