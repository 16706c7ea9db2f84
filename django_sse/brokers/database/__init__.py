"""The broker of many processes in the project's own database.

``DatabaseBroker`` is the class that a project names in its settings. The modules here import
Django's database layer and ``brokers.base``. They promise:

- An event is stored in the transaction of the change that it tells of.
- Ids follow one order for all processes.
- After a lost connection, no event is missing without ``lost()`` or ``HistoryLost``.
"""

from .broker import DatabaseBroker

__all__ = ["DatabaseBroker"]
