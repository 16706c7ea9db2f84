"""The events of a ``ModelSSEView``, the same for all of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

from django_sse.wire.serialization import SerializerClass

#: The id of the beginning of a snapshot. A client that drops in it has no copy to go on with.
UNFINISHED = "snapshot"


class Begin(TypedDict):
    """The data of ``begin``: the name of the field by which clients know a row."""

    key: str


def events_of(serializer_class: SerializerClass) -> Mapping[str | None, Any]:
    """Return the declaration of the events of rows with this serializer."""
    row: Any = serializer_class
    return {"begin": Begin, "created": row, "changed": row, "deleted": dict, "end": dict}
