"""The streams of the demo's other pages. The pages show this code, so keep each stream short."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from typing import TypedDict

from django.contrib.auth.models import User
from rest_framework.permissions import IsAuthenticated

from django_sse import JobView, ServerSentEvent, SSEView, Topic, apresence

from .models import Import
from .serializers import PromptSerializer


class OnPage(SSEView):
    """A stream that the button "Cut my connection" of its page can end.

    The page's id is in the address. The view ends all streams that follow the topic with this id, in
    any process.
    """

    async def get_topics(self) -> list[str]:
        page = self.request.GET.get("page", "")
        return [*self.topics, *([f"page:{page}"] if re.fullmatch(r"[a-z0-9]{8,40}", page) else [])]


class Price(TypedDict):
    """The current price of a product. ``number`` counts the changes of all prices."""

    name: str
    price: float
    bid: float
    ask: float
    volume: int
    time: str
    number: int


PRICES = Topic("prices", events={"price": Price})


class Prices(OnPage):
    """Thousands of changes a second. A slow client gets the newest price of each name."""

    topics = [PRICES]
    overflow = "latest"  # keeps the newest event of each key, which publish() has set
    outbox_limit = 16_384  # bytes
    presence = True  # the background process changes prices only while a client follows them
    authentication_classes = []
    permission_classes = []

    async def get_presence(self) -> list[str]:
        return [PRICES]


class Imports(OnPage):
    """The progress of jobs, which continue after a reload or a restart of the server."""

    topics = [Topic("imports", events={"progress": Import})]
    authentication_classes = []
    permission_classes = []

    async def snapshot(self) -> AsyncIterator[ServerSentEvent]:
        newest = Import.objects.order_by("-pk")[:3]
        for job in reversed([job async for job in newest]):
            yield ServerSentEvent(job, event="progress")


class Word(TypedDict):
    """A part of an answer."""

    text: str


class Answer(JobView):
    """An answer that continues when its client disconnects. The client resumes, and gets the rest."""

    authentication_classes = []
    permission_classes = []
    serializer_class = PromptSerializer
    events = {"word": Word}

    async def work(self) -> None:
        text = f"You have asked: {self.data['prompt']} " + ANSWER
        for word in re.findall(r"\S+\s*", text):
            await self.send({"text": word}, event="word")
            await asyncio.sleep(0.15)


#: The text that a language model would generate.
ANSWER = (
    "That is a good question. Leave now, or reload the page. I do not notice, because I "
    "publish to a topic. When you are back, you get every word that you missed, once, and then the "
    "rest while I write it. Others can follow this answer at the same address. You can cancel it."
)


class Member(TypedDict):
    """A user who is present."""

    user: str
    name: str


class Note(TypedDict):
    """A notification for one user."""

    text: str


class Team(OnPage):
    """The present users, and the user's own notifications: one stream, two topics."""

    permission_classes = [IsAuthenticated]
    presence = True  # publishes join and leave
    topics = ["team"]
    events = {"member": Member, "note": Note}

    async def get_topics(self) -> list[str]:
        return [*await super().get_topics(), f"user:{self.user.pk}"]

    async def get_presence(self) -> list[str]:
        return ["team"]

    async def snapshot(self) -> None:
        here = (await apresence("team")).users
        async for user in User.objects.filter(pk__in=[*here, self.user.pk]).order_by("username"):
            member = {"user": str(user.pk), "name": user.get_username()}
            await self.send(member, event="member")
