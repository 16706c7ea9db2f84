"""The system checks: every id, with its hint."""

from __future__ import annotations

import sys
from datetime import timedelta
from types import SimpleNamespace
from typing import Any
from weakref import WeakSet

import pytest
from django.apps import apps
from django.core import checks, management
from django.test import override_settings
from rest_framework.serializers import BaseSerializer

from django_sse import checks as own
from django_sse import serializes
from django_sse.brokers.base import BROKERS
from django_sse.checks import (
    check_asgi,
    check_broker,
    check_job_lease,
    check_pools,
    check_serializers,
    check_settings,
)
from django_sse.conf import DEFAULTS, PARSERS, conf
from django_sse.jobs.view import JobView
from django_sse.wire.events import ServerSentEvent


async def beat() -> ServerSentEvent:
    return ServerSentEvent("beat")


not_callable = ServerSentEvent("beat")
HERE = __name__
TABLE = "The settings table"
REDIS = "django_sse.brokers.redis.RedisBroker"


def found() -> list[tuple[Any, str, Any]]:
    return [(message.id, message.msg, message.hint) for message in check_settings()]


@pytest.mark.parametrize(
    ("given", "id", "message", "hint"),
    [
        (None, "E001", "DJANGO_SSE must be a dict, got None.", "DJANGO_SSE = {"),
        ([], "E001", "DJANGO_SSE must be a dict, got [].", "DJANGO_SSE = {"),
        ({"HEARTBEATS": {}}, "E002", "no setting 'HEARTBEATS'", "HEARTBEAT, RETRY, THREADS"),
        ({1: 2}, "E002", "no setting 1", "HEARTBEAT, "),
        ({"HEARTBEAT": 15}, "E003", 'DJANGO_SSE["HEARTBEAT"] must be a dict, got 15', TABLE),
        ({"HEARTBEAT": {"PERIOD": -1}}, "E003", "seconds, a timedelta or None (0 and", TABLE),
        (
            {"HEARTBEAT": {"PERIOD": "15s"}},
            "E003",
            'DJANGO_SSE["HEARTBEAT"]["PERIOD"] must be a number of seconds, a timedelta or None',
            TABLE,
        ),
        ({"HEARTBEAT": {"PERIOD": True}}, "E003", "got True", TABLE),
        (
            {"HEARTBEAT": {"EVENT": 5}},
            "E003",
            'DJANGO_SSE["HEARTBEAT"]["EVENT"] must be a ServerSentEvent, a dict of its fields, a call',
            TABLE,
        ),
        ({"HEARTBEAT": {"EVENT": "ping"}}, "E003", "dotted path of one, got 'ping'", TABLE),
        ({"HEARTBEAT": {"EVENT": {"dat": 1}}}, "E003", "'dat'", TABLE),
        ({"HEARTBEAT": {"EVENT": "no.such.beat"}}, "E004", "cannot be imported", "callable"),
        ({"HEARTBEAT": {"EVENT": f"{HERE}.not_callable"}}, "E004", "must be a callable", "EVENT"),
        ({"RETRY": 1.5}, "E005", 'DJANGO_SSE["RETRY"]: retry must be a whole number', TABLE),
        ({"THREADS": 0}, "E006", 'DJANGO_SSE["THREADS"] must be a whole number of threads', TABLE),
        ({"THREADS": True}, "E006", "≥ 1, got True", TABLE),
        ({"OUTBOX_LIMIT": 10}, "E007", "whole number of bytes ≥ 1024, got 10", TABLE),
        ({"MAX_EVENT_BYTES": "1M"}, "E008", "≥ 1024, got '1M'", TABLE),
        ({"PUBLISH_TIMEOUT": 0}, "E009", "number of seconds above 0 or a timedelta, got 0", TABLE),
        ({"PUBLISH_TIMEOUT": True}, "E009", "above 0 or a timedelta, got True", TABLE),
        ({"PUBLISH_TIMEOUT": float("inf")}, "E009", "above 0 or a timedelta, got inf", TABLE),
        ({"PUBLISH_TIMEOUT": float("nan")}, "E009", "above 0 or a timedelta, got nan", TABLE),
        ({"PUBLISH_TIMEOUT": None}, "E009", "above 0 or a timedelta, got None", TABLE),
        ({"BROKER": "redis://"}, "E010", "must be a dict, got 'redis://'", TABLE),
        ({"BROKER": {"BACKEND": "redis"}}, "E010", "dotted path of a broker class", TABLE),
        ({"BROKER": {"LOCATION": 6379}}, "E010", '["LOCATION"] must be a str, got 6379', TABLE),
        ({"BROKER": {"OPTIONS": []}}, "E010", '["OPTIONS"] must be a dict, got []', TABLE),
        ({"BROKER": {"HOST": "x"}}, "E010", "has no key 'HOST'; its keys are BACKEND", TABLE),
        ({"SEND_TIMEOUT": 0}, "E012", "number of seconds above 0 or a timedelta, got 0", TABLE),
        (
            {"DRAIN_SECONDS": "5"},
            "E013",
            "number of seconds above 0 or a timedelta, got '5'",
            TABLE,
        ),
        ({"RECHECK_PERIOD": -1}, "E014", "number of seconds above 0 or a timedelta, got -1", TABLE),
        ({"MAX_HANDSHAKES": 0}, "E021", "whole number of handshakes ≥ 1, got 0", TABLE),
        ({"PRESENCE": {"LEASE": 0}}, "E024", 'DJANGO_SSE["PRESENCE"]["LEASE"] must be', TABLE),
        ({"PRESENCE": {"GRACE": "5"}}, "E024", "above 0 or a timedelta, got '5'", TABLE),
        ({"PRESENCE": {"TTL": 5}}, "E024", "no key 'TTL'; its keys are GRACE, LEASE", TABLE),
        ({"PRESENCE": 5}, "E024", "must be a dict, got 5", TABLE),
        ({"MAX_JOBS": 0}, "E026", "whole number of jobs ≥ 1, got 0", TABLE),
        ({"JOB_LEASE": 0}, "E027", "must be a number of seconds above 0", TABLE),
        ({"CHECK_EVENTS": 1}, "E022", "must be True, False or None, got 1", TABLE),
        ({"MAX_CONNECTIONS": 0}, "E015", "whole number of streams ≥ 1, got 0", TABLE),
        ({"MAX_CONNECTIONS_PER_ADDRESS": 1.5}, "E016", "streams ≥ 1, got 1.5", TABLE),
        (
            {"TICKET_SECONDS": None},
            "E017",
            "number of seconds above 0 or a timedelta, got None",
            TABLE,
        ),
    ],
)
def test_wrong_setting_is_found(given: Any, id: str, message: str, hint: str) -> None:
    with override_settings(DJANGO_SSE=given):
        [(found_id, found_message, found_hint)] = found()
    assert found_id == f"django_sse.{id}"
    assert message in found_message
    assert hint in found_hint


def test_every_setting_has_an_id_of_its_own() -> None:
    assert set(own.IDS) == set(DEFAULTS) == set(PARSERS)
    assert len(set(own.IDS.values())) == len(own.IDS)


def test_every_wrong_setting_is_found_at_once() -> None:
    with override_settings(DJANGO_SSE={"X": 1, "HEARTBEAT": 1, "RETRY": -1, "THREADS": 0}):
        ids = [id for id, *_ in found()]
    assert ids == [f"django_sse.{n}" for n in ("E002", "E003", "E005", "E006")]


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"HEARTBEAT": None, "RETRY": None},
        {"HEARTBEAT": {"PERIOD": 0, "EVENT": f"{HERE}.beat"}},
        {"HEARTBEAT": {"EVENT": {"data": {"an": "object"}}}, "RETRY": 0, "PUBLISH_TIMEOUT": 0.1},
    ],
)
def test_right_settings_pass(given: Any) -> None:
    with override_settings(DJANGO_SSE=given):
        assert found() == []


def test_no_setting_at_all_passes(settings: Any) -> None:
    del settings.DJANGO_SSE
    assert found() == []


@pytest.mark.parametrize("missing", [None, ""])
def test_missing_asgi_application_is_found(missing: str | None) -> None:
    with override_settings(ASGI_APPLICATION=missing):
        [warning] = check_asgi()
    assert warning.id == "django_sse.W001"
    assert isinstance(warning, checks.Warning)
    assert "project.asgi.application" in warning.hint


@pytest.mark.parametrize(
    ("argv", "apps", "ids"),
    [
        (["manage.py", "runserver"], ["django.contrib.staticfiles"], ["django_sse.W002"]),
        (["manage.py", "runserver"], ["django.contrib.staticfiles", "daphne"], ["django_sse.W002"]),
        (["manage.py", "runserver", "8080"], [], ["django_sse.W002"]),
        (["manage.py", "runserver", "--noasgi"], ["daphne"], ["django_sse.W002"]),
        (["manage.py", "--verbosity", "1", "runserver"], [], ["django_sse.W002"]),
        (["manage.py", "runserver"], ["daphne", "django.contrib.staticfiles"], []),
        (["manage.py", "migrate"], [], []),
        (["manage.py"], [], []),
    ],
)
def test_runserver_without_an_asgi_server_is_found(
    argv: list[str], apps: list[str], ids: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", argv)
    # Django remembers which app provides a command; what other tests see is left alone.
    monkeypatch.setattr(own, "get_commands", management.get_commands.__wrapped__)
    with override_settings(INSTALLED_APPS=[*apps, "django_sse"]):
        warnings = check_asgi()
    assert [warning.id for warning in warnings] == ids
    for warning in warnings:
        assert 'Put "daphne" first in INSTALLED_APPS' in str(warning.hint)


# Which broker.

REDIS = "django_sse.brokers.redis.RedisBroker"


@pytest.fixture
def one_process(settings: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Settings of a project that runs in one process, with the MemoryBroker."""
    monkeypatch.delenv("WEB_CONCURRENCY", raising=False)
    settings.DJANGO_SSE = {}
    settings.CHANNEL_LAYERS = {}
    settings.TASKS = {}
    return settings


@pytest.mark.parametrize(
    ("backend", "message"),
    [
        ("no.such.Broker", "cannot be imported: No module named 'no'"),
        (f"{HERE}.beat", "must be a subclass of django_sse.brokers.base.Broker"),
    ],
)
def test_broker_that_is_none_is_found(one_process: Any, backend: str, message: str) -> None:
    one_process.DJANGO_SSE = {"BROKER": {"BACKEND": backend}}
    [error] = check_broker()
    assert error.id == "django_sse.E011"
    assert backend in error.msg
    assert message in error.msg
    assert error.hint == BROKERS


@pytest.mark.parametrize(
    ("broker", "message"),
    [
        ({"OPTIONS": {"HISTORY": "5"}}, "['HISTORY'] must be a whole number above 0, got '5'"),
        ({"OPTIONS": {"size": 5}}, "unknown option 'size'"),
        ({"BACKEND": REDIS}, '["LOCATION"] must be a redis://'),
        ({"BACKEND": REDIS, "LOCATION": "127.0.0.1:6379"}, '["LOCATION"] must be a redis://'),
    ],
)
def test_broker_that_cannot_be_made_is_found(one_process: Any, broker: Any, message: str) -> None:
    one_process.DJANGO_SSE = {"BROKER": broker}
    [error] = check_broker()
    assert error.id == "django_sse.E018"
    assert message in error.msg
    assert error.hint == BROKERS


def test_library_that_is_missing_is_named(
    one_process: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_process.DJANGO_SSE = {"BROKER": {"BACKEND": REDIS}}
    for name in [name for name in sys.modules if name.startswith("django_sse.brokers.redis")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "redis", None)
    [error] = check_broker()
    assert error.id == "django_sse.E011"
    assert error.hint is not None
    assert 'pip install "django-sse-views[redis]"' in error.hint


@pytest.mark.parametrize("given", [5, {"BROKER": 5}])
def test_settings_without_a_broker_are_another_checks_fault(one_process: Any, given: Any) -> None:
    one_process.DJANGO_SSE = given
    assert check_broker() == []
    assert found()


@pytest.mark.parametrize(
    ("setting", "value", "sign"),
    [
        ("CHANNEL_LAYERS", {"d": {"BACKEND": "channels_redis.core.RedisChannelLayer"}}, "layer on"),
        ("CELERY_BROKER_URL", "redis://", "the setting CELERY_BROKER_URL"),
        ("RQ_QUEUES", {"default": {}}, "the setting RQ_QUEUES"),
        ("TASKS", {"default": {"BACKEND": "project.tasks.QueueBackend"}}, 'TASKS["default"]'),
    ],
)
def test_memory_broker_with_several_processes_is_found(
    one_process: Any, setting: str, value: Any, sign: str
) -> None:
    setattr(one_process, setting, value)
    [warning] = check_broker()
    assert warning.id == "django_sse.W003"
    assert sign in warning.msg
    assert REDIS in str(warning.hint)


@pytest.mark.parametrize(("workers", "ids"), [("2", ["django_sse.W003"]), ("1", []), ("auto", [])])
def test_memory_broker_with_several_workers_is_found(
    one_process: Any, monkeypatch: pytest.MonkeyPatch, workers: str, ids: list[str]
) -> None:
    monkeypatch.setenv("WEB_CONCURRENCY", workers)
    assert [warning.id for warning in check_broker()] == ids


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("CHANNEL_LAYERS", {"d": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}),
        ("CHANNEL_LAYERS", None),
        ("CELERY_BROKER_URL", ""),
        ("TASKS", {"default": {"BACKEND": "django.tasks.backends.immediate.ImmediateBackend"}}),
        ("TASKS", None),
    ],
)
def test_memory_broker_with_one_process_passes(one_process: Any, setting: str, value: Any) -> None:
    setattr(one_process, setting, value)
    assert check_broker() == []


def test_checks_are_registered() -> None:
    with override_settings(DJANGO_SSE=5, ASGI_APPLICATION=None):
        own_app = [apps.get_app_config("django_sse")]
        ids = {message.id for message in checks.run_checks(app_configs=own_app)}
    assert {"django_sse.E001", "django_sse.W001"} <= ids


class Working(JobView):
    async def work(self) -> None:
        """Nothing to do."""


@pytest.mark.parametrize(
    ("given", "least"),
    [
        ({}, None),
        ({"JOB_LEASE": 14.9}, 15),
        ({"JOB_LEASE": timedelta(seconds=5)}, 15),
        ({"PUBLISH_TIMEOUT": 6}, 18),
        ({"PUBLISH_TIMEOUT": 2.5, "JOB_LEASE": 7.5}, None),
        ({"PUBLISH_TIMEOUT": 2.5, "JOB_LEASE": 7}, 7.5),
        ({"JOB_LEASE": "5"}, None),
        # It is never away.
        ({"JOB_LEASE": 1, "BROKER": {}}, None),
        ({"JOB_LEASE": 1, "BROKER": {"BACKEND": "nothing.Broker"}}, None),
    ],
    ids=str,
)
def test_lease_that_is_too_short_for_an_outage_is_found(given: Any, least: float | None) -> None:
    broker = {"BROKER": {"BACKEND": "django_sse.brokers.database.DatabaseBroker"}}
    with override_settings(DJANGO_SSE={**broker, **given}):
        found = check_job_lease()
        if least is None:
            assert found == []
            return
        [message] = found
        assert message in checks.run_checks(app_configs=[apps.get_app_config("django_sse")])
        values = conf.job_lease, conf.publish_timeout
    assert message.id == "django_sse.W010"
    assert f"is {values[0]:g} seconds, and" in message.msg
    assert f"is {values[1]:g}: jobs" in message.msg
    assert f"to {least:g} seconds at least" in str(message.hint)


def test_lease_of_a_project_without_jobs_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own, "job_views", WeakSet())
    broker = {"BACKEND": "django_sse.brokers.database.DatabaseBroker"}
    with override_settings(DJANGO_SSE={"BROKER": broker, "JOB_LEASE": 1}):
        assert check_job_lease() == []


class Point:
    """Something that is sent."""


class First(BaseSerializer[Point]):
    """A serializer of an app."""


class Second(First):
    """A serializer of another app."""


def loaded_again() -> Any:
    return type("First", (BaseSerializer,), {"__module__": HERE})


@pytest.mark.parametrize(
    ("registered", "found"),
    [
        ([First, Second], (Second, First)),
        ([Second, First], (First, Second)),
        ([First, First], None),
        ([First, loaded_again], None),
        ([First, (Second,)], None),
        ([First, Second, (First,)], None),
        ([(First,), Second], (Second, First)),
    ],
)
def test_type_with_two_serializers_is_found(
    registry: dict[type, Any], registered: list[Any], found: Any
) -> None:
    """A tuple stands for a serializer that says ``replace=True``."""
    for it in registered:
        if isinstance(it, tuple):
            serializes(Point, replace=True)(it[0])
        else:
            serializes(Point)(loaded_again() if it is loaded_again else it)
    messages = [it for it in check_serializers() if f"{HERE}.Point" in it.msg]
    if found is None:
        assert messages == []
        return
    after, before = (f"{HERE}.{it.__name__}" for it in found)
    [message] = messages
    assert message.id == "django_sse.W009"
    assert message.msg == f"{HERE}.Point has two serializers: {after} has replaced {before}."
    assert "@serializes(Point, replace=True)" in str(message.hint)
    assert message in checks.run_checks(app_configs=[apps.get_app_config("django_sse")])
    # A test that puts the registry back leaves no warning to others.
    registry.pop(Point)
    assert message not in check_serializers()


@pytest.mark.parametrize(
    ("pool", "threads", "size"),
    [
        (True, 8, 4),
        ({}, 8, None),
        ({"min_size": 2}, 8, 2),
        ({"min_size": 2, "max_size": 6}, 8, 6),
        ({"max_size": 6}, 6, None),
        ({"max_size": "many"}, 8, None),
        (False, 8, None),
        (True, "many", None),
    ],
)
def test_pool_of_connections_that_is_smaller_than_that_of_threads_is_found(
    monkeypatch: pytest.MonkeyPatch, pool: Any, threads: Any, size: int | None
) -> None:
    databases = {"default": {"OPTIONS": {"pool": pool}}, "other": {}}
    given = SimpleNamespace(DATABASES=databases, DJANGO_SSE={"THREADS": threads})
    monkeypatch.setattr(own, "settings", given)
    found = check_pools()
    if size is None:
        assert found == []
    else:
        assert [it.id for it in found] == ["django_sse.W005"]
        assert f"'default'] has a pool of {size} connections" in found[0].msg
        assert f"is {threads}" in found[0].msg
