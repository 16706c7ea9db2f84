"""What the app does as the project starts."""

from __future__ import annotations

import sys
from io import StringIO
from typing import Any

import pytest
from django.apps import apps as project
from django.core.checks import run_checks
from django.core.management import call_command
from django.test import override_settings

from django_sse import apps


@pytest.mark.parametrize("library", ["no_such_library", "no_such_library.inner", "json.no_such"])
def test_observer_of_a_missing_library_is_not_imported(
    monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    monkeypatch.setattr(apps, "OBSERVERS", {"tests.no_such_module": library})
    project.get_app_config("django_sse").ready()
    assert "no_such_library" not in sys.modules
    # There, it would have been.
    monkeypatch.setattr(apps, "OBSERVERS", {"tests.no_such_module": "json"})
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        project.get_app_config("django_sse").ready()


@pytest.mark.parametrize(
    "broker",
    [
        {"BACKEND": "django_sse.brokers.NoSuchBroker"},
        {"BACKEND": "django_sse.brokers.database.DatabaseBroker", "OPTIONS": {"USING": "nowhere"}},
    ],
    ids=["backend", "option"],
)
def test_migrate_goes_on_without_a_broker_and_the_checks_say_why(
    transactional_db: None, broker: dict[str, Any]
) -> None:
    out = StringIO()
    with override_settings(DJANGO_SSE={"BROKER": broker}):
        call_command("migrate", stdout=out)
        found = [it for it in run_checks() if (it.id or "").startswith("django_sse.E")]
    assert "No migrations to apply." in out.getvalue()
    assert found
    assert "BROKER" in found[0].msg
