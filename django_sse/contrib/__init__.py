"""Connections to other libraries.

``prometheus``, ``opentelemetry`` and ``spectacular`` are imported by ``apps``, and only if their
library is installed. They promise that streams cost nothing more where it is missing. ``htmx``,
``turbo`` and ``datastar`` make HTML for libraries of the page; projects import them.
"""
