"""A client for the streams of a project, in TypeScript or JavaScript: its types, and the runtime."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .schemas import Schema
from .streams import document

_FOLDER = Path(__file__).parent / "client"

# The part of runtime.ts above this line is written anew for each project.
_MARK = "// ---- what follows is the same for all projects\n"

_HEAD = "// Written by `manage.py sse_client`. Do not change it: run the command again.\n"

# The runtime's own names, and those of the language and the browser which it uses.
_TAKEN = frozenset(
    {
        *("AnyEvents", "EventsOf", "EventsAt", "EventOf", "Handlers", "State", "Options"),
        *("Stream", "StreamError", "Received", "Message", "Always", "Record", "Promise", "Error"),
        *("AbortController", "AbortSignal", "Response", "Document", "Map", "Set", "MessagePort"),
        *("MessageEvent", "MessageChannel", "AsyncIterable", "IteratorResult", "ReturnType"),
        *("BodyInit", "RequestCredentials", "URL", "RegExp", "EventSource", "BroadcastChannel"),
        *("SharedWorker", "TextEncoder", "TextDecoderStream", "Object", "Number", "Math", "Date"),
        *("String", "Array", "JSON", "NonNullable", "Readonly"),
    }
)

_PRIMITIVES = {
    "string": "string",
    "integer": "number",
    "number": "number",
    "boolean": "boolean",
    "null": "null",
    "array": "unknown[]",
    "object": "Record<string, unknown>",
}

_ALWAYS = """\
/** What every stream may send by itself. */
export interface Always {
  /** Events were lost: forget what you keep, and build it again from what follows. */
  reset: unknown;
  /** So many events were left out, as this client was slow. */
  dropped: { count: number };
  /** The server has ended the stream, for example as the user lost a permission. */
  revoked: unknown;
}
"""

_ANY = """\
/** The events of a stream that declares none. */
export type AnyEvents = Record<string, any>;
"""

_EVENTS_OF = """\
/** What this project's streams send, by path. */
export type EventsOf<Path extends string> =
  Path extends `${infer Before}?${string}` ? EventsAt<Before> : EventsAt<Path>;
"""


def typescript() -> str:
    """Return a client in TypeScript, with the types of all events that streams declare."""
    described = document()
    names = _type_names(described["schemas"])
    streams = _streams(described["streams"])
    parts = [
        _HEAD,
        *(_interface(names[name], it, names) for name, it in described["schemas"].items()),
        _ALWAYS,
        *(_events(name, it, names) for name, it in streams if it["events"] is not None),
        _ANY,
        _events_at(streams),
        _EVENTS_OF,
        f"const TEXT: [RegExp, string[]][] = {_text_events(described['streams'])};\n",
        _runtime_source(),
    ]
    return "\n".join(parts)


def javascript(*, script_global: str | None = None) -> str:
    """Return a client in JavaScript: an ES module, or a plain script that sets a global object.

    The global object has the module's names: ``djangoSSE.connect(…)``.
    """
    text = f"const TEXT={_text_events(document()['streams'])};\n"
    runtime = (_FOLDER / "runtime.min.js").read_text(encoding="utf-8")
    exported = re.compile(r"export\{(.*?)\};?\s*$")
    if script_global is None:
        return f"{_HEAD}{text}{runtime}"
    [listed] = exported.findall(runtime)
    pairs = [it.split(" as ") for it in listed.split(",")]
    members = ",".join(f"{pair[-1].strip()}:{pair[0].strip()}" for pair in pairs)
    body = exported.sub("", runtime)
    return f"{_HEAD}(()=>{{{text}{body}globalThis.{script_global}={{{members}}};\n}})();\n"


def runtime_for_build() -> str:
    """Return the runtime as it is compiled once, without what belongs to one project."""
    return (
        "type AnyEvents = Record<string, any>;\n"
        "type EventsOf<Path extends string> = AnyEvents;\n"
        f"declare const TEXT: [RegExp, string[]][];\n{_runtime_source()}"
    )


def _runtime_source() -> str:
    text = (_FOLDER / "runtime.ts").read_text(encoding="utf-8")
    return text.partition(_MARK)[2]


def _type_names(schemas: Iterable[str]) -> dict[str, str]:
    """Return the name of each schema in TypeScript, which none of the runtime's has."""
    names: dict[str, str] = {}
    for name in schemas:
        free = name
        while free in _TAKEN or free in names.values():
            free += "Data"
        names[name] = free
    return names


def _streams(described: list[dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    """Return the streams with the names of their types; exact paths come first."""
    named: list[tuple[str, dict[str, Any]]] = []
    used: set[str] = set()
    for it in described:
        words = re.findall(r"\w+", it["name"] or it["view"].rpartition(".")[2])
        base = "".join(word[0].upper() + word[1:] for it in words for word in it.split("_") if word)
        number, free = 2, f"{base}Events"
        while free in used or free in _TAKEN:
            free, number = f"{base}{number}Events", number + 1
        used.add(free)
        named.append((free, it))

    def rank(item: tuple[str, dict[str, Any]]) -> tuple[bool, int]:
        path = item[1]["path"]
        fixed = re.sub(r"\{\w+\}", "", path)
        return fixed != path, -len(fixed)

    return sorted(named, key=rank)


def _interface(name: str, schema: Schema, names: dict[str, str]) -> str:
    if "properties" not in schema:
        return f"export type {name} = {_type(schema, names)};\n"
    return f"export interface {name} {_members(schema, names, '')}\n"


def _members(schema: Schema, names: dict[str, str], indent: str) -> str:
    lines = ["{"]
    needed = schema.get("required", ())
    for name, it in schema["properties"].items():
        if "description" in it:
            lines.append(f"{indent}  /** {_in_comment(it['description'])} */")
        mark = "" if name in needed else "?"
        lines.append(f"{indent}  {_key(name)}{mark}: {_type(it, names, indent + '  ')};")
    return "\n".join([*lines, f"{indent}}}"])


def _events(name: str, stream: dict[str, Any], names: dict[str, str]) -> str:
    kinds: dict[str, list[str]] = {}
    own = {"reset", "dropped", "revoked"}
    for event in stream["events"]:
        if event["event"] not in own:
            # Several topics may declare an event of one name.
            found = kinds.setdefault(event["event"] or "message", [])
            kind = _type(event["schema"], names, "  ")
            if kind not in found:
                found.append(kind)
    about = stream["description"].partition("\n")[0]
    lines = [f"/** {stream['path']}{': ' if about else ''}{_in_comment(about)} */"]
    lines.append(f"export interface {name} extends Always {{")
    lines += [f"  {_key(it)}: {' | '.join(found)};" for it, found in kinds.items()]
    return "\n".join([*lines, "}", ""])


def _events_at(streams: list[tuple[str, dict[str, Any]]]) -> str:
    lines = ["type EventsAt<Path extends string> ="]
    for name, it in streams:
        path = re.sub(r"\\\{\w+\\\}|\{\w+\}", "${string}", it["path"].replace("`", "\\`"))
        kind = "AnyEvents" if it["events"] is None else name
        lines.append(f"  Path extends `{path}` ? {kind} :")
    return "\n".join([*lines, "  AnyEvents;", ""])


def _text_events(streams: list[dict[str, Any]]) -> str:
    """Return, as JavaScript, the events whose data is text, and so no JSON, for each path."""
    found = []
    for it in streams:
        texts = [
            event["event"] or "message"
            for event in it["events"] or ()
            if event["schema"].get("type") == "string"
            and event["event"] not in ("reset", "revoked")
        ]
        if texts:
            path = re.sub(r"\\\{\w+\\\}", ".+", re.escape(it["path"])).replace("/", "\\/")
            found.append(f"[/{path}$/, {json.dumps(texts)}]")
    return f"[{', '.join(found)}]"


def _type(schema: Schema, names: dict[str, str], indent: str = "") -> str:
    if "$ref" in schema:
        return names[schema["$ref"].rpartition("/")[2]]
    if "anyOf" in schema:
        return " | ".join(dict.fromkeys(_type(it, names, indent) for it in schema["anyOf"]))
    if "enum" in schema:
        return " | ".join(json.dumps(it, ensure_ascii=False) for it in schema["enum"]) or "never"
    kind = schema.get("type")
    if isinstance(kind, list):
        return " | ".join(_type({**schema, "type": it}, names, indent) for it in kind)
    if kind == "array" and "items" in schema:
        item = _type(schema["items"], names, indent)
        return f"({item})[]" if "|" in item else f"{item}[]"
    if kind == "object" and "properties" in schema:
        return _members(schema, names, indent)
    if kind == "object" and "additionalProperties" in schema:
        return f"Record<string, {_type(schema['additionalProperties'], names, indent)}>"
    return _PRIMITIVES.get(str(kind), "unknown")


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z_$][\w$]*", name, re.ASCII) else json.dumps(name)


def _in_comment(text: str) -> str:
    return " ".join(text.split()).replace("*/", "*\\/")
