"""DRF's policies of a stream, applied in the trip to the request's thread that middleware makes anyway.

``django_sse.asgi`` loads this module before Django is set up, so nothing here needs apps or DRF.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

# The attribute of a stream's view, as ``urls.py`` has it.
_ATTRIBUTE = "admits_early"


@dataclass(slots=True)
class Admission:
    """What the policies have said to a request, and the instance of the view that has applied them."""

    request: Any
    view: Any
    #: The refusal, if there is one, or an exception that DRF does not answer.
    response: Any = None
    error: Exception | None = None


#: Applies the policies in the request's thread: of the request and the view's arguments.
Admit = Callable[[Any, Any, Any], Admission]


def admit_early(callback: Any, admit: Admit) -> None:
    """Let the requests of a view, as ``as_view()`` returns it, be admitted before the view is called."""
    setattr(callback, _ATTRIBUTE, (callback, admit))


def early_admission(callback: Any) -> Admit | None:
    """Return what admits the requests of a view, or ``None`` where the view has to be called first.

    That is so for a decorator around a stream's view, which may have copied the attribute.
    """
    owner, admit = getattr(callback, _ATTRIBUTE, (None, None))
    return admit if owner is callback else None
