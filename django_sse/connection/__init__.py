"""The parts of one open connection, and the objects that all connections of a process share.

The packages above it (``monitoring``, ``topics``, ``handshake``) and the views import it; it
imports ``servers``, ``wire`` and the settings. It promises bounded memory for each connection,
events that never interleave, and an end for everything that it starts: tasks, timers, threads.
"""
