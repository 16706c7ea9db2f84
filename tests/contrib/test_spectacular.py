"""Streams in OpenAPI documents: valid in each version, without a warning, with their events."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest
from openapi_spec_validator import validate

from tests.support.servers import ROOT

USER = "#/components/schemas/User"
GENERATE = """
import json, sys, django
from django.conf import settings
from tests.contrib.described import SETTINGS
settings.configure(**SETTINGS, SPECTACULAR_SETTINGS={"OAS_VERSION": sys.argv[1], "TITLE": "Shop"})
django.setup()
from drf_spectacular.drainage import GENERATOR_STATS
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.validation import validate_schema
document = SchemaGenerator().get_schema(request=None, public=True)
if not sys.argv[1].startswith("3.2"):  # which drf-spectacular has no schema of
    validate_schema(document)
warned = [str(it) for it in (*GENERATOR_STATS._warn_cache, *GENERATOR_STATS._error_cache)]
print(json.dumps({"document": document, "warned": warned}))
"""


@pytest.fixture(scope="module", params=["3.0.3", "3.1.1", "3.2.0"])
def generated(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """The version, and a document that a project of its own makes."""
    kept = {k: v for k, v in os.environ.items() if k != "DJANGO_SETTINGS_MODULE"}
    done = subprocess.run(
        [sys.executable, "-c", GENERATE, request.param],
        cwd=ROOT,
        env=kept | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["warned"] == []
    assert "guess serializer" not in done.stderr
    return request.param, found["document"]


def test_document_is_valid(generated: tuple[str, dict[str, Any]]) -> None:
    version, document = generated
    assert document["openapi"] == version
    validate(document)


def test_stream_is_described(generated: tuple[str, dict[str, Any]]) -> None:
    version, document = generated
    operation = document["paths"]["/orders/{shop}/"]["get"]
    assert set(document["paths"]["/orders/{shop}/"]) == {"get"}
    parameters = {(it["in"], it["name"]) for it in operation["parameters"]}
    assert parameters == {
        ("path", "shop"),
        ("header", "Last-Event-ID"),
        ("query", "last_event_id"),
        ("query", "ticket"),
    }
    assert {"ticketAuth": []} in operation["security"]
    assert document["components"]["securitySchemes"]["ticketAuth"]["in"] == "query"
    assert set(operation["responses"]) == {"200", "204", "403", "404", "406", "429", "503"}
    media = operation["responses"]["200"]["content"]["text/event-stream"]
    item = media["itemSchema" if version.startswith("3.2") else "x-itemSchema"]
    by_name = {it["properties"]["event"]["const"]: it for it in item["oneOf"]}
    own = {"reset", "dropped", "revoked"}
    assert set(by_name) == {"created", "list", "end", "text", "message"} | own
    assert by_name["created"]["properties"]["data"] == {
        "type": "string",
        "contentMediaType": "application/json",
        "contentSchema": {"$ref": "#/components/schemas/User"},
    }
    assert by_name["list"]["properties"]["data"]["contentSchema"] == {
        "type": "array",
        "items": {"$ref": "#/components/schemas/User"},
    }
    assert by_name["end"]["properties"]["data"] == {"const": ""}
    assert by_name["text"]["properties"]["data"] == {"type": "string"}
    # An event without a name may be shown as one, or not.
    assert by_name["message"]["required"] == ["data"]
    assert by_name["text"]["required"] == ["event", "data"]
    assert set(document["components"]["schemas"]["User"]["properties"]) == {"username"}


def test_request_for_a_ticket_is_described(generated: tuple[str, dict[str, Any]]) -> None:
    _, document = generated
    operation = document["paths"]["/tickets/"]["post"]
    schemas = document["components"]["schemas"]
    sent = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"]
    got = operation["responses"]["200"]["content"]["application/json"]["schema"]["$ref"]
    assert schemas[sent.rpartition("/")[2]]["required"] == ["path"]
    assert schemas[got.rpartition("/")[2]]["required"] == ["expires", "ticket", "url"]
    assert set(schemas[got.rpartition("/")[2]]["properties"]) == {
        "ticket",
        "url",
        "expires",
        "client",
    }


def test_rows_of_a_model_are_described(generated: tuple[str, dict[str, Any]]) -> None:
    version, document = generated
    for path in (
        *("/users/", "/users/{username}/"),
        *("/routed/people/", "/routed/people/{username}/"),
    ):
        media = document["paths"][path]["get"]["responses"]["200"]["content"]["text/event-stream"]
        item = media["itemSchema" if version.startswith("3.2") else "x-itemSchema"]
        data = {
            it["properties"]["event"]["const"]: it["properties"].get("data") for it in item["oneOf"]
        }
        assert data["changed"]["contentSchema"] == {"$ref": USER}
        assert data["deleted"]["contentSchema"] == {"$ref": "#/components/schemas/UserUsernameKey"}
        given = {it["name"] for it in document["paths"][path]["get"]["parameters"]}
        filters = given - {"Last-Event-ID", "last_event_id", "username"}
        assert filters == (set() if "{" in path else {"is_staff", "id__gte"})
    ids = [document["paths"][f"/routed/people{it}/"]["get"] for it in ("", "/{username}")]
    assert [it["operationId"] for it in ids] == ["routed_people_list", "routed_people_retrieve"]
    gone = document["components"]["schemas"]["UserUsernameKey"]
    assert gone["required"] == ["username"]
    assert {name: it["type"] for name, it in gone["properties"].items()} == {"username": "string"}


def test_post_and_undeclared_streams_are_described(generated: tuple[str, dict[str, Any]]) -> None:
    version, document = generated
    operation = document["paths"]["/generate/"]["post"]
    content = operation["requestBody"]["content"]["application/json"]
    assert content["schema"] == {"$ref": "#/components/schemas/Prompt"}
    assert {"400", "415"} <= set(operation["responses"])
    media = operation["responses"]["200"]["content"]["text/event-stream"]
    item = media["itemSchema" if version.startswith("3.2") else "x-itemSchema"]
    data = {
        it["properties"]["event"]["const"]: it["properties"].get("data") for it in item["oneOf"]
    }
    # What is not JSON on the wire is not described as JSON.
    of_user = {"contentMediaType": "application/json", "contentSchema": {"$ref": USER}}
    assert data["done"] == {"anyOf": [{"type": "string", **of_user}, {"const": ""}]}
    assert data["part"] == {"anyOf": [{"type": "string", **of_user}, {"type": "string"}]}
    clock = document["paths"]["/clock/"]["get"]
    assert "[its live page](/clock/)" in clock["description"]
    assert "The time." in clock["description"]
    assert "403" not in clock["responses"]
    assert "oneOf" not in json.dumps(clock)


def test_data_of_every_declared_type_is_described(generated: tuple[str, dict[str, Any]]) -> None:
    version, document = generated
    operation = document["paths"]["/prices/"]["get"]
    assert {"401", "403"} <= set(operation["responses"])
    media = operation["responses"]["200"]["content"]["text/event-stream"]
    item = media["itemSchema" if version.startswith("3.2") else "x-itemSchema"]
    data = {
        it["properties"]["event"]["const"]: it["properties"].get("data") for it in item["oneOf"]
    }
    schemas = {name: it["contentSchema"] for name, it in data.items() if it is not None}
    assert schemas["price"]["properties"]["price"]["type"] == "integer"
    assert schemas["prices"] == {"type": "array", "items": {}}
    assert schemas["gaps"]["items"] == {"anyOf": [schemas["count"], {"type": "null"}]}
    assert schemas["raw"] == {"type": "object"}
    assert schemas["count"]["type"] == "integer"
    assert schemas["user"] == {"$ref": "#/components/schemas/User"}


def test_job_is_described(generated: tuple[str, dict[str, Any]]) -> None:
    version, document = generated

    def events(path: str, method: str) -> dict[str, Any]:
        answer = document["paths"][path][method]["responses"]["200"]
        assert list(answer["headers"]) == ["SSE-Job"]
        media = answer["content"]["text/event-stream"]
        item = media["itemSchema" if version.startswith("3.2") else "x-itemSchema"]
        return {it["properties"]["event"]["const"]: it["properties"] for it in item["oneOf"]}

    for path, method in (("/answers/", "post"), ("/answers/{job}/", "get")):
        found = events(path, method)
        assert set(found) == {"token", "job", "progress", "end", "reset", "dropped", "revoked"}
        schemas = {
            name: found[name]["data"]["contentSchema"] for name in ("job", "progress", "end")
        }
        assert schemas["job"]["properties"] == {"id": {"type": "string"}}
        assert set(schemas["progress"]["required"]) == {"done", "total"}
        assert set(schemas["end"]["properties"]["state"]["enum"]) == {"done", "failed", "cancelled"}
    # A view that makes its own events declares them, too.
    assert set(events("/chat/", "get")) & {"job", "end", "message"} == {"job", "message"}


def test_requests_of_a_job_are_described(generated: tuple[str, dict[str, Any]]) -> None:
    _, document = generated
    found = document["paths"]["/answers/"], document["paths"]["/answers/{job}/"]
    names = [
        {method: {it["name"] for it in of["parameters"]} for method, of in operations.items()}
        for operations in found
    ]
    resume = {"Last-Event-ID", "last_event_id", "ticket"}
    assert names == [
        {
            "get": {"job"} | resume,
            "post": {"Idempotency-Key"} | resume,
            "delete": {"job", "ticket"},
        },
        {
            "get": {"job"} | resume,
            "post": {"job", "Idempotency-Key"} | resume,
            "delete": {"job", "ticket"},
        },
    ]
    answers = [{method: set(of["responses"]) for method, of in it.items()} for it in found]
    assert answers[0]["delete"] == {"204", "403", "404", "406", "429", "503"}
    assert answers[0]["get"] == answers[0]["delete"] | {"200"}
    assert answers[0]["post"] >= {"200", "400", "409", "415"}
