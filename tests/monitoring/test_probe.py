"""One request for a stream, to servers that are none."""

from __future__ import annotations

import gzip
import http.client
import socket
import ssl
from collections.abc import Iterator
from typing import Any

import pytest

from django_sse.monitoring.probe import _in_words, observe, protocol
from tests.integration.monitoring.test_doctor import Script

GZIPPED = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Encoding: gzip\r\n"
    b"Connection: close\r\n\r\n"
)


@pytest.fixture
def script() -> Iterator[Script]:
    script = Script()
    yield script
    script.close()


@pytest.mark.parametrize(
    ("address", "target"),
    [
        ("", b"/stream/"),
        ("?topics=a,b&x=%20", b"/stream/?topics=a,b&x=%20"),
        ("é/?q=ü", b"/stream/%C3%A9/?q=%C3%BC"),
    ],
)
def test_observe_asks_for_path_and_query(script: Script, address: str, target: bytes) -> None:
    script.answer(b"HTTP/1.1 204 No Content\r\n\r\n")
    seen = observe(f"{script.url}{address}", headers={}, seconds=1)
    assert seen.status == 204
    assert script.asked[0].startswith(b"GET %b HTTP/1.1\r\n" % target)


def test_observe_reads_what_is_compressed_as_far_as_it_is(script: Script) -> None:
    script.answer(GZIPPED + gzip.compress(b"data: x\n\n") + b"no gzip")
    seen = observe(script.url, headers={}, seconds=1)
    assert seen.start == b"data: x\n\n"
    assert [event.data for _, event in seen.events] == ["x"]
    assert seen.ended


def test_observe_says_that_nobody_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_answer(*args: Any, **kwargs: Any) -> None:
        raise TimeoutError("timed out")

    monkeypatch.setattr(socket, "create_connection", no_answer)
    seen = observe("http://192.0.2.1/", headers={}, seconds=1)
    assert (seen.failure, seen.status) == ("no answer came in time", 0)


def test_protocol_is_the_older_one_where_nobody_speaks_tls(script: Script) -> None:
    script.answer(b"no TLS at all")
    assert protocol(script.url.replace("http:", "https:"), insecure=True) == "http/1.1"


def wrong_version() -> ssl.SSLError:
    error = ssl.SSLError(1, "wrong version number")
    error.reason = "WRONG_VERSION_NUMBER"
    return error


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ssl.SSLError(1, "[SSL: X] y"), "TLS fails"),
        (wrong_version(), "what answers there speaks no TLS"),
        (ConnectionRefusedError(111, "refused"), "no server listens there"),
        (socket.gaierror(-2, "unknown"), "the host has no address"),
        (ConnectionResetError(104, "reset"), "closed without an answer"),
        (http.client.RemoteDisconnected("gone"), "closed without an answer"),
        (OSError(113, "No route to host"), "No route to host (OSError)"),
        (http.client.BadStatusLine("SSH"), "speaks no HTTP (BadStatusLine: SSH"),
        (OSError("odd"), "OSError: odd"),
    ],
)
def test_failure_is_told_in_words(error: Exception, words: str) -> None:
    assert words in _in_words(error)


def test_password_in_an_address_is_refused() -> None:
    with pytest.raises(ValueError, match="sent by no browser"):
        observe("http://a:b@127.0.0.1:1/", headers={}, seconds=1)
