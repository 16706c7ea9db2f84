"""What each package has to have seen of the streams, or done to them, by the names in the table."""

from __future__ import annotations

import re
import sqlite3
from base64 import b64encode
from contextlib import closing

from .trial import HOLD_SECONDS, STREAMS, Trial, check


def synchronous(trial: Trial) -> None:
    _has_header(trial, "x-synchronous", "yes")


def passed_on(trial: Trial) -> None:
    _has_header(trial, "x-passed-on", "yes")


def csp(trial: Trial) -> None:
    _has_header(trial, "content-security-policy", "default-src 'self'")


def cors(trial: Trial) -> None:
    origin = {"Origin": "https://elsewhere.example"}
    with trial.open(headers=origin) as client:
        found = client.headers.get("access-control-allow-origin")
        check(found == origin["Origin"], f"The stream allows {found!r}.")
    found = trial.get("/private/", origin)[1].get("access-control-allow-origin")
    check(found == origin["Origin"], f"The refusal allows {found!r}.")


def whitenoise(trial: Trial) -> None:
    _has_page(trial, "/file.txt", "a static file")


def servestatic(trial: Trial) -> None:
    _has_page(trial, "/files/file.txt", "a static file")


def sentry(trial: Trial) -> None:
    _reported_once(trial)
    _traced(trial)


newrelic = datadog = elastic = sentry


def elastic_errors(trial: Trial) -> None:
    check([error.kind for error in trial.errors()] == ["Boom"], f"It has {trial.errors()}.")


def datadog_views(trial: Trial) -> None:
    _traced(trial)


def opentelemetry(trial: Trial) -> None:
    _traced(trial)
    own = [span.seconds for span in trial.spans() if span.name == "stream /open/"]
    check(own and max(own) > HOLD_SECONDS * 0.75, f"The streams' spans took {own} s.")


def prometheus(trial: Trial) -> None:
    text = trial.get("/metrics")[2]
    check("django_sse_streams_opened_total" in text, "The metrics of django_sse are missing.")
    pattern = r'latency_seconds_by_view_method_sum\{method="GET",view="open"\} (\S+)'
    # Of all streams together, of which one was held open for longer than this.
    found = re.search(pattern, text)
    check(found, "The stream's latency is missing.")
    assert found is not None
    seconds = float(found[1])
    check(seconds < HOLD_SECONDS * 0.75, f"The latency sums up to {seconds:.1f} s.")


def toolbar(trial: Trial) -> None:
    _has_page(trial, "/page/", "djDebug")


def browser_reload(trial: Trial) -> None:
    _has_page(trial, "/page/", "django-browser-reload")
    with trial.open("/__reload__/events/") as own, trial.open() as ours:
        check(own.status == 200, f"Its own stream answered {own.status}.")
        check(own.piece(), "Its own stream is silent.")
        check(ours.piece(), "Beside it, ours is silent.")


def silk(trial: Trial) -> None:
    _has_page(trial, "/silk/requests/", "/open/")
    with closing(sqlite3.connect(trial.database)) as database:
        query = "SELECT max(time_taken), count(*) FROM silk_request WHERE path = '/open/'"
        [(longest, count)] = database.execute(query)
    check(count >= STREAMS, f"It recorded {count} streams.")
    check(longest < HOLD_SECONDS * 750, f"It recorded one of {longest} ms.")


def spectacular(trial: Trial) -> None:
    _has_page(trial, "/schema/", "/private/")


def structlog(trial: Trial) -> None:
    lines = [line for line in trial.server.log().splitlines() if "streaming_" in line]
    for name in ("streaming_started", "streaming_finished"):
        check(any(name in line and '"request_id"' in line for line in lines), f"No {name}.")


def structlog_handshake(trial: Trial) -> None:
    lines = trial.server.log().splitlines()
    found = [line for line in lines if "request_finished" in line and "/open/" in line]
    check(found, "No request_finished.")
    check(all('"request_id"' in line for line in found), "A line has no request_id.")


def axes(trial: Trial) -> None:
    # The handshake's own wrong one was the first.
    wrong = f"Basic {b64encode(b'ada:wrong').decode()}"
    for _ in range(3):
        status = trial.get("/private/", {"Authorization": wrong})[0]
        check(status in (401, 403, 429), f"A wrong password was answered with {status}.")
    status = trial.get("/private/", trial.headers)[0]
    check(status in (401, 403, 429), f"Locked out, the right one was answered with {status}.")


def tenants(trial: Trial) -> None:
    for _ in range(5):
        for name, host in (("one", "127.0.0.1"), ("two", "two.example")):
            status, _, text = trial.get("/groups/", {"Host": host})
            check(status == 200, f"/groups/ of {name} answered {status}.")
            found = text.count(f'data: ["the group of {name}"]')
            check(found == 3, f"The stream of {name} sent {text!r}.")
    status = trial.get("/private/", {"Host": "two.example", **trial.headers})[0]
    check(status in (401, 403), f"The session of another tenant was answered with {status}.")


def guardian(trial: Trial) -> None:
    with trial.open("/guarded/1/", trial.headers) as client:
        check(client.status == 200, f"The permitted stream answered {client.status}.")
    with trial.open("/guarded/2/", trial.headers) as client:
        check(client.status == 403, f"The other stream answered {client.status}.")


def _has_header(trial: Trial, name: str, value: str) -> None:
    with trial.open() as client:
        found = client.headers.get(name)
        check(found == value, f"{name} is {found!r}.")


def _has_page(trial: Trial, path: str, text: str) -> None:
    status, _, found = trial.get(path)
    check(status == 200, f"{path} answered {status}.")
    check(text in found, f"{path} has no {text!r}.")


def _traced(trial: Trial) -> None:
    """The stream's span has been reported, and so has ended."""
    check(any("open" in s.place.lower() for s in trial.spans()), "No span of a stream.")


def _reported_once(trial: Trial) -> None:
    """The exception of ``stream()`` has been reported once, with its address."""
    trial.collector.wait_for(trial.errors, 5)
    errors = [error for error in trial.errors() if error.kind == "Boom"]
    check(len(errors) == 1, f"The exception was reported {len(errors)} times.")
    check("/failing/" in errors[0].place, f"It was reported at {errors[0].place!r}.")
