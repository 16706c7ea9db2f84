import logging

import newrelic.agent


class NewRelicHandler(logging.Handler):
    """Reports the exceptions that django_sse logs to New Relic."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:
            newrelic.agent.notice_error(
                record.exc_info,
                attributes={"path": getattr(record, "path", None)},
                # The request's transaction may have ended with the handshake.
                application=newrelic.agent.application(),
            )
