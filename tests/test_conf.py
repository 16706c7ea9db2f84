"""The setting ``DJANGO_SSE``."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from django_sse.conf import conf
from django_sse.wire.events import ServerSentEvent
from django_sse.wire.heartbeat import Heartbeat

HEARTBEAT = ServerSentEvent(comments="heartbeat")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, Heartbeat(15, HEARTBEAT)),
        ({"HEARTBEAT": {}}, Heartbeat(15, HEARTBEAT)),
        ({"HEARTBEAT": {"PERIOD": 5}}, Heartbeat(5, HEARTBEAT)),
        ({"HEARTBEAT": {"PERIOD": 0.5}}, Heartbeat(0.5, HEARTBEAT)),
        ({"HEARTBEAT": {"PERIOD": timedelta(minutes=1)}}, Heartbeat(60, HEARTBEAT)),
        ({"HEARTBEAT": {"PERIOD": 0}}, Heartbeat(0)),
        ({"HEARTBEAT": {"PERIOD": None}}, Heartbeat(None)),
        ({"HEARTBEAT": None}, Heartbeat(None)),
        ({"HEARTBEAT": Heartbeat(7)}, Heartbeat(7)),
        ({"HEARTBEAT": {"EVENT": {"event": "hi"}}}, Heartbeat(15, ServerSentEvent(event="hi"))),
        ({"HEARTBEAT": {"EVENT": "project.beats.beat"}}, Heartbeat(15, "project.beats.beat")),
    ],
)
def test_heartbeat_is_read(given: dict[str, Any], expected: Heartbeat) -> None:
    with override_settings(DJANGO_SSE=given):
        assert conf.heartbeat == expected


@pytest.mark.parametrize(
    ("name", "attribute", "default", "given", "expected"),
    [
        ("RETRY", "retry", None, 2500, 2500),
        ("RETRY", "retry", None, timedelta(seconds=3), 3000),
        ("RETRY", "retry", None, 0, 0),
        ("THREADS", "threads", 8, 2, 2),
        ("OUTBOX_LIMIT", "outbox_limit", 1024 * 1024, 1024, 1024),
        ("MAX_EVENT_BYTES", "max_event_bytes", 1024 * 1024, 2048, 2048),
        ("PUBLISH_TIMEOUT", "publish_timeout", 5, 0.5, 0.5),
        ("SEND_TIMEOUT", "send_timeout", 60, 7, 7),
        ("DRAIN_SECONDS", "drain_seconds", 5, 7, 7),
        ("RECHECK_PERIOD", "recheck_period", None, 7, 7),
        ("MAX_HANDSHAKES", "max_handshakes", 20, 7, 7),
        ("MAX_HANDSHAKES", "max_handshakes", 20, None, None),
        ("MAX_CONNECTIONS", "max_connections", None, 7, 7),
        ("MAX_CONNECTIONS_PER_ADDRESS", "max_connections_per_address", None, 7, 7),
        ("TICKET_SECONDS", "ticket_seconds", 24 * 3600, 7, 7),
        ("PRESENCE", "presence", (15, 10), {"LEASE": timedelta(minutes=1)}, (60, 10)),
        ("PRESENCE", "presence", (15, 10), {"GRACE": 2.5}, (15, 2.5)),
    ],
)
def test_setting_is_read_on_access(
    name: str, attribute: str, default: Any, given: Any, expected: Any
) -> None:
    with override_settings(DJANGO_SSE={}):
        assert getattr(conf, attribute) == default
        with override_settings(DJANGO_SSE={name: given}):
            assert getattr(conf, attribute) == expected
        assert getattr(conf, attribute) == default


def test_broker_is_read() -> None:
    given = {"BACKEND": "project.Broker", "LOCATION": "redis://", "OPTIONS": {"HISTORY": 5}}
    with override_settings(DJANGO_SSE={"BROKER": given}):
        assert conf.broker == ("project.Broker", "redis://", {"HISTORY": 5})
    with override_settings(DJANGO_SSE={}):
        assert conf.broker == ("django_sse.brokers.memory.MemoryBroker", "", {})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (5, r"DJANGO_SSE must be a dict, got 5\."),
        ({"HEARTBEAT": 15}, r'DJANGO_SSE\["HEARTBEAT"\] must be a dict, got 15\.'),
        ({"HEARTBEAT": {"PERIOD": "15s"}}, r'\["HEARTBEAT"\].*number of seconds.*got \'15s\''),
        ({"HEARTBEAT": {"PERIODE": 5}}, r"no key 'PERIODE'; its keys are EVENT, PERIOD\."),
        ({"HEARTBEAT": {"EVENT": {"id": "\n"}}}, r'\["HEARTBEAT"\].*line end'),
    ],
)
def test_wrong_heartbeat_is_refused(given: Any, message: str) -> None:
    with override_settings(DJANGO_SSE=given), pytest.raises(ImproperlyConfigured, match=message):
        conf.heartbeat  # noqa: B018


def test_settings_of_the_user_are_not_mutated() -> None:
    given = {"HEARTBEAT": {"PERIOD": 5, "EVENT": {"data": "x"}}, "BROKER": {}}
    with override_settings(DJANGO_SSE=given):
        assert conf.heartbeat
        assert conf.broker
    assert given == {"HEARTBEAT": {"PERIOD": 5, "EVENT": {"data": "x"}}, "BROKER": {}}
