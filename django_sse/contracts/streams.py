"""The streams of a project, found in its ``urls.py``, and one document that describes them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from django.contrib.admindocs.utils import (
    remove_non_capturing_groups,
    replace_metacharacters,
    replace_named_groups,
    replace_unnamed_groups,
)
from django.urls import URLPattern, get_resolver
from django.urls.resolvers import RoutePattern

from django_sse.jobs.view import JobView
from django_sse.streams.following import topics_of_class
from django_sse.topics.declarations import RESERVED, Declared
from django_sse.views import SSEView
from django_sse.wire.events import ServerSentEvent

from .schemas import Schemas

#: Events that streams send by themselves, and what they say.
OWN_EVENTS = {
    "reset": "Events were lost: forget what is shown, and build it again from what follows.",
    "dropped": "This slow client did not get as many events as the data says.",
    "revoked": "The stream was ended by the server, for example as its user lost a permission.",
}

_METHODS = ("get", "post", "put", "patch", "delete")


class RoutedStream(NamedTuple):
    """A stream and its place: the path has ``{name}`` for each argument of the route."""

    path: str
    name: str | None
    view: Any


def routed_streams() -> list[RoutedStream]:
    """Return the streams of the project's ``urls.py``, in its order."""
    return list(_found(get_resolver().url_patterns, "/", ()))


def methods_of(view: Any) -> list[str]:
    """Return the HTTP methods with which a client opens the stream."""
    # A job's DELETE cancels it, and answers without a stream.
    opening = [it for it in _METHODS if it != "delete" or not isinstance(view, JobView)]
    return [it.upper() for it in view.http_method_names if it in opening]


def declared_events(view: Any) -> dict[str | None, list[Declared]]:
    """Return what the view and its topics declare of each event, and the heartbeat where clients see it.

    Of one name, either may come.
    """
    found: dict[str | None, list[Declared]] = {}
    for declaration in view.declarations(topics_of_class(view)):
        for name, declared in declaration.events.items():
            either = found.setdefault(name, [])
            if declared not in either:
                either.append(declared)
    beat = _heartbeat_event(view)
    # Where nothing is declared, any event may come.
    if beat is not None and found:
        name = None if beat.event == "message" else beat.event
        found.setdefault(name, [type(beat.data)])
    return found


def document() -> dict[str, Any]:
    """Return what clients may rely on: each stream with its events, and the schemas of their data.

    The schemas are JSON Schema 2020-12. A stream that declares no events has ``events`` of
    ``None``: any may come.
    """
    schemas = Schemas()
    streams = [_described(it, schemas) for it in routed_streams()]
    return {"streams": streams, "schemas": schemas.named}


def _found(patterns: Any, prefix: str, namespaces: tuple[str, ...]) -> Iterator[RoutedStream]:
    for pattern in patterns:
        path = prefix + _template(pattern.pattern)
        if not isinstance(pattern, URLPattern):
            inner = (*namespaces, pattern.namespace) if pattern.namespace else namespaces
            yield from _found(pattern.url_patterns, path, inner)
            continue
        cls = getattr(pattern.callback, "cls", None)
        if path.removesuffix("/").endswith(".{format}"):
            continue  # A DRF router's other address of a stream that is there already.
        if isinstance(cls, type) and issubclass(cls, SSEView):
            name = ":".join((*namespaces, pattern.name)) if pattern.name else None
            initkwargs = getattr(pattern.callback, "initkwargs", {})
            yield RoutedStream(path, name, cls(**initkwargs))


def _template(pattern: Any) -> str:
    if isinstance(pattern, RoutePattern):
        return re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", str(pattern))
    text = remove_non_capturing_groups(str(pattern))
    text = replace_metacharacters(replace_unnamed_groups(replace_named_groups(text)))
    text = re.sub(r"\\([-./])", r"\1", text)  # "\." of a regular expression is a dot.
    return re.sub(r"<(\w+)>", r"{\1}", text).removeprefix("/")


def _described(stream: RoutedStream, schemas: Schemas) -> dict[str, Any]:
    view = stream.view
    cls = type(view)
    declared = declared_events(view)
    events = None
    if declared:
        events = [
            {"event": name, "schema": schemas.of(it, view.serializer_classes)}
            for name, either in declared.items()
            for it in either
        ]
        # Events that streams send by themselves have text that clients need not read.
        events += [{"event": name, "schema": {}} for name in sorted(RESERVED)]
    return {
        "path": stream.path,
        "name": stream.name,
        "view": f"{cls.__module__}.{cls.__qualname__}",
        "description": inspect.getdoc(cls) if cls.__doc__ else "",
        "methods": methods_of(view),
        "topics": [str(topic) for topic in topics_of_class(view)],
        "events": events,
    }


def _heartbeat_event(view: Any) -> ServerSentEvent | None:
    """Return the event that is the view's heartbeat, where it is one that clients see."""
    heartbeat = view._own_heartbeat()
    event = heartbeat.event if heartbeat else None
    # A callable may return any event.
    return event if isinstance(event, ServerSentEvent) and event.data is not None else None
