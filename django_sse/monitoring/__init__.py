"""Monitoring: the counters and ``stats()``, the reports of a stream, and the doctor.

The packages above it count and report here, and the management commands show the results. It imports
``connection`` (for the open streams) and what is below that. It promises that counting takes no lock
where events are sent.
"""
