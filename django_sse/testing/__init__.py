"""Tools for tests of streams: a client without a socket, and the list of published events.

Tests import these names from ``django_sse.testing``. In the package, only the pytest plugin imports
it. It promises that a test sees the bytes that a server would have sent.
"""

from .client import NothingReceived, StreamClient, StreamEnded
from .connecting import connect, project_application
from .published import Published, capture_published

__all__ = [
    "NothingReceived",
    "Published",
    "StreamClient",
    "StreamEnded",
    "capture_published",
    "connect",
    "project_application",
]
