"""The doctor: finds what keeps a browser from a stream, and says it in plain words."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from urllib.parse import urljoin, urlsplit

from django_sse.brokers.base import EventId
from django_sse.wire.events import CONTENT_TYPE

from .probe import Observation, observe, protocol

#: How many redirects it follows.
MAX_REDIRECTS = 5
#: Seconds after the headers within which a stream's first bytes must arrive.
FIRST_BYTES_SECONDS = 2.0
#: Seconds of silence after which a proxy may take the connection for dead.
SILENCE_SECONDS = 30.0
#: Seconds of silence before a connection was cut from which on that looks like a time limit.
IDLE_SECONDS = 2.0
#: Bytes that arrive within this many seconds count as arriving together.
LUMP_SECONDS = 0.05

NGINX_BUFFERING = (
    "nginx: take out `proxy_ignore_headers X-Accel-Buffering`, or say `proxy_buffering off;` where "
    "the streams are. Others: switch the buffering of responses off for text/event-stream."
)
# A whole name ("sso" is in "lessons", too), or the parameter of Django's login pages.
_LOGIN_PAGE = re.compile(
    r"(?<![a-z])(login|log-in|signin|sign-in|sso)(?![a-z])|[?&]next=", re.IGNORECASE
)
LOGIN = "Give it what the browser has, for example --header 'Cookie: sessionid=…'."


# The remedy for a status, where it is not obvious.
_REMEDIES = {
    400: "Where this is Django's, its log tells why: often the host is not in ALLOWED_HOSTS.",
    404: "See the address, its last slash included, and what urls.py has; a connect() may say so too.",
    405: "The view does not offer GET, which is all that an EventSource can do.",
    406: "Something on the way has changed the header Accept: text/event-stream.",
    429: "A throttle of the view, most likely. Browsers reconnect by themselves: leave them room.",
    500: "The server's log has the traceback.",
}


@dataclass(frozen=True)
class Finding:
    """One finding; ``level`` is ``ok``, ``note`` or ``problem``."""

    code: str
    level: str
    text: str
    remedy: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """All findings for an address."""

    url: str
    findings: list[Finding]

    @property
    def problems(self) -> list[Finding]:
        """The findings that are problems."""
        return [finding for finding in self.findings if finding.level == "problem"]


def examine(
    url: str,
    *,
    headers: Mapping[str, str] | None = None,
    seconds: float = 35.0,
    insecure: bool = False,
) -> Diagnosis:
    """Connect like a browser, listen for ``seconds``, and return the findings.

    Takes twice as long where the stream arrives compressed: the second request asks for it without
    compression, to find other problems. ``insecure`` accepts any certificate. Raises ``ValueError``
    for an address or headers that cannot be sent.
    """
    given = dict(headers or {})
    findings: list[Finding] = []
    for _ in range(MAX_REDIRECTS + 1):
        seen = observe(url, headers=given, seconds=seconds, insecure=insecure)
        if seen.status not in {301, 302, 303, 307, 308}:
            break
        target = urljoin(url, seen.headers.get("location", ""))
        finding = _redirect(url, target, seen)
        findings.append(finding)
        if finding.level == "problem":
            return Diagnosis(url, findings)
        url = target
    else:
        findings.append(Finding("redirects", "problem", f"More than {MAX_REDIRECTS} redirects."))
        return Diagnosis(url, findings)
    if not seen.status and seen.failure is None:
        # Not even headers came. Ask by HEAD, which has no body that a proxy could wait for.
        head = observe(url, headers=given, seconds=0, method="HEAD", insecure=insecure)
        findings.append(_no_head(seen, head))
        return Diagnosis(url, findings)
    refusal = _not_a_stream(seen)
    if refusal is not None:
        findings.append(refusal)
        return Diagnosis(url, findings)
    findings.append(Finding("stream", "ok", f"It answers {seen.status} with {CONTENT_TYPE}."))
    if (later := _come_back_later(seen)) is not None:
        return Diagnosis(url, [*findings, later])
    encoding = seen.headers.get("content-encoding", "identity")
    if encoding != "identity":
        findings.append(_compressed(encoding))
        plain = {**given, "Accept-Encoding": "identity"}
        seen = observe(url, headers=plain, seconds=seconds, insecure=insecure)
    findings += _headers(seen)
    findings += _flow(seen)
    findings += _transport(url, seen, protocol(url, insecure=insecure))
    return Diagnosis(url, findings)


def _redirect(url: str, target: str, seen: Observation) -> Finding:
    before, after = urlsplit(url), urlsplit(target)
    if _LOGIN_PAGE.search(f"{after.path}?{after.query}") and not _LOGIN_PAGE.search(before.path):
        return Finding(
            "login",
            "problem",
            f"It answers {seen.status} and sends the browser to {target}, which looks like a login "
            "page. An EventSource cannot log in: it meets HTML there, and gives up.",
            LOGIN,
        )
    if (before.scheme, before.netloc) != (after.scheme, after.netloc):
        return Finding(
            "redirect",
            "problem",
            f"It answers {seen.status} and sends the browser to {target}, another origin, where it "
            "needs CORS and other cookies.",
            f"Connect to {target} directly.",
        )
    return Finding(
        "redirect",
        "note",
        f"It answers {seen.status}: each connection takes a way round by {target}.",
        "Use that address in the page.",
    )


def _no_head(seen: Observation, head: Observation) -> Finding:
    if head.status == 200 and head.media_type == CONTENT_TYPE:
        return Finding(
            "buffered",
            "problem",
            f"Nothing of the stream arrived within {seen.over_at:.0f} s, not even its headers, though "
            f"the same address answers HEAD within {head.head_at:.1f} s. Something on the way "
            "buffers: it collects the response and passes it on when there is enough of it.",
            NGINX_BUFFERING,
        )
    return Finding(
        "no-answer",
        "problem",
        f"The connection was accepted, and nothing was answered within {seen.over_at:.0f} s.",
        "Ask the server directly, without the proxy: if it answers there, the proxy holds the "
        "response back; if not, look at the view's connect() and at the server's log.",
    )


def _not_a_stream(seen: Observation) -> Finding | None:
    if seen.failure is not None:
        return Finding("unreachable", "problem", f"There is no connection: {seen.failure}.")
    status = f"{seen.status} {seen.reason}".strip()
    if seen.status == 204:
        return Finding(
            "finished",
            "problem",
            "It answers 204: there is nothing (more) to stream, and browsers stop reconnecting.",
        )
    if seen.status in {401, 403}:
        return Finding(
            "refused",
            "problem",
            f"It answers {status}: this client may not open the stream.",
            LOGIN,
        )
    if seen.status in {502, 504} or (seen.status == 503 and "nginx" in _server(seen)):
        return Finding(
            "gateway",
            "problem",
            f"It answers {status}: the proxy does not get through to the server.",
            "See whether the server runs, and listens where the proxy looks for it.",
        )
    if seen.status != 200:
        wait = seen.headers.get("retry-after")
        later = f" It says to come back after {wait} s." if wait else ""
        return Finding(
            "status",
            "problem",
            f"It answers {status}, and an EventSource accepts 200 only: to it, that is the end."
            f"{later}",
            _REMEDIES.get(seen.status, ""),
        )
    if seen.media_type != CONTENT_TYPE:
        title = re.search(rb"<title[^>]*>\s*([^<]*?)\s*</title>", seen.start, re.IGNORECASE)
        page = f", a page with the title {title[1].decode(errors='replace')!r}" if title else ""
        login = b"password" in seen.start.lower()
        return Finding(
            "login" if login else "content-type",
            "problem",
            f"It answers 200 with {seen.media_type or 'no Content-Type'}{page}, and not with "
            f"{CONTENT_TYPE}" + (": it looks like a login page." if login else "."),
            LOGIN if login else "See which view the address leads to, and what middleware does.",
        )
    return None


def _compressed(encoding: str) -> Finding:
    return Finding(
        "compressed",
        "problem",
        f"The stream arrives compressed ({encoding}). Compression collects bytes before it gives "
        "any out, so events may come late, in lumps, or never.",
        "Leave text/event-stream out of what is compressed. nginx: out of `gzip_types`, which must "
        "not be `*` either.",
    )


def _headers(seen: Observation) -> Iterator[Finding]:
    headers = seen.headers
    control = headers.get("cache-control", "").lower()
    if not {"no-store", "no-cache"} & {part.strip() for part in control.split(",")}:
        yield Finding(
            "cache-control",
            "problem",
            f"Cache-Control is {control or 'missing'}: what is on the way may keep the stream, and "
            "give it to others.",
            "The view sends `no-store, no-transform`; see what takes it off.",
        )
    elif "no-transform" not in control:
        yield Finding(
            "no-transform",
            "note",
            f"Cache-Control is {control}, without no-transform, which asks proxies not to compress.",
        )
    if "x-accel-buffering" not in headers and "nginx" not in _server(seen):
        yield Finding(
            "x-accel-buffering",
            "note",
            "X-Accel-Buffering is missing. An nginx on the way takes it off when it has obeyed it; "
            "if there is none, something else did, or the stream is not one of django_sse.",
        )
    if "content-length" in headers:
        yield Finding(
            "content-length",
            "problem",
            f"The response says that it has {headers['content-length']} bytes: something on the way "
            "has waited for all of it.",
            NGINX_BUFFERING,
        )
    if "age" in headers or "hit" in headers.get("x-cache", "").lower():
        yield Finding(
            "cached",
            "problem",
            "The response comes from a cache (Age, X-Cache).",
            "Except the address from caching.",
        )


def _come_back_later(seen: Observation) -> Finding | None:
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


def _flow(seen: Observation) -> Iterator[Finding]:
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


def _transport(url: str, seen: Observation, spoken: str) -> Iterator[Finding]:
    if spoken == "h2":
        yield Finding("protocol", "ok", "Browsers speak HTTP/2 here: all tabs share a connection.")
        return
    yield Finding(
        "protocol",
        "note",
        f"Browsers speak HTTP/{'1.0' if seen.version == 10 else '1.1'} here, and open six connections "
        "to a host at the most, over all tabs: the seventh stream waits, and all else with it.",
        "Offer HTTP/2, which browsers want with TLS (nginx: `listen 443 ssl http2;`).",
    )
    if seen.version == 10:
        yield Finding(
            "http-1.0",
            "note",
            "The answer is HTTP/1.0: a stream that broke off cannot be told from one that ended.",
            'nginx: `proxy_http_version 1.1;` and `proxy_set_header Connection "";`.',
        )


def _server(seen: Observation) -> str:
    return seen.headers.get("server", "").lower()
