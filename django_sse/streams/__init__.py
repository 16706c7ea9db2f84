"""The abilities of one stream: send objects, send heartbeats, follow topics, hear channel-layer groups.

Each module has a class of streams with one ability, its attributes and its hooks; ``SSEView``
combines them. The views and the handshake import this package; it imports ``topics``,
``connection`` and what is below them. It promises that each ability ends with its stream, and that
one which a view does not use costs its streams nothing.
"""
