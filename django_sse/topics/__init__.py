"""From ``publish()`` to every connection that follows a topic, in all processes.

The handshake and the views import it; it hands events to a broker, and takes them from the broker's
listener to the connections. It promises order, no loss without notice, and one encoding of an event
for all its clients.
"""
