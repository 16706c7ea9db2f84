"""Findings about an answer: its status, its headers, and the version of HTTP."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import urlsplit

from django_sse.wire.events import CONTENT_TYPE

from .findings import NGINX_BUFFERING, Finding
from .probe import Observation

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
    406: (
        "Is it the address of a stream? An ordinary endpoint of Django REST framework answers this. "
        "If it is, something on the way has changed the header Accept: text/event-stream."
    ),
    429: "A throttle of the view, most likely. Browsers reconnect by themselves: leave them room.",
    500: "The server's log has the traceback.",
}


def redirect(url: str, target: str, seen: Observation) -> Finding:
    """Return the finding for a redirect: a login page, another origin, or a detour."""
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


def no_head(seen: Observation, head: Observation) -> Finding:
    """Return the finding where no headers came; ``head`` is the answer to a HEAD."""
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


def not_a_stream(seen: Observation) -> Finding | None:
    """Return the finding for an answer that is not a stream; ``None`` for a stream."""
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


def compressed(encoding: str) -> Finding:
    """Return the finding for a stream that arrives compressed."""
    return Finding(
        "compressed",
        "problem",
        f"The stream arrives compressed ({encoding}). Compression collects bytes before it gives "
        "any out, so events may come late, in lumps, or never.",
        "Leave text/event-stream out of what is compressed. nginx: out of `gzip_types`, which must "
        "not be `*` either.",
    )


def headers(seen: Observation) -> Iterator[Finding]:
    """Yield findings about the headers of a stream."""
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


def transport(url: str, seen: Observation, spoken: str) -> Iterator[Finding]:
    """Yield findings about the version of HTTP; ``spoken`` is what a browser would use."""
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
