import logging

from ddtrace.trace import tracer


class DatadogHandler(logging.Handler):
    """Marks the span of the request whose stream has failed."""

    def emit(self, record: logging.LogRecord) -> None:
        span = tracer.current_root_span()
        if record.exc_info and span is not None:
            span.set_exc_info(*record.exc_info)
