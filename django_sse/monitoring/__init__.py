"""What is known of streams: counters and ``stats()``, and the doctor that examines one from
outside.

The packages above it count here, and the management commands show what was counted. It imports
``connection`` (for the streams that are open) and what is below that. It promises that to count
costs no lock where events are sent.
"""
