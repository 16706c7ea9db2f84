"""Connections to other libraries: metrics for Prometheus, and spans for OpenTelemetry.

``apps`` imports a module of this package only if its library is installed. It promises that streams
cost nothing more where the library is missing.
"""
