"""Requests a stream as a browser does, and notes which bytes arrive when.

Uses only the standard library, and knows nothing of Django.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import quote, urlsplit

from django_sse.wire.events import CONTENT_TYPE, EventDecoder, ServerSentEvent

#: The least and the most seconds to wait for the headers; within them, as long as it listens.
HEAD_SECONDS = (2.0, 10.0)
#: The headers of an ``EventSource``. A stream whose encoding cannot be decoded here is requested
#: again without one.
BROWSER_HEADERS = {
    "Accept": CONTENT_TYPE,
    "Accept-Encoding": "gzip, deflate, br, zstd",
    "Cache-Control": "no-cache",
    "User-Agent": "Mozilla/5.0 (compatible; django_sse sse_doctor)",
}
#: How many bytes of the body are kept.
KEPT = 2048


@dataclass
class Observation:
    """The outcome of one request. Times are seconds since it was sent."""

    #: Why there is no response, in words; ``None`` if there is one, or if none came in time.
    failure: str | None = None
    #: 0 if no response came in time.
    status: int = 0
    reason: str = ""
    #: 10 or 11.
    version: int = 11
    #: The headers, by lower-case name.
    headers: dict[str, str] = field(default_factory=dict)
    head_at: float = 0.0
    #: When each piece of the body arrived.
    arrivals: list[float] = field(default_factory=list)
    events: list[tuple[float, ServerSentEvent]] = field(default_factory=list)
    #: The first bytes of the body, decompressed.
    start: bytes = b""
    retry: int | None = None
    last_id: str = ""
    #: Whether the response ended, and whether it was cut off.
    ended: bool = False
    cut: bool = False
    #: When the response or the listening ended.
    over_at: float = 0.0

    @property
    def media_type(self) -> str:
        """The response's media type, without parameters."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()


def observe(
    url: str,
    *,
    headers: Mapping[str, str],
    seconds: float,
    method: str = "GET",
    insecure: bool = False,
) -> Observation:
    """Make a request, and listen to its response for ``seconds`` or until it ends.

    Raises ``ValueError`` for an address or headers that cannot be sent.
    """
    least, most = HEAD_SECONDS
    timeout = min(max(seconds, least), most)
    connection = _connection(url, timeout, insecure=insecure)
    seen = Observation()
    began = time.monotonic()
    try:
        # Browsers send UTF-8. http.client would refuse a str that is not Latin-1.
        sent = {n: v.encode() for n, v in {**BROWSER_HEADERS, **headers}.items()}
        connection.request(method, _target(url), headers=sent)
        stream: socket.socket = connection.sock
        response = connection.getresponse()
    except TimeoutError:
        seen.over_at = time.monotonic() - began
        if connection.sock is None:
            seen.failure = "no answer came in time"
        connection.close()
        return seen
    except (OSError, http.client.HTTPException) as error:
        connection.close()
        seen.failure = _in_words(error)
        return seen
    with response:
        seen.head_at = seen.over_at = time.monotonic() - began
        seen.status, seen.reason, seen.version = response.status, response.reason, response.version
        seen.headers = {name.lower(): value for name, value in response.getheaders()}
        _listen(response, stream, seen, began, seconds)
    connection.close()
    return seen


def _in_words(error: Exception) -> str:
    match error:
        case ssl.SSLCertVerificationError():
            return f"its certificate is not trusted ({error.verify_message})"
        case ssl.SSLError() if getattr(error, "reason", None) == "WRONG_VERSION_NUMBER":
            return (
                "what answers there speaks no TLS: ask for http://, or see what listens on the port"
            )
        case ssl.SSLError():
            return f"TLS fails ({error})"
        case ConnectionRefusedError():
            return "it was refused, no server listens there: see whether the server runs, and on which port"
        case socket.gaierror():
            return "the host has no address: see whether its name is right"
        case ConnectionResetError() | http.client.RemoteDisconnected():
            return "the connection was closed without an answer"
        case OSError() if error.strerror:
            return f"{error.strerror} ({type(error).__name__})"
        case http.client.HTTPException():
            return f"what answers there speaks no HTTP ({type(error).__name__}: {error})"
    return f"{type(error).__name__}: {error}"


def protocol(url: str, *, insecure: bool = False) -> str:
    """Return the protocol that a browser would use there: ``"h2"`` or ``"http/1.1"``."""
    parts = urlsplit(url)
    if parts.scheme != "https" or parts.hostname is None:
        return "http/1.1"
    context = _tls(insecure=insecure)
    context.set_alpn_protocols(["h2", "http/1.1"])
    address = (parts.hostname, parts.port or 443)
    try:
        with (
            socket.create_connection(address, timeout=HEAD_SECONDS[1]) as plain,
            context.wrap_socket(plain, server_hostname=parts.hostname) as secured,
        ):
            return secured.selected_alpn_protocol() or "http/1.1"
    except OSError:
        return "http/1.1"


def _listen(
    response: http.client.HTTPResponse,
    stream: socket.socket,
    seen: Observation,
    began: float,
    seconds: float,
) -> None:
    decoder = EventDecoder()
    inflate = _Inflate() if seen.headers.get("content-encoding") in {"gzip", "deflate"} else None
    deadline = began + seen.head_at + seconds
    while (left := deadline - time.monotonic()) > 0:
        stream.settimeout(left)
        try:
            data = response.read1(65536)
        except TimeoutError:
            break
        except (OSError, http.client.HTTPException):
            seen.ended = seen.cut = True
            break
        if not data:
            seen.ended = True
            break
        now = time.monotonic() - began
        seen.arrivals.append(now)
        if inflate is not None:
            data = inflate(data)
        seen.start = (seen.start + data)[:KEPT]
        seen.events += [(now, event) for event in decoder.feed(data)]
    seen.over_at = time.monotonic() - began
    seen.retry, seen.last_id = decoder.retry, decoder.last_event_id


class _Inflate:
    """Decodes gzip and deflate piece by piece, also where each piece was compressed separately."""

    def __init__(self) -> None:
        self._member = zlib.decompressobj(47)

    def __call__(self, data: bytes) -> bytes:
        plain = b""
        while data:
            try:
                plain += self._member.decompress(data)
            except zlib.error:
                return plain  # The bytes so far are enough for a finding.
            data = self._member.unused_data
            if self._member.eof:
                self._member = zlib.decompressobj(47)
        return plain


def _connection(url: str, timeout: float, *, insecure: bool) -> http.client.HTTPConnection:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError(f"An address like https://example.com/orders/ is needed, got {url!r}.")
    if parts.username is not None:
        raise ValueError(
            "A name and a password in the address are sent by no browser. Send a header: "
            "--header 'Authorization: …'."
        )
    if parts.scheme == "https":
        return http.client.HTTPSConnection(
            parts.hostname, parts.port, timeout=timeout, context=_tls(insecure=insecure)
        )
    return http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout)


def _tls(*, insecure: bool) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _target(url: str) -> str:
    parts = urlsplit(url)
    target = parts.path or "/"
    if parts.query:
        target = f"{target}?{parts.query}"
    return quote(target, safe="/?:@!$&'()*+,;=%-._~[]|")
