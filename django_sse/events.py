"""The public names of the wire format: an event, and the decoder of a stream."""

from .wire.events import EventDecoder, ServerSentEvent

__all__ = ["EventDecoder", "ServerSentEvent"]
