"""The generated client: its types hold a project's code to what its streams send."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, TypedDict

import pytest
from django.core.management import CommandError, call_command
from django.test import override_settings
from django.urls import path
from rest_framework import serializers

from django_sse import Heartbeat, JobView, SSEView, Topic, sse_path
from django_sse.contracts.typescript import runtime_for_build
from tests.docs.pages import ROOT
from tests.support.npm import install, node

RUNTIME = Path(runtime_for_build.__code__.co_filename).parent / "client" / "runtime.min.js"


class AddressSerializer(serializers.Serializer[Any]):
    street = serializers.CharField(help_text="With the number. */")
    zip_code = serializers.CharField(allow_null=True)


class OptionsSerializer(serializers.Serializer[Any]):
    """Its name is one of the client's own."""

    state = serializers.ChoiceField(choices=["new", "paid"], allow_null=True)
    address = AddressSerializer(allow_null=True)
    lines = AddressSerializer(many=True)
    counts = serializers.DictField(child=serializers.IntegerField())
    created = serializers.DateTimeField(read_only=True)
    secret = serializers.CharField(write_only=True)


class Point(TypedDict):
    x: int
    y: float | None


class Orders(SSEView):
    """The orders of a shop."""

    topics = ["typed-orders"]
    events = {"order": OptionsSerializer, "points": list[Point], "end": None, None: str}
    heartbeat = Heartbeat(period=5, event={"event": "beat", "data": "x"})


class Room(SSEView):
    topics = [Topic("typed-room", events={"a-line": str | dict})]


class Free(SSEView):
    topics = ["typed-free"]


class Work(JobView):
    events = {"line": str}

    async def work(self) -> None:
        """Tests read its declarations only."""


urlpatterns = [
    sse_path("work/", Work),
    sse_path("orders/", Orders, name="shop_orders"),
    sse_path("rooms/new/", Orders, name="shop-orders"),
    sse_path("rooms/<int:pk>/", Room),
    sse_path("free/", Free, name="free"),
    path("page/", lambda request: None),
]

#: What is right compiles, and each line after an `@ts-expect-error` is an error.
USAGE = """
import { connect, StreamError, type ShopOrdersEvents, type OptionsData } from "./streams";

const stream = connect("/orders/?since=3", {
  order(order, event) {
    const state: "new" | "paid" | null = order.state;
    const street: string | undefined = order.address?.street;
    const codes: (string | null)[] = order.lines.map((it) => it.zip_code);
    const count: number | undefined = order.counts["a"];
    const created: string = order.created;
    const kept: OptionsData = order;
    const id: string = event.id;
    // @ts-expect-error
    order.secret;
    // @ts-expect-error
    const wrong: number = order.created;
    console.log(state, street, codes, count, created, kept, id, wrong);
  },
  points: (points) => points.map((it) => it.x + (it.y ?? 0)),
  end: (nothing: null) => nothing,
  message: (text: string) => text,
  beat: (text: string) => text,
  reset() {},
  dropped: ({ count }) => count + 1,
});
stream.close();

// @ts-expect-error
connect("/orders/", { ordered() {} });
// @ts-expect-error
connect("/orders/", { order(order: number) {} });
connect("/rooms/7/", { "a-line": (line) => (typeof line === "string" ? line : Object.keys(line)) });
// @ts-expect-error
connect("/rooms/7/", { order() {} });
connect("/rooms/new/", { order() {} });
connect<"/orders/">(new URL("https://api.example.org/orders/"), { order: (it) => it.state });
connect("/work/", {
  line: (text: string) => text,
  job: ({ id }) => id.length,
  progress: ({ done, total }) => (total === null ? "…" : done / total),
  end({ state }) {
    const ended: "done" | "failed" | "cancelled" = state;
    // @ts-expect-error
    const other: "running" = state;
    console.log(ended, other);
  },
});
connect("/free/", { anything(data: { a: number }) { return data.a; } });
connect("/elsewhere/", { anything() {} }, { json: { prompt: "…" }, onState: (_, error) => error?.status });

async function read() {
  for await (const event of connect("/orders/")) {
    if (event.event === "order") console.log(event.data.address, event.id);
    // @ts-expect-error
    if (event.event === "ordered") console.log(event.data);
  }
}
const name: keyof ShopOrdersEvents = "order";
read().catch((error) => error instanceof StreamError && console.log(error.status, name));
"""


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(tmp_path_factory)


@override_settings(ROOT_URLCONF=__name__)
def test_strict_code_is_held_to_the_declared_events(packages: Path, tmp_path: Path) -> None:
    call_command("sse_client", output=str(tmp_path / "streams.ts"))
    (tmp_path / "usage.ts").write_text(USAGE)
    options = (
        "--noEmit --strict --noUncheckedIndexedAccess --exactOptionalPropertyTypes "
        "--noUnusedParameters --noUnusedLocals --noImplicitReturns --isolatedModules "
        "--target es2022 --module esnext --moduleResolution bundler"
    )
    tsc = packages / "typescript" / "bin" / "tsc"
    done = subprocess.run(
        [node(), str(tsc), *options.split(), str(tmp_path / "usage.ts")],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout == ""
    assert done.returncode == 0


def test_the_runtime_is_that_of_its_source_and_small(packages: Path) -> None:
    esbuild = packages / "esbuild" / "bin" / "esbuild"
    options = "--loader=ts --minify --target=es2022 --format=esm --charset=utf8"
    built = subprocess.run(
        [str(esbuild), *options.split()],
        input=runtime_for_build(),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout
    if os.environ.get("RENEW_CLIENT"):
        RUNTIME.write_text(built, encoding="utf-8")
    assert RUNTIME.read_text(encoding="utf-8") == built, "Run `make client`."
    assert len(gzip.compress(built.encode(), 9)) < 4000


@override_settings(ROOT_URLCONF=__name__)
def test_a_plain_script_and_a_module_are_written(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    node()
    call_command("sse_client", script="streams", output=str(tmp_path / "streams.js"))
    call_command("sse_client", javascript=True, output=str(tmp_path / "streams.mjs"))
    for code in ('require("./streams.js"); show(streams)', 'import("./streams.mjs").then(show)'):
        shown = subprocess.run(
            [
                node(),
                "-e",
                f"const show = (it) => console.log(Object.keys(it).sort().join()); {code}",
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        ).stdout
        assert shown.strip() == "StreamError,connect"


def test_the_demos_client_is_what_its_streams_declare() -> None:
    written = ROOT / "testproject" / "shop" / "static" / "shop" / "streams.js"
    again = "DJANGO_SSE_SHARED=1 python manage.py sse_client --javascript"
    made = subprocess.run(
        [sys.executable, *again.split()[2:]],
        cwd=ROOT,
        env=os.environ
        | {"DJANGO_SSE_SHARED": "1", "DJANGO_SETTINGS_MODULE": "testproject.settings"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout
    assert written.read_text(encoding="utf-8") == made, f"{again} -o {written}"


def test_a_wrong_name_or_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="must be a name in JavaScript, got 'a-b'"):
        call_command("sse_client", script="a-b")
    with pytest.raises(CommandError, match="cannot be written"):
        call_command("sse_client", output=str(tmp_path / "missing" / "streams.ts"))
