"""The bare ASGI application that everything is measured beside: no framework, no checks."""

from __future__ import annotations

import asyncio
import json
import random
import time
from typing import Any
from urllib.parse import parse_qsl

START = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-store")],
}

queues: set[asyncio.Queue[bytes]] = set()


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Serve one of the pages below."""
    query = dict(parse_qsl(scope["query_string"].decode()))
    await PAGES[scope["path"]](receive, send, query)


def body(data: bytes, more: bool = True) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": more}


async def answer(send: Any, data: Any = None) -> None:
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send(body(json.dumps(data).encode(), more=False))


async def warm_up(receive: Any, send: Any, query: dict[str, str]) -> None:
    await answer(send)


async def idle(receive: Any, send: Any, query: dict[str, str]) -> None:
    """Say something and wait for the client to leave."""
    await send(START)
    await send(body(b":\n\n"))
    while (await receive())["type"] != "http.disconnect":
        pass


async def beat(receive: Any, send: Any, query: dict[str, str]) -> None:
    """Send a comment every ``period`` seconds, until the client leaves."""
    await send(START)
    await send(body(b":\n\n"))
    beating = asyncio.create_task(keep_beating(send, float(query["period"])))
    try:
        while (await receive())["type"] != "http.disconnect":
            pass
    finally:
        beating.cancel()


async def keep_beating(send: Any, period: float) -> None:
    await asyncio.sleep(period * random.random())
    while True:
        await send(body(b": heartbeat\n\n"))
        await asyncio.sleep(period)


async def burst(receive: Any, send: Any, query: dict[str, str]) -> None:
    """Send so many events of so many bytes, one by one."""
    await send(START)
    await send(body(b":\n\n"))
    event = b"data: %b\n\n" % (b"x" * (int(query["size"]) - 8))
    for _ in range(int(query["count"])):
        await send(body(event))
    await send(body(b"", more=False))


async def follow(receive: Any, send: Any, query: dict[str, str]) -> None:
    """Send what arrives in a queue of one's own, until the client leaves."""
    queue: asyncio.Queue[bytes] = asyncio.Queue()
    queues.add(queue)
    await send(START)
    await send(body(b":\n\n"))
    sender = asyncio.create_task(pass_on(queue, send))
    try:
        while (await receive())["type"] != "http.disconnect":
            pass
    finally:
        queues.discard(queue)
        sender.cancel()


async def pass_on(queue: asyncio.Queue[bytes], send: Any) -> None:
    while True:
        await send(body(await queue.get()))


async def publish(receive: Any, send: Any, query: dict[str, str]) -> None:
    """Give so many events to every queue, encoded once: at a rate, or as fast as may be."""
    size, rate = int(query["size"]), float(query.get("rate", 0))
    begun = time.monotonic()
    for number in range(int(query["count"])):
        stamp = f"t={time.monotonic_ns()};".encode()
        event = b"id: %d\ndata: %b\n\n" % (number, stamp.ljust(size, b"x"))
        for queue in queues:
            queue.put_nowait(event)
        pause = begun + (number + 1) / rate - time.monotonic() if rate else 0
        await asyncio.sleep(max(pause, 0))
    await answer(send, time.monotonic() - begun)


PAGES = {
    "/warm-up/": warm_up,
    "/idle/": idle,
    "/beat/": beat,
    "/burst/": burst,
    "/follow/": follow,
    "/publish/": publish,
}
