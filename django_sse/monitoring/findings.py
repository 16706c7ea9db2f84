"""The findings of the doctor, and the remedy that several findings share."""

from __future__ import annotations

from dataclasses import dataclass

NGINX_BUFFERING = (
    "nginx: take out `proxy_ignore_headers X-Accel-Buffering`, or say `proxy_buffering off;` where "
    "the streams are. Others: switch the buffering of responses off for text/event-stream."
)


@dataclass(frozen=True)
class Finding:
    """One finding; ``level`` is ``ok``, ``note`` or ``problem``."""

    code: str
    level: str
    text: str
    remedy: str = ""
