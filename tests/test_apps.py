"""What the app does as the project starts."""

from __future__ import annotations

import sys

import pytest
from django.apps import apps as project

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
