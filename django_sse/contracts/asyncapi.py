"""One AsyncAPI 3.0 document of a project's streams and their events.

Each stream is a channel whose address is the stream's path. Each declared event is a message of that
channel, and the application *sends* them (AsyncAPI 3.0.0, "Operation Object").
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Container, Iterator
from typing import Any
from urllib.parse import urlsplit

from django_sse.topics.declarations import Declared, alternatives

from .schemas import Schema, Schemas
from .streams import OWN_EVENTS, RoutedStream, declared_events, methods_of, routed_streams

VERSION = "3.0.0"

#: The version of AsyncAPI's HTTP binding in which an operation's method and query are described.
_HTTP_BINDING = "0.3.0"

_SCHEMAS = "#/components/schemas/"
_TEXT = "text/plain"
_JSON = "application/json"

#: The data of the events that streams send by themselves.
_OWN_DATA: dict[str, Schema] = {
    "reset": {"type": "object"},
    "dropped": {
        "type": "object",
        "properties": {"count": {"type": "integer"}},
        "required": ["count"],
    },
    "revoked": {"type": "object"},
}

_RESUME: Schema = {
    "type": "object",
    "properties": {
        "last_event_id": {
            "type": "string",
            "description": (
                "The id of the last event that a reconnecting client has seen. The header "
                "Last-Event-ID takes precedence."
            ),
        }
    },
}


def asyncapi_document(*, title: str, version: str, server: str | None = None) -> dict[str, Any]:
    """Return the AsyncAPI 3.0 document of the streams in the project's ``urls.py``.

    ``title`` and ``version`` are those of the project. ``server`` is the address at which it is
    deployed, such as ``https://shop.example/``. Without one, the document names no server. Raises
    ``ValueError`` for a ``server`` that is no such address.
    """
    document: dict[str, Any] = {"asyncapi": VERSION, "info": {"title": title, "version": version}}
    if server is not None:
        document["servers"] = {"default": _server(server)}
    channels: dict[str, Any] = {}
    operations: dict[str, Any] = {}
    schemas = Schemas(_SCHEMAS)
    for stream in routed_streams():
        key = _free_key(stream.name or type(stream.view).__name__, channels)
        channels[key] = _channel(stream, schemas)
        methods = methods_of(stream.view)
        for method in methods:
            # Tools make function names of the keys, so the method stands only where there are two.
            operation = f"send_{key}" if len(methods) == 1 else f"send_{key}_{method.lower()}"
            operations[_free_key(operation, operations)] = {
                "action": "send",
                "channel": {"$ref": f"#/channels/{key}"},
                "bindings": {
                    "http": {"method": method, "query": _RESUME, "bindingVersion": _HTTP_BINDING}
                },
            }
    return document | {
        "channels": channels,
        "operations": operations,
        "components": {"schemas": schemas.named},
    }


def _server(address: str) -> dict[str, str]:
    found = urlsplit(address)
    beside = found.username or found.query or found.fragment
    if found.scheme not in ("http", "https") or not found.hostname or beside:
        raise ValueError(f"It must be an address such as https://shop.example/, got {address!r}.")
    described = {"host": found.netloc, "protocol": found.scheme}
    pathname = found.path.rstrip("/")
    return {**described, "pathname": pathname} if pathname else described


def _channel(stream: RoutedStream, schemas: Schemas) -> dict[str, Any]:
    cls = type(stream.view)
    channel: dict[str, Any] = {"address": stream.path, "title": stream.name or cls.__name__}
    if cls.__doc__:
        channel["description"] = inspect.getdoc(cls)
    parameters: list[str] = re.findall(r"\{(\w+)\}", stream.path)
    if parameters:
        channel["parameters"] = {
            name: {"description": f"The argument {name} of the path."} for name in parameters
        }
    messages: dict[str, Any] = {}
    for message in _messages(stream.view, schemas):
        messages[_free_key(message["name"], messages)] = message
    channel["messages"] = messages
    return channel


def _messages(view: Any, schemas: Schemas) -> Iterator[dict[str, Any]]:
    events = declared_events(view)
    if not events:
        yield {
            "name": "event",
            "description": "The stream declares no events, so any may come.",
            "headers": _headers({"event": {"type": "string"}}),
            "payload": {},
        }
        return
    for name, either in events.items():
        of = [part for it in either for part in alternatives(it)]
        found: list[Schema] = []
        for part in of:
            schema = schemas.of(part, view.serializer_classes)
            # A client sees an event without data as an empty text.
            schema = {"const": ""} if schema == {"type": "null"} else schema
            if schema not in found:
                found.append(schema)
        message = {"name": name or "message", "headers": _headers_of(name)}
        kinds = {_content_type(part) for part in of}
        if len(kinds) == 1:
            [message["contentType"]] = kinds
        yield message | {"payload": found[0] if len(found) == 1 else {"anyOf": found}}
    for name, description in OWN_EVENTS.items():
        yield {
            "name": name,
            "description": description,
            "headers": _headers_of(name),
            "contentType": _JSON,
            "payload": _OWN_DATA[name],
        }


def _headers_of(name: str | None) -> Schema:
    if name is None:
        # Clients may show an event without a name as "message", as a browser does.
        return _headers({"event": {"const": "message"}})
    return {**_headers({"event": {"const": name}}), "required": ["event"]}


def _headers(event: Schema) -> Schema:
    fields = {"id": {"type": "string"}, "retry": {"type": "integer", "minimum": 0}}
    return {"type": "object", "properties": {**event, **fields}}


def _content_type(declared: Declared) -> str:
    # Text is sent as it is, everything else as JSON.
    text = declared is None or (isinstance(declared, type) and issubclass(declared, str))
    return _TEXT if text else _JSON


def _free_key(name: str, taken: Container[str]) -> str:
    # A reference with other characters would need escapes, which not all tools understand.
    key = re.sub(r"[^A-Za-z0-9_.-]+", "_", name)
    number, free = 2, key
    while free in taken:
        free, number = f"{key}_{number}", number + 1
    return free
