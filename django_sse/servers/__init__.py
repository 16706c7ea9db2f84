"""What each ASGI server says of its connections beyond ASGI: the only package that knows a server.

``connection`` and the modules above it import this package; it imports nothing of ``django_sse``. It promises
that a server, or a version of one, that it does not know is served in the general case with full function.
"""
