"""Server-Sent Events for Django: class-based streams of typed objects.

Names are loaded on first use, so that importing the package needs neither configured settings nor
loaded apps, and ``ServerSentEvent`` and ``Heartbeat`` can be used in ``settings.py``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .brokers.presence import Presence as Presence
    from .exceptions import EventTooLarge as EventTooLarge
    from .exceptions import HistoryLost as HistoryLost
    from .exceptions import InvalidEvent as InvalidEvent
    from .exceptions import InvalidTopic as InvalidTopic
    from .exceptions import JobCancelled as JobCancelled
    from .exceptions import PublishFailed as PublishFailed
    from .exceptions import SerializerNotFound as SerializerNotFound
    from .exceptions import SSEError as SSEError
    from .exceptions import StreamClosed as StreamClosed
    from .exceptions import StreamFinished as StreamFinished
    from .exceptions import UndeclaredEvent as UndeclaredEvent
    from .jobs.records import Job as Job
    from .jobs.view import JobView as JobView
    from .jobs.writer import JobWriter as JobWriter
    from .monitoring.metrics import stats as stats
    from .routing import sse_path as sse_path
    from .rows.changes import apublish_changes as apublish_changes
    from .rows.changes import publish_changes as publish_changes
    from .rows.view import ModelSSEView as ModelSSEView
    from .signals import stream_closed as stream_closed
    from .signals import stream_opened as stream_opened
    from .topics.declarations import Topic as Topic
    from .topics.orders import aclose_streams as aclose_streams
    from .topics.orders import close_streams as close_streams
    from .topics.presence import apresence as apresence
    from .topics.presence import presence as presence
    from .topics.publishing import alatest_event_id as alatest_event_id
    from .topics.publishing import apublish as apublish
    from .topics.publishing import latest_event_id as latest_event_id
    from .topics.publishing import publish as publish
    from .topics.templates import apublish_template as apublish_template
    from .topics.templates import publish_template as publish_template
    from .views import SSEView as SSEView
    from .wire.events import ServerSentEvent as ServerSentEvent
    from .wire.heartbeat import Heartbeat as Heartbeat
    from .wire.serialization import serializes as serializes

__version__ = "0.1.0"

_HOMES = {
    "aclose_streams": "topics.orders",
    "alatest_event_id": "topics.publishing",
    "apresence": "topics.presence",
    "apublish": "topics.publishing",
    "apublish_changes": "rows.changes",
    "apublish_template": "topics.templates",
    "close_streams": "topics.orders",
    "EventTooLarge": "exceptions",
    "Heartbeat": "wire.heartbeat",
    "HistoryLost": "exceptions",
    "InvalidEvent": "exceptions",
    "InvalidTopic": "exceptions",
    "Job": "jobs.records",
    "JobCancelled": "exceptions",
    "JobView": "jobs.view",
    "JobWriter": "jobs.writer",
    "latest_event_id": "topics.publishing",
    "ModelSSEView": "rows.view",
    "Presence": "brokers.presence",
    "presence": "topics.presence",
    "publish": "topics.publishing",
    "publish_changes": "rows.changes",
    "publish_template": "topics.templates",
    "PublishFailed": "exceptions",
    "SerializerNotFound": "exceptions",
    "serializes": "wire.serialization",
    "ServerSentEvent": "wire.events",
    "sse_path": "routing",
    "SSEError": "exceptions",
    "SSEView": "views",
    "stats": "monitoring.metrics",
    "stream_closed": "signals",
    "stream_opened": "signals",
    "StreamClosed": "exceptions",
    "StreamFinished": "exceptions",
    "Topic": "topics.declarations",
    "UndeclaredEvent": "exceptions",
}

__all__ = [  # noqa: PLE0604 - the names are strings, which are unpacked here
    "__version__",
    *_HOMES,
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{home}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
