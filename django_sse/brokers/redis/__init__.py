"""The broker of many processes and machines, in Redis or Valkey.

``RedisBroker`` is the class that a project names in its settings. The modules here import Redis'
client library and ``brokers.base``. They promise that ids rise over all topics, and that after a
lost connection no event is missing without ``lost()`` or ``HistoryLost``.
"""

from .broker import RedisBroker

__all__ = ["RedisBroker"]
