"""The broker of many processes and machines, in Redis or Valkey.

``RedisBroker`` is the class that a project names. The modules here know Redis and the contract of
``brokers.base``. They promise that ids rise over all topics, and that a connection which broke is
resumed without a gap, or its loss told.
"""

from .broker import RedisBroker

__all__ = ["RedisBroker"]
