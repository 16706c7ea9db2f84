"""The views that start jobs, as far as their modules are imported; for the system checks.

It imports nothing, since processes without streams import the checks too.
"""

from __future__ import annotations

from weakref import WeakSet

#: The classes of a project that are a ``JobView``.
defined: WeakSet[type] = WeakSet()
