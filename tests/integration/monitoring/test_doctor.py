"""What the doctor says of answers that are no sound stream, from a server that gives just those."""

from __future__ import annotations

import gzip
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from django_sse.monitoring import flow
from django_sse.monitoring.doctor import examine
from tests.support.redis_server import RedisServer

HEAD = (
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
    "Cache-Control: no-store, no-transform\r\nX-Accel-Buffering: no\r\n"
)
CHUNKED = f"{HEAD}Transfer-Encoding: chunked\r\n\r\n"
END = "0\r\n\r\n"
LOGIN = "<html><title>Log in</title><input type='password'></html>"


def _chunk(text: str | bytes) -> bytes:
    data = text.encode() if isinstance(text, str) else text
    return b"%x\r\n%b\r\n" % (len(data), data)


class Script:
    """A server that sends what it is told, whatever it is asked: pieces, and seconds of silence."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._socket.settimeout(20)
        self._thread: threading.Thread | None = None
        self.asked: list[bytes] = []
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/stream/"

    def answer(self, *pieces: str | bytes | float, times: int = 1) -> None:
        self._thread = threading.Thread(target=self._serve, args=(pieces, times))
        self._thread.start()

    def close(self) -> None:
        if self._thread is not None:
            self._thread.join(20)
        self._socket.close()

    def _serve(self, pieces: tuple[Any, ...], times: int) -> None:
        for _ in range(times):
            client, _ = self._socket.accept()
            with client:
                self.asked.append(client.recv(65536))
                for piece in pieces:
                    if isinstance(piece, float):
                        time.sleep(piece)
                        continue
                    try:
                        client.sendall(piece.encode() if isinstance(piece, str) else piece)
                    except OSError:
                        break  # The doctor has left.


@pytest.fixture
def script() -> Iterator[Script]:
    script = Script()
    yield script
    script.close()


def _ids(*milliseconds: int) -> str:
    return "".join(f"data: x\nid: {number}-0\n\n" for number in milliseconds)


def test_doctor_asks_whether_an_ordinary_endpoint_is_a_stream(script: Script) -> None:
    script.answer("HTTP/1.1 406 Not Acceptable\r\nContent-Length: 0\r\n\r\n")
    [problem] = examine(script.url, seconds=0.5).problems
    assert problem.remedy.startswith("Is it the address of a stream?")


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        ((CHUNKED, _chunk(":\n\ndata: x\n\n"), 0.1, _chunk(": beat\n\n"), 1.0), []),
        (("HTTP/1.1 302 Found\r\nLocation: /accounts/login/?next=/\r\n\r\n",), ["login"]),
        (("HTTP/1.1 302 Found\r\nLocation: https://example.com/x/\r\n\r\n",), ["redirect"]),
        (("HTTP/1.1 302 Found\r\nLocation: https://sso.example/lessons/\r\n\r\n",), ["redirect"]),
        (("HTTP/1.1 302 Found\r\nLocation: https://example.com/sso/\r\n\r\n",), ["login"]),
        (("HTTP/1.1 204 No Content\r\n\r\n",), ["finished"]),
        (("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n",), ["refused"]),
        (("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",), ["status"]),
        (("HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n",), ["gateway"]),
        (("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n" + LOGIN,), ["login"]),
        (("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\nx",), ["content-type"]),
        (("SSH-2.0-OpenSSH\r\n",), ["unreachable"]),
        ((CHUNKED, _chunk("retry: 3000\n\n"), END), ["come-back-later"]),
        # As our views answer it.
        ((HEAD + "Content-Length: 13\r\n\r\n", "retry: 3000\n\n"), ["come-back-later"]),
        ((CHUNKED, _chunk("retry: 3000\n\n"), 0.2, _chunk(": beat\n\n"), 0.5, END), ["cut"]),
        ((CHUNKED, _chunk("data: x\n\n"), END), []),
        ((CHUNKED, _chunk("data: x\n\n")), ["cut"]),
        ((HEAD + "Content-Length: 9\r\n\r\n", "data: x\n\n"), ["content-length"]),
        ((HEAD + "Age: 7\r\n\r\n", "data: x\n\n"), ["cached"]),
        (
            ("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n", ":\n\n"),
            ["cache-control"],
        ),
        ((CHUNKED, 0.6, _chunk("data: x\n\n"), 0.5), ["buffered"]),
        ((CHUNKED, _chunk(":\n\n"), 0.3, _chunk(": beat\n\n: beat\n\n"), 1.0), ["buffered"]),
        ((CHUNKED, _chunk(":\n\n"), 0.3, _chunk(_ids(1000, 3000)), 1.0), ["buffered"]),
        # What a client that resumes had missed comes together, and may.
        ((CHUNKED, _chunk(_ids(1000, 3000)), 1.0), []),
        ((CHUNKED, _chunk(":\n\n"), 0.7, END), ["cut"]),
        ((CHUNKED, _chunk(":\n\n"), 2.0), ["silent"]),
    ],
)
def test_doctor_names_the_problem(
    script: Script,
    monkeypatch: pytest.MonkeyPatch,
    pieces: tuple[Any, ...],
    expected: list[str],
) -> None:
    monkeypatch.setattr(flow, "FIRST_BYTES_SECONDS", 0.4)
    # Below the pause before a cut: what comes before it may arrive late.
    monkeypatch.setattr(flow, "IDLE_SECONDS", 0.3)
    # Far above the pauses of a stream that is cut, which are longer on a busy machine.
    monkeypatch.setattr(flow, "SILENCE_SECONDS", 1.5)
    script.answer(*pieces)
    seconds = 1.6 if expected == ["silent"] else 0.9
    diagnosis = examine(script.url, seconds=seconds)
    assert [finding.code for finding in diagnosis.problems] == expected, diagnosis
    asked = script.asked[0].decode().lower()
    assert "accept: text/event-stream\r\n" in asked
    assert "accept-encoding: gzip, deflate, br, zstd\r\n" in asked


def test_doctor_reads_what_is_compressed_and_asks_again_without(script: Script) -> None:
    body = gzip.compress(b": beat\n\n") + gzip.compress(b"data: x\n\n")
    head = f"{HEAD}Content-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n"
    script.answer(head, _chunk(body), END, times=2)
    diagnosis = examine(script.url, seconds=0.5, headers={"Authorization": "Token x"})
    codes = [finding.code for finding in diagnosis.findings]
    assert [finding.code for finding in diagnosis.problems] == ["compressed"]
    assert {"stream", "ended", "ids"} <= set(codes)
    first, second = script.asked
    assert b"gzip" in first
    assert b"Accept-Encoding: identity" in second
    assert b"Authorization: Token x" in first
    assert b"Authorization: Token x" in second


def test_doctor_follows_redirects_of_its_own_origin_only_so_far(script: Script) -> None:
    script.answer("HTTP/1.1 301 Moved\r\nLocation: /there/\r\nContent-Length: 0\r\n\r\n", times=6)
    diagnosis = examine(script.url, seconds=0.5)
    assert [finding.code for finding in diagnosis.findings] == ["redirect"] * 6 + ["redirects"]
    assert diagnosis.url.endswith("/there/")


def test_sse_doctor_writes_and_fails(
    script: Script, capsys: pytest.CaptureFixture[str], run: Callable[..., str]
) -> None:
    script.answer("HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n", times=2)
    with pytest.raises(CommandError, match=r"^1 problem found\.$") as raised:
        call_command("sse_doctor", script.url, "--timeout", "1", "--header", "X-Key:  a:b ")
    assert raised.value.returncode == 1
    first, second = capsys.readouterr().out.splitlines()
    assert first == "problem  It answers 401 Unauthorized: this client may not open the stream."
    assert "→ Give it what the browser has" in second
    assert b"X-Key: a:b\r\n" in script.asked[0]

    with pytest.raises(CommandError):
        call_command("sse_doctor", script.url, "--timeout", "1", "--json")
    answer = json.loads(capsys.readouterr().out)
    assert answer["url"] == script.url
    assert [finding["code"] for finding in answer["findings"]] == ["refused"]
    script.close()

    script.__init__()  # type: ignore[misc]
    script.answer(CHUNKED, _chunk(":\n\n"), 0.1, _chunk(": beat\n\n"), 0.5)
    assert "ok       It answers 200 with text/event-stream." in run(
        "sse_doctor", script.url, "--timeout", "0.3"
    )


def test_sse_doctor_looks_at_the_broker(
    script: Script, broker: Any, redis_server: RedisServer, capsys: pytest.CaptureFixture[str]
) -> None:
    def findings() -> list[tuple[str, str]]:
        script.answer(CHUNKED, _chunk(":\n\n"), 0.5)
        with suppress(CommandError):
            call_command("sse_doctor", script.url, "--timeout", "0.3", "--json")
        found = json.loads(capsys.readouterr().out)["findings"]
        script.close()
        script.__init__()  # type: ignore[misc]
        return [(it["level"], it["text"]) for it in found if it["code"] == "broker"]

    assert findings() == []
    redis_server("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    redis_server("CONFIG", "SET", "maxmemory", "100mb")
    [(level, text)] = findings()
    assert level == "problem"
    assert "Set maxmemory-policy noeviction" in text
    # From where the clients are, it may be out of reach, which is no fault of the stream.
    redis_server.kill()
    [(level, text)] = findings()
    assert level == "note"
    assert "cannot be asked" in text


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["ftp://example.com/"], "is needed, got 'ftp://example.com/'"),
        (["http://"], "is needed"),
        (["http://127.0.0.1:1/", "--header", "nonsense"], "'Name: value', got 'nonsense'"),
        (["http://127.0.0.1:1/", "--header", "A: b\nC: d"], "Invalid header value"),
        (["http://127.0.0.1:1/", "--timeout", "0"], "seconds above 0, got 0"),
        (["http://127.0.0.1:99999/"], "Port out of range"),
    ],
)
def test_sse_doctor_refuses_what_it_cannot_ask(command: list[str], message: str) -> None:
    with pytest.raises(CommandError, match=message):
        call_command("sse_doctor", *command)


def test_doctor_says_that_nobody_is_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    [finding] = examine(f"http://127.0.0.1:{port}/").findings
    assert finding.code == "unreachable"
    assert "refused" in finding.text
