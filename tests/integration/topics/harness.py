"""Numbered events, many clients that come and go, and a judge who knows what each should have got."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import sys
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from django_sse.brokers.base import EventId
from tests.integration.topics.project.publishers import Note
from tests.support.servers import ROOT

#: Seconds for anything that a test waits for, on a machine that is busy.
PATIENCE = 60.0

Address = tuple[str, int]


class Block(NamedTuple):
    """One block of the stream, as a browser reads it."""

    data: str | None = None
    event: str | None = None
    id: str | None = None
    comments: str | None = None


class Blocks:
    """Cuts a stream of this package into its blocks.

    For events by the hundred thousand: it knows only what the encoder writes, and is several
    times as fast as the conforming decoder.
    """

    def __init__(self) -> None:
        self.last_event_id = ""
        self._rest = b""

    def feed(self, data: bytes) -> list[Block]:
        """Return the blocks that are complete with this."""
        *blocks, self._rest = (self._rest + data).split(b"\n\n")
        return [self._block(block.decode()) for block in blocks]

    def _block(self, block: str) -> Block:
        fields: dict[str, str] = {}
        for line in block.split("\n"):
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            fields[name] = f"{fields[name]}\n{value}" if name in fields else value
        if "id" in fields:
            self.last_event_id = fields["id"]
        return Block(fields.get("data"), fields.get("event"), fields.get("id"), fields.get(""))


class Connection:
    """One request on a socket of its own, and the events of its response as they come."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._left = 0  # bytes of the chunk that is being read
        self.status = 0
        self.ended = False
        self.decoder = Blocks()

    @classmethod
    async def get(cls, address: Address, path: str, last_event_id: str = "") -> Connection:
        """Connect, and read the head of the response. Little waits unread on this side."""
        client = socket.socket()
        client.setblocking(False)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**16)
        await asyncio.get_running_loop().sock_connect(client, address)
        reader, writer = await asyncio.open_connection(sock=client, limit=2**16)
        lines = [f"GET {path} HTTP/1.1", "Host: 127.0.0.1", "Accept: text/event-stream"]
        if last_event_id:
            lines.append(f"Last-Event-ID: {last_event_id}")
        writer.write("\r\n".join([*lines, "", ""]).encode())
        connection = cls(reader, writer)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except BaseException:
            connection.drop()
            raise
        connection.status = int(head.split()[1])
        assert b"transfer-encoding: chunked" in head.lower(), head
        return connection

    async def read(self) -> list[Block]:
        """Return the next events; none where a chunk completes none, or the response has ended."""
        if not self._left:
            size = await self._reader.readline()
            if not size:
                raise asyncio.IncompleteReadError(size, None)
            self._left = int(size, 16)
            if not self._left:
                await self._reader.readline()
                self.ended = True
                return []
        data = await self._reader.read(self._left)
        if not data:
            raise asyncio.IncompleteReadError(data, self._left)
        self._left -= len(data)
        if not self._left:
            await self._reader.readexactly(2)
        return self.decoder.feed(data)

    async def until(self, event: str) -> list[Block]:
        """Return everything up to an event of this type, with it; also blocks without data."""
        found: list[Block] = []
        async with asyncio.timeout(PATIENCE):
            while not any(block.event == event for block in found):
                assert not self.ended, found
                found += await self.read()
        return found

    def drop(self) -> None:
        """Leave without a word."""
        self._writer.transport.abort()


@dataclass
class Span:
    """What a client got since it began, or was told to begin anew.

    ``since`` is the cursor that a fresh client or one with a ``reset`` was given; ``None`` where it
    dropped before it had one.
    """

    since: EventId | None = None
    events: list[tuple[EventId, str]] = field(default_factory=list)


class Follower:
    """A browser: it follows topics, and reconnects with the last id that it has seen.

    It drops its connection after a random number of events (``drops``: of how many at most, 0 for
    never), and waits up to ``absence`` seconds before it comes back.
    """

    def __init__(
        self,
        addresses: Collection[Address],
        topics: Collection[str],
        rng: random.Random,
        *,
        path: str = "/numbers/",
        drops: int = 0,
        absence: float = 0.0,
    ) -> None:
        self.topics = frozenset(topics)
        self.path = f"{path}?topics={','.join(sorted(topics))}"
        self.spans = [Span()]
        self.resets = 0
        self.snapshots = 0
        self.beats = 0
        self.connections = 0
        self.dropped = 0
        self.last_event_id = ""
        self.faults: list[str] = []
        #: Set once the client has its cursor, and everything until then.
        self.caught_up = asyncio.Event()
        self._addresses = list(addresses)
        self._rng = rng
        self._drops = drops
        self._absence = absence
        self._connection: Connection | None = None

    async def follow(self) -> None:
        """Follow until an event of the type ``end`` comes."""
        while True:
            try:
                if await self._connect():
                    return
            except (OSError, asyncio.IncompleteReadError):
                pass  # The server went; a browser would come back too.
            finally:
                if self._connection is not None:
                    self._connection.drop()
            await asyncio.sleep(self._rng.uniform(0, self._absence))

    def drop(self) -> None:
        """Cut the connection that is open."""
        if self._connection is not None:
            self._connection.drop()

    async def _connect(self) -> bool:
        address = self._rng.choice(self._addresses)
        self._connection = None
        connection = await Connection.get(address, self.path, self.last_event_id)
        self._connection = connection
        self.connections += 1
        if connection.status != 200:
            self.faults.append(f"status {connection.status}")
            return True
        connection.decoder.last_event_id = self.last_event_id
        left = self._rng.randint(1, self._drops) if self._drops else sys.maxsize
        while not connection.ended:
            for block in await connection.read():
                if block.event == "end":
                    return True
                self._take(block)
                if block.id is not None:
                    left -= 1
                    if left <= 0:
                        self.dropped += 1
                        return False
        return False

    def _take(self, block: Block) -> None:
        if block.data is None and block.id is None:
            self.beats += block.comments is not None
        elif block.event == "reset":
            self.resets += 1
            self.caught_up.clear()
            self.spans.append(Span())
            if block.id is not None:
                self.faults.append(f"a reset with the id {block.id}")
        elif block.event == "snapshot":
            self.snapshots += 1
            if block.id is not None:
                self.faults.append(f"a snapshot with the id {block.id}")
        else:
            event_id = EventId.parse(block.id or "")
            if event_id is None:
                self.faults.append(f"an event without an id: {block!r}")
                return
            self.last_event_id = block.id or ""
            span = self.spans[-1]
            if block.data is None:
                if span.since is not None:
                    self.faults.append(f"a cursor {event_id} after {span.since}")
                span.since = event_id
                self.caught_up.set()
            else:
                span.events.append((event_id, block.data))


@dataclass
class Truth:
    """What was published: by id, and what may or may not be stored."""

    notes: list[Note] = field(default_factory=list)

    def add(self, notes: Iterable[Note]) -> None:
        """Take a publisher's notes, in the order in which it published."""
        new = list(notes)
        ids = [parse(note.id) for note in new if note.id is not None]
        by_name: dict[str, list[EventId]] = {}
        for note in new:
            if note.id is not None:
                by_name.setdefault(note.data.rpartition(":")[0], []).append(parse(note.id))
        for name, given in by_name.items():
            assert given == sorted(set(given)), f"the ids that {name} was given do not rise"
        assert len(ids) == len(set(ids))
        self.notes += new

    def judge(self, follower: Follower) -> None:
        """Assert that a follower got everything of its topics in order, once, between its resets."""
        assert follower.faults == []
        mine = [note for note in self.notes if not follower.topics.isdisjoint(note.topics)]
        sure = {parse(note.id): note.data for note in mine if note.id is not None}
        maybe = {note.data for note in mine if note.may_be_stored}
        seen: set[str] = set()
        for number, span in enumerate(follower.spans):
            if span.since is None:
                # Dropped before it was caught up: nothing with an id may have come.
                assert span.events == [], (number, span.events[:3])
                continue
            got = dict(span.events)
            ids = [event_id for event_id, _ in span.events]
            assert ids == sorted(set(ids)), f"out of order or twice: {_first_disorder(ids)}"
            assert not ids or ids[0] > span.since
            for event_id, data in span.events:
                assert data not in seen, f"{data} came twice"
                seen.add(data)
                assert sure.get(event_id) == data or data in maybe, f"{data} was not published"
            last = number == len(follower.spans) - 1
            end = max(sure, default=span.since) if last else max(ids, default=span.since)
            missing = sorted(
                data
                for event_id, data in sure.items()
                if span.since < event_id <= end and event_id not in got
            )
            assert not missing, (
                f"{len(missing)} of {len(sure)} events are missing in span {number} of "
                f"{len(follower.spans)}, {missing[:5]} among them"
            )


def parse(text: str | None) -> EventId:
    event_id = EventId.parse(text or "")
    assert event_id is not None, text
    return event_id


def _first_disorder(ids: list[EventId]) -> str:
    for number in range(1, len(ids)):
        if ids[number] <= ids[number - 1]:
            return f"{ids[number - 1]} before {ids[number]} at {number} of {len(ids)}"
    return "none"


async def post(address: Address, path: str, body: Any) -> Any:
    """Post JSON, and return the JSON of the answer."""
    reader, writer = await asyncio.open_connection(*address)
    try:
        data = json.dumps(body).encode()
        writer.write(
            f"POST {path} HTTP/1.0\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(data)}\r\n\r\n".encode()
            + data
        )
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.split()[1] == b"200", head
        if b"transfer-encoding: chunked" in head.lower():
            answer = b""
            while size := int(await reader.readline(), 16):
                answer += await reader.readexactly(size)
                await reader.readexactly(2)
        else:
            answer = await reader.read()
        return json.loads(answer)
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def post_job(address: Address, path: str, job: dict[str, Any]) -> list[Note]:
    """Let a server publish a job in its own process."""
    return [Note(**fields) for fields in await post(address, path, job)]


async def manage(env: dict[str, str], *args: str) -> str:
    """Run a management command in a process of its own; return what it printed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "django",
        *args,
        cwd=ROOT,
        env=env,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, error = await asyncio.wait_for(process.communicate(), PATIENCE)
    except BaseException:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        raise
    assert process.returncode == 0, error.decode()
    return out.decode()


async def run_job(env: dict[str, str], how: str, job: dict[str, Any]) -> list[Note]:
    """Publish a job from a process of its own."""
    printed = await manage(env, "publish_numbers", how, json.dumps(job))
    return [Note(**fields) for fields in json.loads(printed)]


class Crowd:
    """Followers that follow together: ``async with Crowd(followers): …`` begins once all are caught up."""

    def __init__(self, followers: Collection[Follower]) -> None:
        self.followers = list(followers)
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Crowd:
        self._tasks = [asyncio.create_task(follower.follow()) for follower in self.followers]
        try:
            await self._until(lambda follower: follower.caught_up.is_set())
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *error: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def until_received(self, count: int) -> None:
        """Wait until every follower has got so many events, since its last reset."""
        await self._until(lambda follower: len(follower.spans[-1].events) >= count)

    async def _until(self, condition: Callable[[Follower], bool]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not all(map(condition, self.followers)):
                for task, follower in zip(self._tasks, self.followers, strict=True):
                    if task.done():
                        task.result()
                        raise AssertionError(f"A follower ended too soon: {follower.faults}")
                await asyncio.sleep(0.02)

    async def until_ended(self, address: Address) -> None:
        """Publish ``end`` to everybody, until everybody has heard it."""
        topics = sorted(frozenset().union(*(follower.topics for follower in self.followers)))
        waiting = set(self._tasks)
        async with asyncio.timeout(PATIENCE):
            while waiting:
                # Again and again: who is away, and comes back to a reset, does not get it.
                await post(address, "/publish/one/", {"topics": topics, "event": "end", "data": ""})
                done, waiting = await asyncio.wait(waiting, timeout=0.5)
                for task in done:
                    task.result()
