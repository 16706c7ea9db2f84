"""Streams in the OpenAPI document of drf-spectacular: their events, parameters, security and errors.

``django_sse`` loads it where ``drf_spectacular`` is in ``INSTALLED_APPS``. With ``OAS_VERSION`` 3.2, the events are
the ``itemSchema`` of ``text/event-stream`` (OpenAPI 3.2.0, "Media Type Object"). Documents of 3.0
and 3.1 know no such field: there, it is the extension ``x-itemSchema``.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Iterator
from typing import Any

import uritemplate
from drf_spectacular.extensions import OpenApiAuthenticationExtension, OpenApiViewExtension
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.plumbing import build_basic_type, resolve_type_hint
from drf_spectacular.settings import spectacular_settings
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, inline_serializer
from rest_framework.permissions import AllowAny
from rest_framework.serializers import BaseSerializer, BooleanField, CharField, DateTimeField

from django_sse.contracts.streams import OWN_EVENTS, declared_events
from django_sse.handshake.form import serializer_of_body
from django_sse.handshake.page import is_browsable
from django_sse.jobs.view import HEADER, JobView
from django_sse.rows.view import ModelSSEView
from django_sse.tickets import TicketAuthentication
from django_sse.topics.declarations import Declared, alternatives, declaring
from django_sse.wire.events import CONTENT_TYPE
from django_sse.wire.serialization import find_serializer

_ERRORS = {
    "400": "The request was refused.",
    "401": "Authentication credentials are missing or wrong.",
    "403": "The user may not open the stream.",
    "404": "There is no such stream.",
    "409": "The job of this Idempotency-Key has ended, and is not kept any more.",
    "406": "The client does not accept text/event-stream.",
    "415": "The body is of a type that the stream does not read.",
    "429": "Too many requests, or too many streams; see Retry-After.",
    "503": "The server stops, or has as many streams as it takes; see Retry-After.",
}


class EventStreamSchema(AutoSchema):
    """Describes the operations of a stream."""

    view: Any

    # drf-spectacular leaves out DRF's parameters, too.
    def get_description(self) -> str:  # type: ignore[override]
        """Return the view's description, and where its live page is."""
        description: str = super().get_description()
        if self.method == "GET" and is_browsable(self.view) and "{" not in self.path:
            # An interactive document's request would wait for the end of the stream.
            page = f"Do not execute it here: open [its live page]({self.path}) in a browser."
            description = f"{description}\n\n{page}".strip()
        return description

    def get_override_parameters(self) -> list[Any]:
        """Return the parameters with which a client resumes, and its ticket."""
        text = "The id of the last event that a reconnecting client has seen."
        found: list[Any] = [
            *super().get_override_parameters(),
            OpenApiParameter(
                "Last-Event-ID", OpenApiTypes.STR, OpenApiParameter.HEADER, description=text
            ),
            OpenApiParameter(
                "last_event_id",
                OpenApiTypes.STR,
                description=f"{text} For pages; the header takes precedence.",
            ),
        ]
        if any(issubclass(it, TicketAuthentication) for it in self.view.authentication_classes):
            found.append(
                OpenApiParameter("ticket", OpenApiTypes.STR, description="A ticket for this path.")
            )
        return found

    def get_request_serializer(self) -> Any:
        """Return the serializer of a POST's body: the view's ``get_serializer()`` or ``serializer_class``."""
        return serializer_of_body(self.view) or OpenApiTypes.OBJECT

    def get_response_serializers(self) -> Any:
        """Return none: the response has a schema of its own."""
        return {}

    def _is_list_view(self, serializer: Any = None) -> bool:
        # A stream of rows has an operation of its own for one row, and the parameters of its filters.
        return isinstance(self.view, ModelSSEView) and not self.view.is_of_one_row(
            uritemplate.variables(self.path)
        )

    def _get_response_bodies(self, direction: Any = "response") -> dict[str, Any]:
        responses: dict[str, Any] = {
            "200": {
                "description": "The stream of events (WHATWG HTML, 9.2).",
                "content": {CONTENT_TYPE: self._stream()},
            },
            "204": {"description": "There is nothing (more) to stream. Clients do not reconnect."},
        }
        error = {"type": "object", "properties": {"detail": {"type": "string"}}}
        for status in self._errors():
            responses[status] = {
                "description": _ERRORS[status],
                "content": {"application/json": {"schema": error}},
            }
        return responses

    def _errors(self) -> Iterator[str]:
        if self.method != "GET":
            yield "400"
        authenticators = self.view.get_authenticators()
        # Wrong credentials are refused also where none are needed.
        if authenticators or any(it is not AllowAny for it in self.view.permission_classes):
            # DRF answers 401 where the first authenticator says how to authenticate.
            if authenticators and authenticators[0].authenticate_header(self.view.request):
                yield "401"
            yield "403"
        if "{" in self.path:
            yield "404"
        yield "406"
        if self.method != "GET":
            yield "415"
        yield from ("429", "503")

    def _stream(self) -> dict[str, Any]:
        item = self._item()
        if spectacular_settings.OAS_VERSION.startswith("3.2"):
            return {"itemSchema": item}
        names = [name or "message" for name in declared_events(self.view)]
        text = f"Events: {', '.join(names)}." if names else "Events."
        return {"schema": {"type": "string", "description": text}, "x-itemSchema": item}

    def _item(self) -> dict[str, Any]:
        item: dict[str, Any] = {
            "type": "object",
            "properties": {
                "event": {"type": "string"},
                "data": {"type": "string"},
                "id": {"type": "string"},
                "retry": {"type": "integer", "minimum": 0},
            },
        }
        events = declared_events(self.view)
        if events:
            item["oneOf"] = [self._event(name, either) for name, either in events.items()]
            item["oneOf"] += [
                {
                    "description": text,
                    "properties": {"event": {"const": name}},
                    "required": ["event", "data"],
                }
                for name, text in OWN_EVENTS.items()
            ]
        return item

    def _event(self, name: str | None, either: list[Declared]) -> dict[str, Any]:
        event: dict[str, Any] = {"properties": {}, "required": ["data"]}
        if name is None:
            # Clients may show an event without a name as "message", as a browser does.
            event["properties"]["event"] = {"const": "message"}
        else:
            event["properties"]["event"] = {"const": name}
            event["required"] = ["event", "data"]
        declared = [part for it in either for part in alternatives(it)]
        event["properties"]["data"] = self._data(declared)
        return event

    def _data(self, declared: list[Declared]) -> dict[str, Any]:
        """Return the schema of the text of an event that is declared as one of several."""
        texts = [it for it in declared if isinstance(it, type) and issubclass(it, str)]
        objects = [it for it in declared if it is not None and it not in texts]
        schemas: list[dict[str, Any]] = []
        if objects:
            found = [self._schema_of(it) for it in objects]
            schemas.append(
                {
                    "type": "string",
                    "contentMediaType": "application/json",
                    "contentSchema": found[0] if len(found) == 1 else {"anyOf": found},
                }
            )
        if texts:
            schemas.append({"type": "string"})
        if None in declared:
            schemas.append({"const": ""})
        return schemas[0] if len(schemas) == 1 else {"anyOf": schemas}

    def _schema_of(self, declared: Any) -> dict[str, Any]:
        origin: Any = typing.get_origin(declared)
        if origin is list:
            [of] = typing.get_args(declared)
            return {"type": "array", "items": self._schema_of(of)}
        if origin is not None:
            return {"anyOf": [self._schema_of(it) for it in typing.get_args(declared)]}
        if declared is None or declared is type(None):
            return {"type": "null"}
        if typing.is_typeddict(declared):
            return resolve_type_hint(declared)  # type: ignore[no-any-return,no-untyped-call]
        serializer = (
            declared
            if issubclass(declared, BaseSerializer)
            else find_serializer(declared, self.view.serializer_classes)
        )
        if serializer is not None:
            bound: Any = serializer()
            component = self.resolve_serializer(bound, "response")
            return component.ref if component else {"type": "object"}
        if issubclass(declared, dict):
            return {"type": "object"}
        if issubclass(declared, list | tuple):
            return {"type": "array", "items": {}}
        return build_basic_type(declared) or {}


class JobSchema(EventStreamSchema):
    """Describes the operations of a job: a POST starts it, a GET reads it, a DELETE cancels it."""

    def get_operation_id(self) -> str:
        """Return the id, with the path's arguments: a job's two routes differ in them alone."""
        arguments: list[str] = re.findall(r"\{(\w+)\}", self.path)
        return "_".join([super().get_operation_id(), *(f"by_{it}" for it in arguments[-1:])])

    def get_override_parameters(self) -> list[Any]:
        """Return how a client names the job, beside the parameters of a stream."""
        found = super().get_override_parameters()
        if self.method == "DELETE":
            found = [it for it in found if "event" not in it.name.lower()]
        if self.method == "POST":
            text = "Makes a repeated POST the same job. The one of an anonymous client is random."
            key = OpenApiParameter(
                "Idempotency-Key", OpenApiTypes.STR, OpenApiParameter.HEADER, description=text
            )
            return [*found, key]
        if "{" not in self.path:
            text = "The id of the job."
            found.append(OpenApiParameter("job", OpenApiTypes.STR, description=text))
        return found

    def _get_response_bodies(self, direction: Any = "response") -> dict[str, Any]:
        responses = super()._get_response_bodies(direction)
        if self.method == "DELETE":
            del responses["200"]
            responses["204"] = {"description": "The job is cancelled, or had ended."}
        else:
            header = {"description": "The id of the job.", "schema": {"type": "string"}}
            responses["200"]["headers"] = {HEADER: header}
        return responses

    def _errors(self) -> Iterator[str]:
        if self.method == "POST":
            yield from super()._errors()
            yield "409"
        else:
            # Neither reads a body. Any id may be unknown, also one in the query.
            yield from sorted({*super()._errors(), "404"} - {"400", "415"})


class SSEViewExtension(OpenApiViewExtension):  # type: ignore[no-untyped-call]
    """Lets every stream have its schema, also where a decorator has given it another one."""

    target_class = "django_sse.views.SSEView"
    match_subclasses = True

    def view_replacement(self) -> Any:
        """Return the view with that schema."""
        view = self.target_callback.cls
        known = type(view.schema)
        own = JobSchema if issubclass(view, JobView) else EventStreamSchema
        bases = (own,) if known is AutoSchema else (own, known)
        schema = type("EventStreamSchema", bases, {})()
        attributes = {
            "schema": schema,
            "__module__": view.__module__,
            "__qualname__": view.__qualname__,
            "__doc__": view.__doc__,
        }
        replaced = type(view.__name__, (view,), attributes)
        declaring.discard(replaced)  # The view itself is checked.
        return replaced


class TicketSchema(AutoSchema):
    """Describes the request for a ticket."""

    def get_request_serializer(self) -> Any:
        """Return what a client sends."""
        return inline_serializer(
            "StreamTicketWish",
            {
                "path": CharField(
                    max_length=2000, help_text="The path of a stream, without query."
                ),
                "client": BooleanField(default=False, help_text="Ask for a new page's id, too."),
            },
        )

    def get_response_serializers(self) -> Any:
        """Return what a client gets."""
        ticket = inline_serializer(
            "StreamTicket",
            {
                "ticket": CharField(),
                "url": CharField(help_text="The path with the ticket, for an EventSource."),
                "expires": DateTimeField(),
                "client": CharField(required=False, help_text="The id of the page that asked."),
            },
        )
        return {200: ticket}


class TicketViewExtension(OpenApiViewExtension):  # type: ignore[no-untyped-call]
    """Lets the view that gives tickets have its schema. What a project says itself takes precedence."""

    target_class = "django_sse.tickets.TicketView"
    match_subclasses = True

    def view_replacement(self) -> Any:
        """Return the view with that schema."""
        view = self.target_callback.cls
        known = type(view.schema)
        bases = (TicketSchema,) if known is AutoSchema else (known, TicketSchema)
        schema = type("TicketSchema", bases, {})()
        attributes = {"schema": schema, "__module__": view.__module__, "__doc__": view.__doc__}
        return type(view.__name__, (view,), attributes)


class TicketScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    """The security scheme of tickets."""

    target_class = "django_sse.tickets.TicketAuthentication"
    name = "ticketAuth"

    def get_security_definition(self, auto_schema: Any) -> dict[str, Any]:
        """Return where a ticket is sent."""
        return {"type": "apiKey", "in": "query", "name": "ticket"}
