"""The setting ``DJANGO_SSE``, which is read on access."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed

from .exceptions import InvalidEvent
from .wire.events import milliseconds
from .wire.heartbeat import Heartbeat, check_event, check_period


class FromSettings:
    """The value of a view's attribute that leaves it to the setting."""

    def __repr__(self) -> str:
        """Return what errors show for it."""
        return "the value in DJANGO_SSE"


#: The value of a view's attribute that leaves it to the setting.
FROM_SETTINGS: Any = FromSettings()


class BrokerSettings(NamedTuple):
    """``DJANGO_SSE["BROKER"]``: the dotted path of a class, and the arguments to make it with."""

    backend: str
    location: str
    options: Mapping[str, Any]


class PresenceSettings(NamedTuple):
    """``DJANGO_SSE["PRESENCE"]``, in seconds."""

    lease: float
    grace: float


def _heartbeat(value: Any) -> Heartbeat:
    if isinstance(value, Heartbeat):
        return value
    if value is None:
        return Heartbeat(None)
    name = 'DJANGO_SSE["HEARTBEAT"]'
    _check_keys(name, value, {"PERIOD", "EVENT"})
    return Heartbeat(
        check_period(f'{name}["PERIOD"]', value.get("PERIOD", DEFAULT_PERIOD)),
        check_event(f'{name}["EVENT"]', value.get("EVENT")),
    )


def _retry(value: Any) -> int | None:
    try:
        return None if value is None else milliseconds(value)
    except InvalidEvent as error:
        raise ImproperlyConfigured(f'DJANGO_SSE["RETRY"]: {error}') from error


def _whole(name: str, unit: str, least: int = 1) -> Callable[[Any], int]:
    def parse(value: Any) -> int:
        if type(value) is not int or value < least:
            raise ImproperlyConfigured(
                f'DJANGO_SSE["{name}"] must be a whole number of {unit} ≥ {least}, got {value!r}.'
            )
        return value

    return parse


def _seconds(name: str) -> Callable[[Any], float]:
    def parse(value: Any) -> float:
        number = value.total_seconds() if isinstance(value, timedelta) else value
        if type(number) not in (int, float) or not 0 < number <= sys.float_info.max:
            raise ImproperlyConfigured(
                f'DJANGO_SSE["{name}"] must be a number of seconds above 0 or a timedelta, got '
                f"{value!r}."
            )
        return float(number)

    return parse


def _presence(value: Any) -> PresenceSettings:
    _check_keys('DJANGO_SSE["PRESENCE"]', value, {"LEASE", "GRACE"})
    return PresenceSettings(
        *(
            _seconds(f'PRESENCE"]["{name}')(value.get(name, default))
            for name, default in DEFAULT_PRESENCE.items()
        )
    )


def _bool(name: str) -> Callable[[Any], bool]:
    def parse(value: Any) -> bool:
        if not isinstance(value, bool):
            raise ImproperlyConfigured(
                f'DJANGO_SSE["{name}"] must be True, False or None, got {value!r}.'
            )
        return value

    return parse


def _or_none(parse: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def parse_or_none(value: Any) -> Any:
        return None if value is None else parse(value)

    return parse_or_none


def _renderer(value: Any) -> str | type | None:
    if value is None or isinstance(value, type) or (isinstance(value, str) and "." in value):
        return value
    raise ImproperlyConfigured(
        'DJANGO_SSE["RENDERER"] must be a renderer class of DRF\'s, its dotted path or None, got '
        f"{value!r}."
    )


def _base_url(value: Any) -> str | None:
    if value is None:
        return None
    parts = urlsplit(value) if isinstance(value, str) else None
    if (
        parts is None
        or parts.scheme not in ("http", "https")
        or not parts.netloc
        or parts.path.strip("/")
        or parts.query
        or parts.fragment
    ):
        raise ImproperlyConfigured(
            'DJANGO_SSE["BASE_URL"] must be the absolute URL of the site\'s root, as in '
            f'"https://shop.example", or None, got {value!r}.'
        )
    return f"{parts.scheme}://{parts.netloc}"


def _broker(value: Any) -> BrokerSettings:
    _check_keys('DJANGO_SSE["BROKER"]', value, {"BACKEND", "LOCATION", "OPTIONS"})
    backend = value.get("BACKEND", DEFAULTS["BROKER"]["BACKEND"])
    location = value.get("LOCATION", "")
    options = value.get("OPTIONS", {})
    if not isinstance(backend, str) or "." not in backend:
        raise ImproperlyConfigured(
            'DJANGO_SSE["BROKER"]["BACKEND"] must be the dotted path of a broker class, '
            f"got {backend!r}."
        )
    if not isinstance(location, str):
        raise ImproperlyConfigured(
            f'DJANGO_SSE["BROKER"]["LOCATION"] must be a str, got {location!r}.'
        )
    if not isinstance(options, Mapping):
        raise ImproperlyConfigured(
            f'DJANGO_SSE["BROKER"]["OPTIONS"] must be a dict, got {options!r}.'
        )
    return BrokerSettings(backend, location, options)


def _check_keys(name: str, value: Any, known: set[str]) -> None:
    if not isinstance(value, Mapping):
        raise ImproperlyConfigured(f"{name} must be a dict, got {value!r}.")
    unknown = sorted(set(value) - known, key=str)
    if unknown:
        raise ImproperlyConfigured(
            f"{name} has no key {unknown[0]!r}; its keys are {', '.join(sorted(known))}."
        )


DEFAULT_PERIOD = 15
DEFAULT_PRESENCE = {"LEASE": 15, "GRACE": 10}

#: The defaults of all settings.
DEFAULTS: dict[str, Any] = {
    "HEARTBEAT": {"PERIOD": DEFAULT_PERIOD},
    "RETRY": None,
    "THREADS": 8,
    "OUTBOX_LIMIT": 1024 * 1024,
    "MAX_EVENT_BYTES": 1024 * 1024,
    "PUBLISH_TIMEOUT": 5,
    "BROKER": {"BACKEND": "django_sse.brokers.memory.MemoryBroker"},
    "SEND_TIMEOUT": 60,
    "DRAIN_SECONDS": 5,
    "RECHECK_PERIOD": None,
    "CHECK_EVENTS": None,
    "MAX_HANDSHAKES": 20,
    "MAX_CONNECTIONS": None,
    "MAX_CONNECTIONS_PER_ADDRESS": None,
    "TICKET_SECONDS": 24 * 60 * 60,
    "MAX_JOBS": 100,
    "JOB_LEASE": 15,
    "RENDERER": None,
    "BASE_URL": None,
    "PRESENCE": DEFAULT_PRESENCE,
}

#: The parser of each setting. It raises ``ImproperlyConfigured`` for a wrong value, and names the
#: remedy.
PARSERS: dict[str, Callable[[Any], Any]] = {
    "HEARTBEAT": _heartbeat,
    "RETRY": _retry,
    "THREADS": _whole("THREADS", "threads"),
    "OUTBOX_LIMIT": _whole("OUTBOX_LIMIT", "bytes", 1024),
    "MAX_EVENT_BYTES": _whole("MAX_EVENT_BYTES", "bytes", 1024),
    "PUBLISH_TIMEOUT": _seconds("PUBLISH_TIMEOUT"),
    "BROKER": _broker,
    "SEND_TIMEOUT": _seconds("SEND_TIMEOUT"),
    "DRAIN_SECONDS": _seconds("DRAIN_SECONDS"),
    "RECHECK_PERIOD": _or_none(_seconds("RECHECK_PERIOD")),
    "CHECK_EVENTS": _or_none(_bool("CHECK_EVENTS")),
    "MAX_HANDSHAKES": _or_none(_whole("MAX_HANDSHAKES", "handshakes")),
    "MAX_CONNECTIONS": _or_none(_whole("MAX_CONNECTIONS", "streams")),
    "MAX_CONNECTIONS_PER_ADDRESS": _or_none(_whole("MAX_CONNECTIONS_PER_ADDRESS", "streams")),
    "TICKET_SECONDS": _seconds("TICKET_SECONDS"),
    "MAX_JOBS": _or_none(_whole("MAX_JOBS", "jobs")),
    "JOB_LEASE": _seconds("JOB_LEASE"),
    "RENDERER": _renderer,
    "BASE_URL": _base_url,
    "PRESENCE": _presence,
}


class Conf:
    """Typed access to ``DJANGO_SSE``. A parsed value is kept until the setting changes."""

    def __init__(self) -> None:
        """Begin without having read anything."""
        self._parsed: dict[str, Any] = {}

    def get(self, name: str) -> Any:
        """Return the parsed value of a setting; raise ``ImproperlyConfigured`` for a wrong one."""
        if name not in self._parsed:
            given = getattr(settings, "DJANGO_SSE", {})
            if not isinstance(given, Mapping):
                raise ImproperlyConfigured(f"DJANGO_SSE must be a dict, got {given!r}.")
            self._parsed[name] = PARSERS[name](given.get(name, DEFAULTS[name]))
        return self._parsed[name]

    def forget(self) -> None:
        """Read every setting again on its next access."""
        self._parsed.clear()

    @property
    def heartbeat(self) -> Heartbeat:
        """The heartbeat of views that have none of their own."""
        return self.get("HEARTBEAT")  # type: ignore[no-any-return]

    @property
    def retry(self) -> int | None:
        """The reconnection time, in milliseconds, told to clients as a stream opens."""
        return self.get("RETRY")  # type: ignore[no-any-return]

    @property
    def threads(self) -> int:
        """The number of threads that the synchronous work of all streams of a process shares."""
        return self.get("THREADS")  # type: ignore[no-any-return]

    @property
    def outbox_limit(self) -> int:
        """The most bytes of published events that may wait for one slow client."""
        return self.get("OUTBOX_LIMIT")  # type: ignore[no-any-return]

    @property
    def max_event_bytes(self) -> int:
        """The most bytes that a published event may have, encoded."""
        return self.get("MAX_EVENT_BYTES")  # type: ignore[no-any-return]

    @property
    def publish_timeout(self) -> float:
        """The seconds for which ``publish()`` waits for the broker."""
        return self.get("PUBLISH_TIMEOUT")  # type: ignore[no-any-return]

    @property
    def send_timeout(self) -> float:
        """The seconds after which a client that takes no byte is closed as ``stalled``."""
        return self.get("SEND_TIMEOUT")  # type: ignore[no-any-return]

    @property
    def drain_seconds(self) -> float:
        """The seconds that streams have to end when the process shuts down."""
        return self.get("DRAIN_SECONDS")  # type: ignore[no-any-return]

    @property
    def recheck_period(self) -> float | None:
        """The seconds after which a stream's user is checked again; ``None`` is never."""
        return self.get("RECHECK_PERIOD")  # type: ignore[no-any-return]

    @property
    def check_events(self) -> bool | None:
        """Whether events are held to their declarations; ``None`` is with ``DEBUG`` and in tests."""
        return self.get("CHECK_EVENTS")  # type: ignore[no-any-return]

    @property
    def max_handshakes(self) -> int | None:
        """The most handshakes that an event loop has under way; ``None`` is any number."""
        return self.get("MAX_HANDSHAKES")  # type: ignore[no-any-return]

    @property
    def max_connections(self) -> int | None:
        """The most streams of a process; ``None`` is any number."""
        return self.get("MAX_CONNECTIONS")  # type: ignore[no-any-return]

    @property
    def max_connections_per_address(self) -> int | None:
        """The most anonymous streams of one client address in a process; ``None`` is any number."""
        return self.get("MAX_CONNECTIONS_PER_ADDRESS")  # type: ignore[no-any-return]

    @property
    def ticket_seconds(self) -> float:
        """The seconds for which a ticket is valid."""
        return self.get("TICKET_SECONDS")  # type: ignore[no-any-return]

    @property
    def max_jobs(self) -> int | None:
        """The most jobs that run in a process; ``None`` is any number."""
        return self.get("MAX_JOBS")  # type: ignore[no-any-return]

    @property
    def job_lease(self) -> float:
        """The seconds after which a job of which nothing was heard has failed."""
        return self.get("JOB_LEASE")  # type: ignore[no-any-return]

    @property
    def renderer(self) -> str | type | None:
        """The renderer class of events, or its dotted path; ``None`` is the one of DRF's settings."""
        return self.get("RENDERER")  # type: ignore[no-any-return]

    @property
    def base_url(self) -> str | None:
        """The site's scheme and host, for links in events that are published outside of a request."""
        return self.get("BASE_URL")  # type: ignore[no-any-return]

    @property
    def presence(self) -> PresenceSettings:
        """The lease of a process' presence, and the grace of a user who leaves, in seconds."""
        return self.get("PRESENCE")  # type: ignore[no-any-return]

    @property
    def broker(self) -> BrokerSettings:
        """The broker's class, location and options."""
        return self.get("BROKER")  # type: ignore[no-any-return]


conf = Conf()


def _on_setting_changed(*, setting: str, **kwargs: Any) -> None:
    if setting == "DJANGO_SSE":
        conf.forget()


setting_changed.connect(_on_setting_changed)
