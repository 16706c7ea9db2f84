"""Signals of a stream's life.

Receivers may be sync or async; sync ones run in the thread of the stream's synchronous work. What
they raise is logged by Django, and harms neither the stream nor other receivers. ``sender`` is the
view's class.
"""

from __future__ import annotations

from django.dispatch import Signal

stream_opened = Signal()
"""A stream has begun, with ``view``. Its headers are sent, and ``stream()`` starts after it."""

stream_closed = Signal()
"""A stream has ended, with ``view``, ``reason`` (its ``close_reason``) and ``duration`` (seconds).

Sent after ``disconnect()``.
"""
