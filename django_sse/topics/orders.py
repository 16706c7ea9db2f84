"""Orders to the streams of all processes, sent through the broker: end them, and report them."""

from __future__ import annotations

import asyncio
import functools
import itertools
import json
import logging
import os
import platform
import time
import uuid
from collections import deque
from typing import Any

from asgiref.sync import async_to_sync
from django.db import DEFAULT_DB_ALIAS, transaction
from django.utils.asyncio import async_unsafe

from django_sse.brokers import get_broker
from django_sse.brokers.base import PASSING, Message
from django_sse.conf import conf
from django_sse.connection.roster import roster
from django_sse.connection.users import user_key
from django_sse.exceptions import BrokerError
from django_sse.monitoring.metrics import stats
from django_sse.wire.events import EventDecoder, encode_head

from .publishing import in_transaction

logger = logging.getLogger("django_sse")

#: The topic of orders. A project cannot use it: its topics must not have control characters.
CONTROL = "\x1fcontrol"
#: The most streams that one process reports.
MAX_LISTED = 1000


@async_unsafe("close_streams() waits for the broker: use `await aclose_streams(…)`.")
def close_streams(
    *,
    user: Any = None,
    topic: str | None = None,
    stream: str | None = None,
    using: str | None = None,
    on_commit: bool = True,
) -> None:
    """End streams in all processes, as ``revoked``: those that match everything that is given.

    ``user`` is a user or its primary key; ``stream`` is the id of one stream, as the admin lists
    it. In a transaction of the database ``using``, the order waits for the commit as ``publish()``
    does, unless ``on_commit=False``: a client that is cut off before the commit would reconnect and
    be admitted again.

    Returns when the broker has the order. Each process carries it out as it arrives. Raises
    ``PublishFailed`` as ``publish()`` does, and ``TypeError`` when nothing is given.
    """
    order = _encode(_close_order(user, topic, stream))
    using = using or DEFAULT_DB_ALIAS
    if not (on_commit and in_transaction(using)):
        _give(order)
    elif not get_broker().publish_in_transaction(using, [CONTROL], order):
        transaction.on_commit(functools.partial(_give, order), using=using)


async def aclose_streams(
    *, user: Any = None, topic: str | None = None, stream: str | None = None
) -> None:
    """Do the same as ``close_streams()`` from a coroutine, at once."""
    order = _close_order(user, topic, stream)
    await get_broker().apublish([CONTROL], _encode(order), timeout=conf.publish_timeout)


def _give(order: bytes) -> None:
    get_broker().publish([CONTROL], order, timeout=conf.publish_timeout)


def obey(message: Message, loop: asyncio.AbstractEventLoop) -> None:
    """Carry out an order for the streams of one event loop."""
    try:
        order = _decode(message)
        _check(order)
    except (ValueError, RecursionError):
        logger.error("An order from the broker cannot be read, and is skipped.")
        return
    if "close" in order:
        _orders.append((next(_numbers), order["close"]))
        for stream in roster.streams():
            # A stream in its handshake has no loop yet. It will have this loop, or another one that
            # carries out the order too.
            if stream.event_loop in (loop, None):
                _close(stream, order["close"])
    elif "report" in order:
        answer = _encode(_report(loop, listed=bool(order.get("streams"))))
        task = loop.create_task(_answer(order["report"], answer))
        _answers.add(task)
        task.add_done_callback(_answers.discard)


async def areports(*, wait: float = 1.0, streams: bool = False) -> list[dict[str, Any]]:
    """Ask all processes for their statistics, and with ``streams`` also for their streams.

    Returns the answers that came within ``wait`` seconds: one dict for each event loop that serves
    streams, with ``process``, ``stats`` and ``streams``. Raises ``BrokerError`` where the broker is
    away.
    """
    topic = f"{PASSING}{uuid.uuid4().hex}"
    found: list[dict[str, Any]] = []
    broker = get_broker()
    listener = broker.listen(lambda message: found.append(_decode(message)), lambda topics: None)
    try:
        try:
            async with asyncio.timeout(conf.publish_timeout):
                await listener.subscribe([topic])
        except TimeoutError as error:
            raise BrokerError(
                f"{broker} did not answer within {conf.publish_timeout:g} s."
            ) from error
        order = _encode({"report": topic, "streams": streams})
        await broker.apublish([CONTROL], order, timeout=conf.publish_timeout)
        await asyncio.sleep(wait)
    finally:
        await listener.close()
    return found


def reports(*, wait: float = 1.0, streams: bool = False) -> list[dict[str, Any]]:
    """Do the same as ``areports()`` outside of an event loop."""
    return async_to_sync(areports)(wait=wait, streams=streams)


_answers: set[asyncio.Task[None]] = set()
# The newest orders to end streams, for streams that are in their handshake.
_orders: deque[tuple[int, dict[str, Any]]] = deque(maxlen=1000)
_numbers = itertools.count(1)


async def _answer(topic: str, answer: bytes) -> None:
    try:
        await get_broker().apublish([topic], answer, timeout=conf.publish_timeout)
    except Exception:
        logger.warning("A report could not be sent through the broker.", exc_info=True)


def _close_order(user: Any, topic: str | None, stream: str | None) -> dict[str, Any]:
    if user is None and topic is None and stream is None:
        raise TypeError("close_streams() needs a user, a topic or a stream.")
    key = None if user is None else str(getattr(user, "pk", user))
    return {"close": {"user": key, "topic": topic, "stream": stream}}


def newest_order() -> int:
    """Return the number of the newest order to end streams; for ``ended_since()``."""
    return _orders[-1][0] if _orders else 0


def ended_since(stream: Any, number: int) -> bool:
    """Return whether an order with a number above ``number`` would have ended a stream.

    Such an order came after the stream's user was authenticated, and before the stream could be
    found.
    """
    return any(given > number and _concerns(stream, wanted) for given, wanted in tuple(_orders))


def _concerns(stream: Any, wanted: dict[str, Any]) -> bool:
    return (
        wanted.get("user") in (None, user_key(stream.request.user))
        and (wanted.get("topic") is None or wanted["topic"] in stream.followed_topics)
        and wanted.get("stream") in (None, stream.stream_id)
    )


def _close(stream: Any, wanted: dict[str, Any]) -> None:
    """Revoke a stream that an order concerns. An error in a project's own code affects no other stream."""
    try:
        concerned = _concerns(stream, wanted)
    except Exception:
        # A user who cannot be compared must not go on receiving because of that.
        logger.exception(
            "%s is ended, because its user cannot be found.", type(stream).__qualname__
        )
        concerned = True
    if concerned:
        try:
            stream.revoke()
        except Exception:
            logger.exception("%s could not be ended.", type(stream).__qualname__)


def _report(loop: asyncio.AbstractEventLoop, *, listed: bool) -> dict[str, Any]:
    streams = roster.streams() if listed else []
    # A stream that began to end in this turn of the loop is still in the roster.
    mine = [it for it in streams if it.event_loop is loop and it.close_reason is None]
    return {
        "process": f"{platform.node()}:{os.getpid()}",
        # Containers may share a host name, and each may have the same process number.
        "id": _process_id(),
        "time": time.time(),
        "stats": stats(),
        "streams": [row for row in map(_described, mine[:MAX_LISTED]) if row],
    }


@functools.cache
def _process_id_of(pid: int) -> str:
    return uuid.uuid4().hex


def _process_id() -> str:
    return _process_id_of(os.getpid())  # A forked worker is another process.


def _described(stream: Any) -> dict[str, Any] | None:
    """Return the description of a stream; ``None`` where a project's own code raises."""
    try:
        description: dict[str, Any] = stream.describe()
    except Exception:
        logger.exception("%s could not be described.", type(stream).__qualname__)
        return None
    return description


def _check(order: Any) -> None:
    """Raise ``ValueError`` for an order that this package would not give."""
    if not isinstance(order, dict):
        raise ValueError("An order is a JSON object.")
    if not isinstance(order.get("close", {}), dict):
        raise ValueError("What to close is a JSON object.")
    # Otherwise a forged order could publish a report to a topic of the project.
    if not str(order.get("report", PASSING)).startswith(PASSING):
        raise ValueError("A report is for a topic of answers.")


def _encode(order: dict[str, Any]) -> bytes:
    return encode_head(json.dumps(order), None)


def _decode(message: Message) -> dict[str, Any]:
    [event] = EventDecoder().feed(message.encode())
    order: dict[str, Any] = json.loads(event.data or "")
    return order
