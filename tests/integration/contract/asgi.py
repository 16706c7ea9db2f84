"""The demo, with streams that end: schemathesis reads each answer to its end."""

from __future__ import annotations

from testproject.asgi import application
from testproject.shop.streams import Clock, Orders

for stream in (Clock, Orders):
    stream.max_duration = 0.2

__all__ = ["application"]
