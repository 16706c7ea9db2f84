"""What tests of streams use: connect to a view or an application without a socket, see what is
published.

Tests import these names from ``django_sse.testing``; the package itself imports this one nowhere
but in its pytest plugin. It promises that a test sees the bytes that a server would have sent.
"""

from .client import (
    NothingReceived,
    Published,
    StreamClient,
    StreamEnded,
    capture_published,
    connect,
    project_application,
)

__all__ = [
    "NothingReceived",
    "Published",
    "StreamClient",
    "StreamEnded",
    "capture_published",
    "connect",
    "project_application",
]
