"""What the app does as the project starts."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from django.apps import apps as project
from django.db.models.signals import post_migrate

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


@pytest.mark.django_db
def test_migrate_leaves_a_wrong_broker_to_the_system_checks(
    settings: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    config = next(it for it in project.get_app_configs() if it.models_module is not None)
    settings.DJANGO_SSE = {"BROKER": {"BACKEND": "django_sse.brokers.database.DatabaseBroker"}}
    post_migrate.send(config, app_config=config, using="default", verbosity=1)
    assert "Made the tables of django_sse.brokers.database" in capsys.readouterr().out
    settings.DJANGO_SSE = {"BROKER": {"BACKEND": "nowhere.Broker"}}
    post_migrate.send(config, app_config=config, using="default", verbosity=1)
    assert capsys.readouterr().out == ""
