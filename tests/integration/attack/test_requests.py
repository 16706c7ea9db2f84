"""Requests that no browser sends: malformed, huge, slow, forged."""

from __future__ import annotations

import json
import time
from urllib.parse import quote

import pytest

from .target import STREAM, Attacker, Target

#: The head of a request for a stream that is open to all, up to the headers.
LINE = b"GET /echo/ HTTP/1.1\r\nHost: 127.0.0.1\r\n"
EVENT_STREAM = b"text/event-stream"

MALFORMED = {
    "not http": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 64 + b"\r\n\r\n",
    "no version": b"GET /echo/\r\n\r\n",
    "wrong version": b"GET /echo/ HTTP/9.9\r\nHost: 127.0.0.1\r\n\r\n",
    "no method": b" /echo/ HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "raw bytes in the path": b"GET /topics/\xff\xfe\x80/ HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "bare NUL in the path": b"GET /topics/a\x00b/ HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "header without colon": LINE + b"nonsense\r\n\r\n",
    "header with NUL": LINE + b"Last-Event-ID: 1\x002\r\n\r\n",
    "header name with blank": LINE + b"Last Event ID: 1\r\n\r\n",
    "header name with bytes": LINE + b"L\xe4st: 1\r\n\r\n",
    "folded header": LINE + b"Last-Event-ID: 1\r\n 2-3\r\n\r\n",
    "wrong length": LINE + b"Content-Length: many\r\n\r\n",
    "negative length": LINE + b"Content-Length: -1\r\n\r\n",
    "two lengths": LINE + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "length and chunks": LINE + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "wrong chunk": LINE + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n",
    "huge chunk": LINE + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\nabc\r\n",
    "body shorter than said": LINE + b"Content-Length: 100\r\n\r\nabc",
    "wrong host": b"GET /echo/ HTTP/1.1\r\nHost: evil.example\r\n\r\n",
    "no host": b"GET /echo/ HTTP/1.0\r\n\r\n",
    "host with a path": b"GET /echo/ HTTP/1.1\r\nHost: 127.0.0.1/../\r\n\r\n",
    "whole address": b"GET http://evil.example/echo/ HTTP/1.1\r\nHost: evil.example\r\n\r\n",
    "two slashes": b"GET //evil.example/echo/ HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "star": b"OPTIONS * HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "connect": b"CONNECT 127.0.0.1:80 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "unknown method": b"STREAM /echo/ HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "upgrade": LINE + b"Connection: Upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n",
    "websocket": LINE
    + b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    "http/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00" * 9,
}
#: Those that a server may take for a request of a stream, which is none of our business.
LENIENT = {
    "header with NUL", "header name with blank", "header name with bytes", "folded header",
    "two lengths", "length and chunks", "wrong version", "upgrade", "no version",
    "no host", "host with a path",
}  # fmt: skip


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_requests_are_refused_without_a_word_too_many(target: Target, case: str) -> None:
    with target.client() as client:
        client.raw(MALFORMED[case])
        answer = client.answer(0.1)
    _check_nothing_shown(answer)
    if case not in LENIENT:
        assert EVENT_STREAM not in answer, answer
    if answer.startswith(b"HTTP/1."):
        assert int(answer.split()[1]) < 500 or case in {"websocket", "http/2"}, answer
    if case == "websocket":
        # It is Django that says so, wherever nothing in front of it takes WebSockets.
        target.forgive("Django can only handle ASGI/HTTP connections")
    assert target.first_event("after") == "probe"


ADDRESSES = {
    "/topics/": 404,
    "/topics/a%0Ab/": 404,
    "/topics/a%0D%0AX-Evil:%201/": 404,
    "/topics/a%00b/": 404,
    "/topics/%1Fcontrol/": 404,
    "/topics/%1Freply:0123456789abcdef/": 404,
    "/topics/%C2%85/": 404,
    "/topics/" + "x" * 201 + "/": 404,
    "/topics/" + "%E2%82%AC" * 201 + "/": 404,
    "/topics/..%2F..%2Fprivate/": 200,
    "/topics/a%2Fb/": 200,
    "/topics/%FF%FE/": 200,
    "/topics/%ED%A0%80/": 200,
    "/topics/*/": 200,
    "/topics/%F0%9F%98%80/": 200,
    "/echo/?format=exe": 404,
    "/echo/?" + "a&" * 2000: 400,
    "/echo/?last_event_id=%00%0A": 200,
    "/echo/?" + "x" * 12_000: 200,
    "/ticketed/a/": 401,
    "/ticketed/a/?ticket=": 401,
    "/ticketed/a/?ticket=%00%FF%0D%0A": 401,
    "/ticketed/a/?ticket=a:b:c": 401,
    "/ticketed/a/?ticket=.eJw:1:x": 401,
    "/ticketed/a/?ticket=" + "A" * 10_000: 401,
    "/ticketed/a/?ticket=a&ticket=b": 401,
}


@pytest.mark.parametrize("address", ADDRESSES, ids=lambda address: address[:40])
def test_odd_addresses_get_a_clear_answer(target: Target, address: str) -> None:
    with target.open(address) as client:
        # Servers have limits of their own for an address.
        expected = {ADDRESSES[address]} | ({400, 414, 431} if len(address) > 8000 else set())
        assert client.status in expected
        if client.status != 200:
            _check_nothing_shown(client.body())
        assert "x-evil" not in client.headers


SEEN = {
    "1-1": "1-1",
    "x" * 5000: "x" * 5000,
    "grüße €": "grüße €",
    "': 1-1 OR 1=1": "': 1-1 OR 1=1",
    "-1": "-1",
    "9" * 400: "9" * 400,
    "%0d%0aX-Evil: 1": "%0d%0aX-Evil: 1",
    "  1-1  ": "1-1",
    "": "",
}


@pytest.mark.parametrize("given", SEEN, ids=lambda given: given[:20])
def test_last_event_id_is_told_to_the_stream_as_it_came(target: Target, given: str) -> None:
    with target.open("/echo/", {"Last-Event-ID": given}) as client:
        seen = json.loads(str(client.event().data))["last_event_id"]
        # Uvicorn leaves the blanks behind a header's value, which are none of it.
        assert seen.strip() == SEEN[given]
    with target.open(f"/echo/?last_event_id={quote(given)}") as client:
        assert json.loads(str(client.event().data)) == {"last_event_id": given}


def test_last_event_id_that_is_no_utf8_is_repaired(target: Target) -> None:
    with target.client() as client:
        client.raw(LINE + b"Last-Event-ID: \xff\xfe\x80\r\n\r\n")
        client.read_head()
        assert json.loads(str(client.event().data)) == {"last_event_id": "\ufffd" * 3}


@pytest.mark.parametrize(
    "accept",
    [
        "",
        ";;;,,/",
        "text/event-stream;q=nonsense",
        "*/*," * 500,
        "text/html",
        "text/event-stream\t",
    ],
)
def test_odd_accept_headers_get_a_stream_or_406(target: Target, accept: str) -> None:
    with target.client() as client:
        client.request("/echo/", headers={"Accept": accept})
        assert client.status in {200, 406}
        if client.status == 406:
            assert json.loads(client.body())


HEADERS = {
    "one of 1 MB": b"X-Long: " + b"x" * 1_000_000 + b"\r\n\r\n",
    "50,000": b"".join(b"X-%d: y\r\n" % number for number in range(50_000)) + b"\r\n",
    "endless": b"X-Long: " + b"x" * 4_000_000,
    "endless line ends": b"\r\n" * 100_000,
    "cookies of 100 kB": b"Cookie: " + b"sessionid=" + b"y" * 100_000 + b"\r\n\r\n",
}


@pytest.mark.parametrize("case", HEADERS)
def test_huge_headers_do_no_harm(target: Target, case: str) -> None:
    with target.client() as client:
        client.raw((b"" if case == "endless line ends" else LINE) + HEADERS[case])
        _check_nothing_shown(client.answer(0.1))
    assert target.first_event("after") == "probe"


BODIES = {
    "json": (b"application/json", b'{"a": "' + b"x" * 8_000_000 + b'"}'),
    "deep json": (b"application/json", b"[" * 200_000),
    "form": (b"application/x-www-form-urlencoded", b"a=" + b"x" * 8_000_000),
    "many fields": (b"application/x-www-form-urlencoded", b"a&" * 100_000),
    "no multipart": (b"multipart/form-data; boundary=b", b"--c\r\n" * 1000),
    "multipart without boundary": (b"multipart/form-data", b"--c\r\n" * 1000),
    "unknown kind": (b"application/x-evil", b"x" * 1_000_000),
    "no utf-8": (b"application/json", b"\xff\xfe\x00"),
}


@pytest.mark.parametrize("path", ["/echo/", "/posting/"])
@pytest.mark.parametrize("case", BODIES)
def test_huge_and_broken_bodies_are_refused_or_ignored(
    target: Target, case: str, path: str
) -> None:
    kind, body = BODIES[case]
    method = b"POST" if path == "/posting/" else b"GET"
    with target.client() as client:
        client.raw(b"%b %b HTTP/1.1\r\nHost: 127.0.0.1\r\n" % (method, path.encode()))
        client.raw(b"Content-Type: %b\r\nContent-Length: %d\r\n\r\n" % (kind, len(body)))
        client.raw(body)
        client.read_head()
        assert client.status in {200, 400, 413, 415}, client.status
        if client.status != 200:
            _check_nothing_shown(client.body())


def test_an_endless_body_starts_no_stream_and_leaves_nothing(target: Target) -> None:
    with target.client() as client:
        client.raw(LINE + b"Transfer-Encoding: chunked\r\n\r\n")
        for _ in range(64):
            client.raw(b"10000\r\n" + b"x" * 65536 + b"\r\n")
        assert EVENT_STREAM not in client.answer(0.2)


def test_slow_openings_keep_nobody_else_waiting(target: Target) -> None:
    slow = [target.client() for _ in range(100)]
    try:
        for number, client in enumerate(slow):
            client.raw((LINE + b"Accept: text/event-stream\r\n")[: 5 + number])
        for _ in range(3):
            for client in slow:
                client.raw(b"X")
            began = time.monotonic()
            assert target.first_event("quick") == "probe"
            assert time.monotonic() - began < 2
        assert target.level().open == 0
    finally:
        for client in slow:
            client.close()


def test_bodies_that_never_come_keep_nobody_else_waiting(target: Target) -> None:
    slow = [target.client() for _ in range(60)]
    try:
        for client in slow:
            client.raw(LINE + b"Accept: text/event-stream\r\nContent-Length: 10\r\n\r\n")
        for _ in range(3):
            began = time.monotonic()
            assert target.first_event("quick") == "probe"
            assert time.monotonic() - began < 2
    finally:
        for client in slow:
            client.close()


def test_a_request_sent_byte_by_byte_gets_its_stream(target: Target) -> None:
    with target.client() as client:
        for byte in LINE + b"Last-Event-ID: 7\r\n\r\n":
            client.raw(bytes([byte]))
        client.read_head()
        assert json.loads(str(client.event().data)) == {"last_event_id": "7"}


@pytest.mark.parametrize("more", [LINE + b"\r\n", b"x" * 1_000_000, b"\x00" * 100_000])
def test_what_comes_behind_the_request_neither_grows_nor_outlives_the_stream(
    target: Target, more: bytes
) -> None:
    clients = [target.open("/echo/") for _ in range(10)]
    for client in clients:
        assert client.status == 200
        client._socket.settimeout(0.2)
        client.raw(more)
    for client in clients:
        client.close()


# Who may ask.


def sign_in(target: Target) -> dict[str, str]:
    """Return the cookie of ``demo``."""
    with target.client() as client:
        client.request("/sign-in/", headers={"Connection": "close"})
        return {"Cookie": client.headers["set-cookie"].split(";")[0]}


def post(target: Target, headers: dict[str, str]) -> Attacker:
    """Open the stream that is opened by POST."""
    client = target.client()
    client.request("/posting/", "POST", {**STREAM, "Content-Length": "0", **headers})
    return client


def test_post_with_a_session_needs_the_csrf_token(target: Target) -> None:
    cookie = sign_in(target)
    for headers in (cookie, {**cookie, "X-CSRFToken": "x" * 32}):
        with post(target, headers) as client:
            assert client.status == 403
            assert "CSRF" in json.loads(client.body())["detail"]
    token = "y" * 32
    with post(
        target, {"Cookie": f"{cookie['Cookie']}; csrftoken={token}", "X-CSRFToken": token}
    ) as client:
        assert client.status == 200
        assert json.loads(str(client.event().data))["user"] == "demo"


@pytest.mark.parametrize("method", ["GET", "OPTIONS"])
def test_another_site_is_not_allowed_to_read(target: Target, method: str) -> None:
    headers = {
        "Origin": "https://evil.example",
        "Access-Control-Request-Method": "GET",
        **STREAM,
    }
    with target.client() as client:
        client.request("/echo/", method, headers)
        assert client.status == 200
        assert not [name for name in client.headers if name.startswith("access-control-")]


def test_a_refusal_does_not_tell_whether_a_topic_exists(target: Target) -> None:
    cookie = sign_in(target)
    target.publish("of:ada", "secret")
    with target.open("/private/of:demo/", cookie) as client:
        assert client.status == 200
    for headers in ({}, cookie):
        answers = set()
        for topic in ("of:ada", "of:nobody", "%00", "%1Fcontrol", "x" * 300):
            for last in ({}, {"Last-Event-ID": "1-1"}):
                with target.open(f"/private/{topic}/", {**headers, **last}) as client:
                    shown = {k: v for k, v in client.headers.items() if k not in {"date", "vary"}}
                    answers.add((client.status, client.body(), tuple(sorted(shown.items()))))
        assert len(answers) == 1
        assert next(iter(answers))[0] == 403


@pytest.mark.parametrize("value", ["a%0D%0ASet-Cookie:%20evil=1", "a%0Ab", "%0D", "%0A%0Abody"])
def test_headers_cannot_be_injected(target: Target, value: str) -> None:
    # It is the view that lets them through: its fault is told in the log, as any view's.
    with target.open(f"/headers/?value={value}") as client:
        assert client.status == 500
        assert "set-cookie" not in client.headers
        _check_nothing_shown(client.body())
    target.forgive("BadHeaderError")


def test_headers_take_what_is_no_line_end(target: Target) -> None:
    with target.open("/headers/?value=a%3A%20b%3B%22") as client:
        assert client.status == 200
        assert client.headers["x-given"] == 'a: b;"'


def test_other_servers_refuse_and_live_on(other_target: Target) -> None:
    expected = {"/topics/a/": 200, "/private/a/": 403, "/posting/": 405, "/topics/%00/": 404}
    for path, status in expected.items():
        with other_target.open(path) as client:
            assert client.status == status
    for case in ("not http", "header without colon", "wrong length", "raw bytes in the path"):
        with other_target.client() as client:
            client.raw(MALFORMED[case])
            answer = client.answer(0.2)
        _check_nothing_shown(answer)
        assert EVENT_STREAM not in answer or case == "raw bytes in the path", answer
    assert other_target.first_event("after") == "probe"


def _check_nothing_shown(answer: bytes) -> None:
    for word in (b"Traceback", b".py", b"InvalidTopic", b"django_sse", b"File "):
        assert word not in answer, answer
