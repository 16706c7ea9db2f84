"""Measurements of ``django_sse``, each beside a bare ASGI application on the same server.

``python -m benchmarks`` runs them all and prints a Markdown table; ``--help`` says the rest.
"""
