"""The demo keeps to its OpenAPI document: schemathesis finds nothing."""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from openapi_spec_validator import validate

from tests.support.servers import Server, copy_database

#: Whether a request that the document allows is accepted is not asked: fields of DRF take a number
#: for a text, and refuse one that is blank.
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "missing_required_header",
    "unsupported_method",
    "allow_header_conformance",
)
EXAMPLES = 5
SECONDS = 100
TOKEN = "0123456789abcdef" * 2 + "01234567"


@pytest.fixture(scope="module")
def server(sample_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("contract")
    database = copy_database(sample_database, directory / "shop.sqlite3")
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute(
            "INSERT INTO authtoken_token (key, created, user_id) "
            "SELECT ?, '2026-01-01', id FROM auth_user WHERE username = 'demo'",
            [TOKEN],
        )
    server = Server(
        # Daphne answers a form without a part by itself: 400, without a text.
        "uvicorn",
        "tests.integration.contract.asgi:application",
        directory=directory,
        database=database,
        args=["--timeout-graceful-shutdown", "2"],
    )
    with server:
        yield server
    assert server.faults() == [], server.log()


@pytest.fixture(scope="module")
def document(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the server says of itself."""
    accept = {"Accept": "application/vnd.oai.openapi+json"}
    answer = httpx.get(f"{server.url}/api/schema/", headers=accept)
    assert answer.status_code == 200
    file = tmp_path_factory.mktemp("document") / "openapi.json"
    file.write_text(answer.text)
    return file


@pytest.mark.parametrize(
    ("headers", "answers"),
    [
        (
            {"Authorization": f"Token {TOKEN}"},
            {("GET", "/orders/", 200), ("POST", "/orders/place/", 201)},
        ),
        ({}, {("GET", "/clock/", 200), ("POST", "/generate/", 200), ("GET", "/orders/", 403)}),
        ({"Authorization": "Token wrong"}, {("GET", "/clock/", 403), ("POST", "/generate/", 403)}),
        ({"Accept": "application/xml"}, {("GET", "/clock/", 406), ("POST", "/generate/", 406)}),
    ],
    ids=["user", "anonymous", "wrong-token", "wrong-accept"],
)
def test_answers_are_those_of_the_document(
    server: Server,
    document: Path,
    tmp_path: Path,
    headers: dict[str, str],
    answers: set[tuple[str, str, int]],
) -> None:
    before = len(server.log())
    # The headers would go to the document's address, too.
    command = [sys.executable, "-m", "schemathesis.cli", "run", str(document), "--url", server.url]
    command += ["--checks", ",".join(CHECKS), "--max-examples", str(EXAMPLES), "--no-color"]
    command += ["--request-timeout", "20", "--continue-on-failure"]
    if "Accept" in headers:
        # DRF looks at this header first, in each view, and at the method later.
        command += ["--exclude-checks", "unsupported_method", "--exclude-path", "/orders/place/"]
    for name, value in headers.items():
        command += ["--header", f"{name}: {value}"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    # It has asked for streams, and has read events of them.
    found = re.findall(r'"(\w+) (/[\w/]*)[^"]*" (\d+)', server.log()[before:])
    assert answers <= {(method, path, int(status)) for method, path, status in found}


def test_document_is_valid_and_has_a_page(server: Server, document: Path) -> None:
    described = json.loads(document.read_text())
    validate(described)
    assert set(described["paths"]) == {
        "/clock/",
        "/generate/",
        "/orders/",
        "/orders/place/",
        "/serialization/",
    }
    page = httpx.get(f"{server.url}/api/docs/", headers={"Accept": "text/html"}).text
    assert "SwaggerUIBundle" in page
    # The page needs nothing of other hosts.
    assert re.findall(r'(?:src|href)="(https?:[^"]+)"', page) == []
