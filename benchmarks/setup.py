"""Connections that open: what does the handshake cost?"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from tests.support.postgres_server import program

from .brokers import postgres
from .clients import Swarm, settle
from .context import SERVERS, Context, best
from .report import Result
from .servers import Server


def measure(context: Context) -> Iterator[Result]:
    """Compare the full handshake with an ordinary DRF view of the same authentication.

    The DRF view is served by Django's own handler, and once more by ours. The least that Django does
    for a session login is beside them: an asynchronous view that asks for the user, without DRF.
    The same is measured with connections to PostgreSQL that ``CONN_MAX_AGE`` lets be kept.
    """
    yield from _with_login(context, context.login)
    if program("initdb") is None:
        print("setup: without PostgreSQL, since it is not installed.", file=sys.stderr)
        return
    # With CONN_MAX_AGE, Django's own handler leaves each request's connection open until the garbage
    # collection.
    with postgres(max_connections="1000") as server:
        environment = {"BENCHMARK_POSTGRES": str(server.port), "BENCHMARK_CONN_MAX_AGE": "60"}
        login = context.prepare(**environment)
        yield from _with_login(context, login, ", PostgreSQL, CONN_MAX_AGE=60", **environment)


def _with_login(
    context: Context, login: dict[str, str], where: str = "", **environment: str
) -> Iterator[Result]:
    count = context.size(120, 60)
    for kind, name in SERVERS.items():
        with (
            context.project(kind, **environment) as server,
            context.django(kind, **environment) as django,
        ):
            opened, view, whole, whole_view, faster, least = best(
                context.size(3, 2),
                [
                    lambda: opening(server, "/idle/private/", count, login),
                    lambda: opening(django, "/ordinary/", count, login),
                    lambda: coming_and_going(server, "/idle/private/", count, login),
                    lambda: coming_and_going(django, "/ordinary/", count, login),
                    lambda: coming_and_going(server, "/ordinary/", count, login),
                    lambda: coming_and_going(django, "/known/", count, login),
                ],
            )
        note = "beside a DRF view under Django's own handler"
        yield Result(f"set-up, session login{where}", name, opened, view, "µs", 0.6, note=note)
        yield Result(f"set-up and end{where}", name, whole, whole_view, "µs", note=note)
        what = f"a DRF view under our handler{where}"
        yield Result(what, name, faster, whole_view, "µs", note=note)
        note = "an asynchronous view of Django's, beside a DRF view"
        what = f"the least for a session login{where}"
        yield Result(what, name, least, whole_view, "µs", note=note)


def measure_open(context: Context) -> Iterator[Result]:
    """Compare a handshake without authentication and middleware with Django's own streams.

    That is an asynchronous view with a ``StreamingHttpResponse``, under Django's own handler.
    """
    count = context.size(240, 60)
    for kind, name in SERVERS.items():
        with (
            context.project(kind, BENCHMARK_PLAIN="1") as ours,
            context.django(kind, BENCHMARK_PLAIN="1") as django,
            context.bare(kind) as bare,
        ):
            idle, follow, own, floor = best(
                context.size(4, 2),
                [
                    lambda: coming_and_going(ours, "/idle/open/", count, {}),
                    lambda: coming_and_going(ours, "/follow/open/", count, {}),
                    lambda: coming_and_going(django, "/own/", count, {}),
                    lambda: coming_and_going(bare, "/idle/", count, {}),
                ],
            )
        note = f"beside Django's own stream; bare {floor:.0f} µs"
        yield Result("set-up and end, open to all", name, idle, own, "µs", 1, note=note)
        yield Result("the same, following a topic", name, follow, own, "µs", note=note)


def opening(server: Server, path: str, count: int, headers: dict[str, str]) -> float:
    """Return the server's µs for a connection up to its first bytes."""
    with Swarm() as swarm:
        begun = server.cpu()
        swarm.open(server.port, path, count, headers=headers)
        used = server.cpu() - begun
    settle(server.cpu)
    return used / count * 1e6


def coming_and_going(server: Server, path: str, count: int, headers: dict[str, str]) -> float:
    """Return the server's µs for a connection, its end included."""
    begun = server.cpu()
    with Swarm() as swarm:
        swarm.open(server.port, path, count, headers=headers)
    settle(server.cpu)
    return (server.cpu() - begun) / count * 1e6
