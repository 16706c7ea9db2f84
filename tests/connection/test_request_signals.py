"""A Django whose signals are made in another way keeps its own way."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.signals import request_finished, request_started

from django_sse.connection import request_signals


class Sender:
    pass


@pytest.mark.parametrize("error", [AttributeError, TypeError])
def test_nothing_is_done_in_the_place_of_a_signal_that_is_not_known(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def ask(sender: Any) -> Any:
        raise error

    for signal in (request_started, request_finished):
        monkeypatch.setattr(signal, "_live_receivers", ask)
    assert request_signals.postpone_start(Sender) == ()
    assert not request_signals.end_in_thread(Sender)
    assert not request_signals.needs_no_thread(Sender)


def test_the_start_is_not_postponed_where_its_mark_has_no_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(request_started, "sender_receivers_cache")
    assert request_signals.postpone_start(Sender) == ()
    request_signals.stop_postponing(Sender)
