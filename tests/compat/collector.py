"""A collector on 127.0.0.1 that takes what agents report, and says it in one language: spans and errors."""

from __future__ import annotations

import gzip
import json
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any


@dataclass(frozen=True)
class Span:
    """A span or a transaction that an agent has reported as ended."""

    name: str
    #: All that it says of where it was, to look for a path in.
    place: str
    seconds: float
    failed: bool


@dataclass(frozen=True)
class Error:
    """An exception that an agent has reported."""

    kind: str
    place: str


class Collector:
    """Takes the reports of Sentry, Datadog, Elastic APM, and of what speaks OTLP."""

    def __init__(self) -> None:
        self._requests: list[tuple[str, bytes]] = []
        self._changed = threading.Condition()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = _decoded(_body(self), self.headers.get("Content-Encoding", ""))
                with collector._changed:
                    collector._requests.append((self.path, body))
                    collector._changed.notify_all()
                self._answer()

            def do_PUT(self) -> None:
                self.do_POST()

            def do_GET(self) -> None:
                self._answer()

            def _answer(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.address = f"127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Collector:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def spans(self) -> list[Span]:
        """Return what has been reported as ended so far."""
        return [item for item in self._items() if isinstance(item, Span)]

    def errors(self) -> list[Error]:
        """Return the exceptions that have been reported so far."""
        return [item for item in self._items() if isinstance(item, Error)]

    def wait_for(self, condition: Callable[[], Any], seconds: float = 10.0) -> bool:
        """Wait until a condition on what was reported holds; return whether it does."""
        deadline = time.monotonic() + seconds
        with self._changed:
            while not condition():
                left = deadline - time.monotonic()
                if left <= 0 or not self._changed.wait(left):
                    return bool(condition())
        return True

    def _items(self) -> Iterator[Span | Error]:
        for path, body in list(self._requests):
            if "/envelope" in path:
                yield from _sentry(body)
            elif path.startswith("/v1/traces"):
                yield from _otlp(body)
            elif path.endswith("/traces"):
                yield from _datadog(body)
            elif path.startswith("/intake/"):
                yield from _elastic(body)


def _body(handler: BaseHTTPRequestHandler) -> bytes:
    length = handler.headers.get("Content-Length")
    if length is not None:
        return handler.rfile.read(int(length))
    body = b""
    while size := int(handler.rfile.readline(), 16):
        body += handler.rfile.read(size)
        handler.rfile.readline()
    handler.rfile.readline()
    return body


def _decoded(body: bytes, encoding: str) -> bytes:
    if encoding == "gzip":
        return gzip.decompress(body)
    if encoding == "deflate":
        return zlib.decompress(body)
    return body


def _sentry(body: bytes) -> Iterator[Span | Error]:
    """An envelope: a line of headers, then each item's headers and its payload."""
    _, _, rest = body.partition(b"\n")
    while rest:
        head, _, rest = rest.partition(b"\n")
        if not head:
            continue
        header = json.loads(head)
        length = header.get("length")
        if length is None:
            payload, _, rest = rest.partition(b"\n")
        else:
            payload, rest = rest[:length], rest[length:].lstrip(b"\n")
        if header["type"] not in {"event", "transaction"}:
            continue
        event = json.loads(payload)
        place = f"{event.get('request', {}).get('url', '')} {event.get('transaction', '')}"
        if header["type"] == "event":
            for value in event.get("exception", {}).get("values", ())[-1:]:
                yield Error(value["type"], place)
            continue
        status = event.get("contexts", {}).get("trace", {}).get("status", "ok")
        seconds = _sentry_seconds(event)
        yield Span(event["transaction"], place, seconds, "error" in status)
        for span in event.get("spans", ()):
            text = f"{span.get('op')} {span.get('description')}"
            yield Span(text, place, _sentry_seconds(span), False)


def _sentry_seconds(item: Any) -> float:
    def at(value: Any) -> float:
        return value if isinstance(value, float) else datetime.fromisoformat(value).timestamp()

    return at(item["timestamp"]) - at(item["start_timestamp"])


def _otlp(body: bytes) -> Iterator[Span | Error]:
    # The bench's environment has it; the tests that read the table have not.
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
        ExportTraceServiceRequest,
    )

    for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
        for scope in resource.scope_spans:
            for span in scope.spans:
                attributes = {each.key: each.value.string_value for each in span.attributes}
                if attributes.get("logfire.span_type") == "pending_span":
                    continue  # Logfire's word that a span has begun.
                place = f"{span.name} {' '.join(attributes.values())}"
                seconds = (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9
                yield Span(span.name, place, seconds, span.status.code == 2)
                for event in span.events:
                    for each in event.attributes:
                        if each.key == "exception.type":
                            kind = each.value.string_value.rpartition(".")[2]
                            yield Error(kind, place)


def _datadog(body: bytes) -> Iterator[Span | Error]:
    import msgpack  # As above.

    for trace in msgpack.unpackb(body, raw=False, strict_map_key=False):
        for span in trace:
            meta = span.get("meta", {})
            place = f"{span['resource']} {meta.get('http.url', '')} {meta.get('http.route', '')}"
            failed = bool(span.get("error"))
            yield Span(f"{span['name']} {span['resource']}", place, span["duration"] / 1e9, failed)
            if "error.type" in meta:
                yield Error(meta["error.type"].rpartition(".")[2], place)


def _elastic(body: bytes) -> Iterator[Span | Error]:
    for line in body.splitlines():
        for kind, item in json.loads(line).items() if line.strip() else ():
            if kind not in {"transaction", "span", "error"}:
                continue
            url = item.get("context", {}).get("request", {}).get("url", {}).get("full", "")
            place = f"{item.get('name', '')} {url} {item.get('transaction', {}).get('name', '')}"
            if kind == "error":
                yield Error(item["exception"]["type"], place)
            else:
                failed = item.get("outcome") == "failure"
                yield Span(item["name"], place, item["duration"] / 1e3, failed)
