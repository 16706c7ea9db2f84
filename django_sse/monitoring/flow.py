"""Findings about the flow of a stream: when its bytes arrived, and how it ended."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from django_sse.brokers.base import EventId

from .findings import NGINX_BUFFERING, Finding
from .probe import Observation

#: Seconds after the headers within which a stream's first bytes must arrive.
FIRST_BYTES_SECONDS = 2.0
#: Seconds of silence after which a proxy may take the connection for dead.
SILENCE_SECONDS = 30.0
#: Seconds of silence before a connection was cut from which on that looks like a time limit.
IDLE_SECONDS = 2.0
#: Bytes that arrive within this many seconds count as arriving together.
LUMP_SECONDS = 0.05


def come_back_later(seen: Observation) -> Finding | None:
    """Return the finding for a stream that ends at once and has only a reconnection time; else ``None``."""
    at_once = seen.over_at - seen.head_at < FIRST_BYTES_SECONDS and not seen.cut
    has_data = any(event.data is not None for _, event in seen.events)
    if not seen.ended or not at_once or has_data or seen.retry is None:
        return None
    return Finding(
        "come-back-later",
        "problem",
        f"The stream ended at once, and asks to come back after {seen.retry} ms: the server is about "
        "to stop, or a limit is reached.",
        "Ask again in a while. The limits are MAX_CONNECTIONS, MAX_CONNECTIONS_PER_ADDRESS and a "
        "view's max_connections_per_user.",
    )


def timing(seen: Observation) -> Iterator[Finding]:
    """Yield findings about the times at which the bytes arrived."""
    listened = seen.over_at - seen.head_at
    first = seen.arrivals[0] if seen.arrivals else None
    has_data = any(event.data is not None for _, event in seen.events)
    late = (seen.over_at if first is None else first) - seen.head_at
    if late > FIRST_BYTES_SECONDS:
        came = "nothing of the stream" if first is None else "the stream's first bytes only"
        yield Finding(
            "buffered",
            "problem",
            f"The headers came after {seen.head_at:.1f} s, and {came} {late:.1f} s later. A stream "
            "sends something at once, so it is held back on the way.",
            NGINX_BUFFERING,
        )
    elif first is not None:
        yield Finding("first-bytes", "ok", f"The first bytes came after {first:.2f} s.")
    if (held := _held_back(seen)) is not None:
        yield Finding(
            "buffered",
            "problem",
            f"What was sent over {held} arrived together. Something on the way collects it.",
            NGINX_BUFFERING,
        )
    times = [seen.head_at, *seen.arrivals, seen.over_at]
    if seen.ended:
        yield _end(seen, silence=times[-1] - times[-2])
    longest = max(after - before for before, after in pairwise(times))
    if longest > SILENCE_SECONDS:
        yield Finding(
            "silent",
            "problem",
            f"Nothing came for {longest:.0f} s. Proxies and load balancers close what is silent, "
            "many after 60 s, and a client that vanished is noticed late.",
            'Send heartbeats: DJANGO_SSE["HEARTBEAT"]["PERIOD"] of 15 s is the default.',
        )
    elif len(seen.arrivals) > 1:
        yield Finding("alive", "ok", f"It was never silent for more than {longest:.1f} s.")
    elif not seen.ended:
        yield Finding(
            "short",
            "note",
            f"No heartbeat came within {listened:.0f} s, which may be too short to see one.",
            "Listen for longer, with --timeout.",
        )
    if seen.retry is not None:
        yield Finding("retry", "ok", f"Browsers reconnect {seen.retry} ms after it breaks.")
    else:
        yield Finding("retry", "ok", "Browsers reconnect after a few seconds of their own choice.")
    if seen.last_id:
        yield Finding("ids", "ok", "Events have ids: a client that reconnects can resume.")
    elif has_data:
        yield Finding(
            "ids", "note", "The events seen have no id: what happens meanwhile is not repeated."
        )


def _end(seen: Observation, *, silence: float) -> Finding:
    if silence >= IDLE_SECONDS:
        return Finding(
            "cut",
            "problem",
            f"The connection ended after {seen.over_at:.0f} s, of which the last {silence:.1f} s were "
            "silent: that looks like a time limit for silent connections.",
            f"Let heartbeats come more often than every {silence:.0f} s, or raise the limit "
            "(nginx: `proxy_read_timeout`; load balancers: idle time-out).",
        )
    if seen.cut:
        return Finding(
            "cut",
            "problem",
            f"The connection broke off after {seen.over_at:.1f} s, in the middle of the response.",
            "See whether the server or the proxy was restarted, or has a limit for the duration.",
        )
    return Finding("ended", "note", f"The stream ended by itself after {seen.over_at:.1f} s.")


def _held_back(seen: Observation) -> str | None:
    """Return, in words, what arrived together although it was sent at different times; else ``None``."""
    lumps: list[list[int]] = []
    last = None
    for number, (at, _) in enumerate(seen.events):
        if last is not None and at - last < LUMP_SECONDS:
            lumps[-1].append(number)
        else:
            lumps.append([number])
        last = at
    for lump in lumps:
        events = [seen.events[number][1] for number in lump]
        ids = [EventId.parse(event.id) for event in events if event.id is not None]
        times = [event_id.milliseconds for event_id in ids if event_id is not None]
        # The first lump may have the events that a resuming client had missed.
        if lump is not lumps[0] and times and max(times) - min(times) > 1000:
            return f"{(max(times) - min(times)) / 1000:.1f} s"
        beats = [event.comments for event in events if event.data is None and event.comments]
        if len(beats) > 1 and len(set(beats)) == 1:
            return f"{len(beats)} heartbeats"
    return None
