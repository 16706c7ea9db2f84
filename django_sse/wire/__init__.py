"""The wire: events and their bytes, objects as text, and the declaration of a heartbeat.

Every other package may import it. It imports ``django_sse.exceptions`` alone, so it knows no
connection, no topic and no setting; ``events`` does not even know Django. It promises the wire
format: the WHATWG HTML standard, section 9.2 "Server-sent events", byte for byte, with nothing
silently repaired.
"""
