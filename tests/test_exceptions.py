"""The tree of errors."""

from __future__ import annotations

import copy
import pickle

import pytest

from django_sse import exceptions
from django_sse.exceptions import (
    EventTooLarge,
    InvalidEvent,
    InvalidTopic,
    PublishFailed,
    SerializerNotFound,
    SSEError,
)


def test_all_errors_are_of_one_tree() -> None:
    own = [
        member
        for member in vars(exceptions).values()
        if isinstance(member, type) and member.__module__ == exceptions.__name__
    ]
    assert len(own) > 5
    assert all(issubclass(error, SSEError) for error in own)


@pytest.mark.parametrize(
    "error",
    [
        InvalidEvent("no such event", field="id", value="\n"),
        SerializerNotFound("no serializer", type=dict, view=None),
        EventTooLarge("too large", size=5),
        InvalidTopic("no such topic", topic=5),
        PublishFailed("not confirmed", may_be_stored=True),
    ],
    ids=lambda error: type(error).__name__,
)
def test_error_survives_a_task_queue(error: SSEError) -> None:
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(again) is type(error)
        assert str(again) == str(error)
        assert vars(again) == vars(error)
        assert vars(again)
