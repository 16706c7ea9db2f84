"""Start a job by a POST: once for its key, within ``MAX_JOBS``, and also if its client leaves."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from django.utils.crypto import salted_hmac
from rest_framework.exceptions import APIException, ParseError

from django_sse.connection.tasks import settle
from django_sse.exceptions import BrokerError, InvalidEvent
from django_sse.handshake.limits import ComeBackLater
from django_sse.wire.events import ServerSentEvent

from .background import background
from .records import Job, find
from .run import create, end

logger = logging.getLogger("django_sse")

#: The least length of an anonymous client's ``Idempotency-Key``: a client that knows it can
#: read the job.
LEAST_KEY = 16


class JobGone(APIException):
    """Answered to a POST with the ``Idempotency-Key`` of a job that is not kept any more."""

    status_code = 409
    default_detail = "The job of this Idempotency-Key has ended, and is not kept any more."
    default_code = "job_gone"


def id_of_key(key: str, *, view: str, owner: str | None) -> str:
    """Return the id of the job that a view starts for an owner's ``Idempotency-Key``.

    Raises ``ParseError`` for the short key of an anonymous client, whose ``owner`` is ``None``.
    """
    if owner is None and len(key) < LEAST_KEY:
        raise ParseError(
            f"The Idempotency-Key of an anonymous client must have at least {LEAST_KEY} "
            "characters, at random: who knows it can read the job."
        )
    value = json.dumps([view, owner, key])
    return salted_hmac("django_sse.jobs", value, algorithm="sha256").hexdigest()[:32]


def stored_event(
    event: ServerSentEvent, serialize: Callable[[Any], str]
) -> tuple[str | None, str | None]:
    """Return the text and the name of a job's first or last event, which are all that it stores.

    Raises ``InvalidEvent`` for an event with other fields, and what ``serialize()`` raises.
    """
    for name in ("id", "retry", "comments"):
        if (value := getattr(event, name)) is not None:
            raise InvalidEvent(
                f"The first and the last event of a job must have no {name}, got {value!r}: a "
                "job stores their data and their name. Send others in work().",
                field=name,
                value=value,
            )
    data: Any = event.data
    text = data if data is None or isinstance(data, str) else serialize(data)
    return text, event.event


async def find_started(job_id: str, *, keep: float) -> Job | None:
    """Return the job that an earlier POST with the same key has started, or ``None``.

    Raises ``JobGone`` if it ended more than ``keep`` seconds ago, and what ``find()`` raises.
    """
    job = await find(job_id)
    if job is not None and not job.is_kept(keep):
        raise JobGone
    return job


async def start(
    new: Job,
    begin: Callable[[Job], Awaitable[None]],
    *,
    once: bool,
    keep: float,
    needs_place: bool,
) -> Job:
    """Store a new job and await ``begin()`` with it; return the job as it is stored.

    With ``once``, a POST with the same key may have started it meanwhile. Then that job is
    returned, and nothing begins. With ``needs_place``, the work may run in this process, which
    takes ``MAX_JOBS`` of them. Where ``begin()`` raises, the job has failed.

    A cancellation does not stop it: a client that sends its POST again must not find a job that has
    failed because the first connection broke. Raises ``ComeBackLater`` where there is no place,
    ``JobGone``, ``BrokerError``, and what ``begin()`` raises.
    """
    if not needs_place:
        return await _shielded(new, begin, once=once, keep=keep)
    with background.place(new.id) as place:
        if not place:
            raise ComeBackLater("This server works on as many jobs as it takes.", status=503)
        return await _shielded(new, begin, once=once, keep=keep)


async def _shielded(
    new: Job, begin: Callable[[Job], Awaitable[None]], *, once: bool, keep: float
) -> Job:
    task = asyncio.get_running_loop().create_task(_start(new, begin, once=once, keep=keep))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await settle(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("A job of %s could not be started.", new.view, exc_info=error)
        raise


async def _start(
    new: Job, begin: Callable[[Job], Awaitable[None]], *, once: bool, keep: float
) -> Job:
    created = await create(new, once=once)
    if created is None:
        found = await find_started(new.id, keep=keep)
        if found is None:
            raise JobGone  # The broker still knows the key, but keeps the record no more.
        return found
    try:
        await begin(created)
    except BaseException:
        try:
            await end(created, "failed")
        except BrokerError:
            # Do not raise it: the caller would take the error of begin() for a broker that is away.
            logger.warning(
                "The end of the job %s could not be stored. Its clients get the end 'failed' when "
                "its lease runs out.",
                created.id,
                exc_info=True,
            )
        raise
    return created
