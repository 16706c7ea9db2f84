"""The management commands: ``sse_doctor``, ``sse_publish``, ``sse_stats`` and ``sse_tail``."""
