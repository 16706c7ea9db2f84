"""The connections to Redis on which scripts run: for threads and for event loops, reused, not
shared by forks.

This uses redis-py's connections without its clients and pools. Those send a command again after a
failure, and cannot say whether it was sent at all. ``publish()`` must know that.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import AsyncGenerator, Coroutine, Mapping, Sequence
from contextvars import Context
from typing import Any, Protocol
from urllib.parse import urlsplit

import redis.asyncio
from django.core.exceptions import ImproperlyConfigured
from redis.exceptions import (
    NoScriptError,
    ResponseError,
)
from redis.exceptions import TimeoutError as RedisTimeoutError

from .attempts import AWAY, Attempt, refined
from .policy import evicting_policy
from .script import Script

#: How many commands of one event loop may be under way at once. Each has its own connection.
CONNECTIONS_PER_LOOP = 8
# The shortest time limit in seconds, for a command that is late already. 0 would mean not to wait
# at all.
_SHORTEST = 0.001
#: How many idle connections of threads are kept.
IDLE_CONNECTIONS = 32

# What this code relies on: raw bytes; replies and published messages of the same form (RESP2); and
# no time limits, retries or health checks besides its own.
_FIXED: dict[str, Any] = {
    "protocol": 2,
    "decode_responses": False,
    "encoding": "utf-8",
    "health_check_interval": 0,
    "retry": None,
    "retry_on_error": [],
    "retry_on_timeout": False,
    "socket_timeout": None,
    "socket_connect_timeout": None,
}


class ThreadConnection(Protocol):
    """The used part of ``redis.Connection``, which has only some types."""

    #: When all steps must be over, in the time of ``time.monotonic()``.
    deadline: float

    def connect(self) -> None:
        """Connect, unless it is connected."""

    def disconnect(self) -> None:
        """Close the connection."""

    def send_command(self, *command: Any) -> None:
        """Send one command."""

    def can_read(self, timeout: float) -> bool:
        """Wait for something to read, for ``timeout`` seconds at most."""

    def read_response(self) -> Any:
        """Return one reply; raise it where it is an error."""


class LoopConnection(Protocol):
    """The used part of ``redis.asyncio.Connection``."""

    @property
    def is_connected(self) -> bool:
        """Whether it is connected."""

    def connect(self) -> Coroutine[Any, Any, None]:
        """Connect."""

    async def disconnect(self, nowait: bool = False) -> None:
        """Close the connection; with ``nowait``, do not wait for the peer."""

    async def send_command(self, *command: Any) -> None:
        """Send one command."""

    async def read_response(self) -> Any:
        """Return one reply; raise it where it is an error."""


class _Timed:
    """Puts one time limit on all steps of a thread's connection together; redis-py limits each
    step.

    Connecting takes several steps: for a password, a database's number, the client's name.
    """

    deadline = 0.0

    def send_packed_command(self, *args: Any, **kwargs: Any) -> Any:
        self._limit()
        return super().send_packed_command(*args, **kwargs)  # type: ignore[misc]

    def read_response(self, *args: Any, **kwargs: Any) -> Any:
        self._limit()
        return super().read_response(*args, **kwargs)  # type: ignore[misc]

    def _limit(self) -> None:
        socket = getattr(self, "_sock", None)
        if socket is not None:
            socket.settimeout(max(self.deadline - time.monotonic(), _SHORTEST))


class Connector:
    """Makes connections for threads and for event loops to the server of ``LOCATION``."""

    def __init__(self, location: str, options: Mapping[str, Any]) -> None:
        """Take ``LOCATION`` and redis-py's arguments; raise ``ImproperlyConfigured`` for wrong ones."""
        try:
            # Used only to parse the URL, and to find the class of its connections.
            kwargs = {**options, **_FIXED}
            self._threads: Any = redis.ConnectionPool.from_url(location, **kwargs)
            self._loops: Any = redis.asyncio.ConnectionPool.from_url(location, **kwargs)
            self._timed = type("Timed", (_Timed, self._threads.connection_class), {})
            self.make_for_thread(time.monotonic())
        except (ValueError, TypeError) as error:
            raise ImproperlyConfigured(
                'DJANGO_SSE["BROKER"]["LOCATION"] must be a redis://, rediss:// or unix:// URL, '
                f'and OPTIONS["CLIENT"] what redis-py\'s connections accept. It says: {error}'
            ) from error
        kwargs = self._threads.connection_kwargs
        for name, value in _FIXED.items():
            # The query of the URL takes precedence over the arguments.
            if name in options or kwargs.get(name) != value:
                raise ImproperlyConfigured(
                    f'DJANGO_SSE["BROKER"] must not set {name!r} for redis-py, neither in LOCATION '
                    'nor in OPTIONS["CLIENT"]: RedisBroker does.'
                )
        path = urlsplit(location).path.strip("/")
        if path and not path.isdecimal() and not location.startswith("unix:"):
            # redis-py would silently use the database 0.
            raise ImproperlyConfigured(
                'DJANGO_SSE["BROKER"]["LOCATION"] ends with the number of a database, as in '
                f"redis://127.0.0.1:6379/0, got {path!r}."
            )
        self.database = int(kwargs.get("db") or 0)
        #: Whether the server was asked for its policy of evicting keys.
        self.looked_at = False
        #: The server's address, without a password.
        self.address = kwargs.get("path") or "{}:{}/{}".format(
            kwargs.get("host", "localhost"), kwargs.get("port", 6379), self.database
        )

    def make_for_thread(self, deadline: float) -> ThreadConnection:
        """Return a connection that is not connected yet; all its steps together end at ``deadline``."""
        timeout = max(deadline - time.monotonic(), _SHORTEST)
        limits = {"socket_timeout": timeout, "socket_connect_timeout": timeout}
        kwargs = self._threads.connection_kwargs | limits
        connection: ThreadConnection = self._timed(**kwargs)
        connection.deadline = deadline
        return connection

    def make_for_loop(self) -> LoopConnection:
        """Return a connection for the running event loop that is not connected yet, without a time limit."""
        connection: LoopConnection = self._loops.connection_class(**self._loops.connection_kwargs)
        return connection


class Connections:
    """All connections of this process on which scripts run."""

    def __init__(self, connector: Connector, inherited: Connections | None = None) -> None:
        """Begin without connections; keep those ``inherited`` from a parent process untouched."""
        self.pid = os.getpid()
        # Keep a reference to the parent process's connections. Collecting them would close them
        # here.
        self._inherited = inherited
        self._connector = connector
        self._lock = threading.Lock()
        self._idle: list[ThreadConnection] = []
        self._loops: dict[asyncio.AbstractEventLoop, LoopConnections] = {}

    def run(
        self,
        script: Script,
        keys: Sequence[str],
        args: Sequence[Any],
        attempt: Attempt,
        deadline: float,
    ) -> Any:
        """Run a script once, from any thread, until ``deadline`` (``time.monotonic()``) at most."""
        with self._lock:
            connection = self._idle.pop() if self._idle else None
        if connection is not None and _is_stale(connection):
            connection.disconnect()
            connection = None
        if connection is None:
            connection = self._connector.make_for_thread(deadline)
        try:
            connection.deadline = deadline
            connection.connect()
            attempt.sent = True
            try:
                reply = _call(connection, script.by_name(keys, args), deadline)
            except NoScriptError:
                reply = _call(connection, script.in_full(keys, args), deadline)
        except BaseException as error:
            attempt.take_note(error)
            # Disconnect also after a mere refusal: by now, the name may point to another server.
            connection.disconnect()
            self._drop_idle()
            raise
        with self._lock:
            if len(self._idle) < IDLE_CONNECTIONS:
                self._idle.append(connection)
                return reply
        connection.disconnect()
        return reply

    def policy(self, deadline: float) -> str | None:
        """Return the policy by which Redis evicts keys; ``None`` if it evicts none, or may not be asked."""
        connection = self._connector.make_for_thread(deadline)
        try:
            connection.connect()
            return evicting_policy(_call(connection, ("INFO", "memory"), deadline))
        except ResponseError:
            return None
        finally:
            connection.disconnect()

    def for_running_loop(self) -> LoopConnections:
        """Return the connections of the event loop that runs in this thread; make them if needed."""
        loop = asyncio.get_running_loop()
        with self._lock:
            mine = self._loops.get(loop)
            if mine is None:
                for other in [other for other in self._loops if other.is_closed()]:
                    del self._loops[other]
                mine = self._loops[loop] = LoopConnections(self._connector)
        return mine

    def close(self) -> None:
        """Close idle connections; those in use are closed after their use. Safe from any thread."""
        with self._lock:
            loops, self._loops = self._loops, {}
        self._drop_idle()
        for loop, connections in loops.items():
            # Raised where the loop is closed; then its connections are, too.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(connections.start_to_close)

    def _drop_idle(self) -> None:
        # Where one connection has failed, the older ones most likely have, too. Do not try them one
        # by one.
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.disconnect()


class LoopConnections:
    """The connections of one event loop, closed when the loop ends.

    ``asyncio.run()`` closes asynchronous generators that are still open, and so does everything
    else that ends a loop properly (also ``async_to_sync``, with a loop for each call). This keeps
    one open for that.
    """

    def __init__(self, connector: Connector) -> None:
        """Begin without connections, for the running event loop."""
        self._connector = connector
        self._idle: list[LoopConnection] = []
        self._slots = asyncio.Semaphore(CONNECTIONS_PER_LOOP)
        self._end_of_loop: AsyncGenerator[None, None] | None = None
        self._closed = False
        self._closing: asyncio.Task[None] | None = None

    async def run(
        self, script: Script, keys: Sequence[str], args: Sequence[Any], attempt: Attempt
    ) -> Any:
        """Run a script once. The caller limits the time, by cancelling."""
        if self._end_of_loop is None:
            self._end_of_loop = self._close_at_end_of_loop()
            await anext(self._end_of_loop)
        async with self._slots:
            connection = self._idle.pop() if self._idle else self._connector.make_for_loop()
            try:
                if connection.is_connected and await _is_stale_async(connection):
                    await connection.disconnect(nowait=True)
                if not connection.is_connected:
                    # Use an empty context. The connection outlives the caller's, and would keep it.
                    connecting = connection.connect()
                    await asyncio.get_running_loop().create_task(connecting, context=Context())
                attempt.sent = True
                try:
                    reply = await _call_async(connection, script.by_name(keys, args))
                except NoScriptError:
                    reply = await _call_async(connection, script.in_full(keys, args))
            except BaseException as error:
                attempt.take_note(error)
                await connection.disconnect(nowait=True)
                if isinstance(error, AWAY):
                    # Where one has failed, the others most likely have, too. Do not try them one by
                    # one.
                    await self.close_idle()
                raise
            if self._closed:
                await connection.disconnect(nowait=True)
            else:
                self._idle.append(connection)
            return reply

    async def close_idle(self) -> None:
        """Close the connections that are not in use. More can be opened afterwards."""
        idle, self._idle = self._idle, []
        for connection in idle:
            # Do not wait for the peer, which may be gone. Nothing waits to be sent.
            await connection.disconnect(nowait=True)

    def start_to_close(self) -> None:
        """Close everything, now or after its use. Called on the event loop."""
        self._closed = True
        self._closing = asyncio.ensure_future(self.close_idle())

    async def _close_at_end_of_loop(self) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            self._closed = True
            await self.close_idle()


def _call(connection: ThreadConnection, command: Sequence[Any], deadline: float) -> Any:
    connection.send_command(*command)
    # read_response() alone would wait for the time limit with which the connection was made.
    if not connection.can_read(timeout=max(deadline - time.monotonic(), 0)):
        raise RedisTimeoutError("Redis did not answer in time.")
    try:
        return connection.read_response()
    except ResponseError as error:
        raise refined(error) from None


async def _call_async(connection: LoopConnection, command: Sequence[Any]) -> Any:
    await connection.send_command(*command)
    try:
        return await connection.read_response()
    except ResponseError as error:
        raise refined(error) from None


def _is_stale(connection: ThreadConnection) -> bool:
    # Redis sends nothing unasked, so something to read means that the connection has ended. Found
    # before a command is sent, this is no error for the publisher.
    try:
        return connection.can_read(timeout=0)
    except AWAY:
        return True


async def _is_stale_async(connection: LoopConnection) -> bool:
    # redis-py 8 has renamed the method.
    name = "can_read" if hasattr(connection, "can_read") else "can_read_destructive"
    return bool(await getattr(connection, name)())
