"""How many connections Granian takes."""

from __future__ import annotations

import pytest

from django_sse.servers.granian import backpressure


@pytest.mark.parametrize(
    ("arguments", "environment", "number"),
    [
        (["/venv/bin/granian", "app:app"], {}, 1024),
        (["/venv/lib/granian/__main__.py", "--workers", "4", "app:app"], {}, 256),
        (["granian", "--backlog", "128"], {}, 128),
        (["granian", "--backlog=2048", "--workers=2"], {"GRANIAN_BACKLOG": "128"}, 1024),
        (["granian"], {"GRANIAN_BACKLOG": "128", "GRANIAN_WORKERS": "200"}, 1),
        (["granian", "--backpressure", "300", "--workers", "4"], {}, 300),
        (["granian"], {"GRANIAN_BACKPRESSURE": "50"}, 50),
        (["granian", "--workers", "many"], {}, None),
        (["granian", "--workers"], {}, None),
        (["manage.py", "serve"], {}, None),
    ],
)
def test_granians_number_is_read_from_how_it_was_started(
    arguments: list[str], environment: dict[str, str], number: int | None
) -> None:
    assert backpressure(arguments, environment) == number
