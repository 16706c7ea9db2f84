"""Makes text from clients and publishers safe for a terminal."""

from __future__ import annotations

import unicodedata

# These characters would change the order in which the text after them is shown.
_BIDIRECTIONAL = frozenset("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def harmless(text: str) -> str:
    """Return ``text`` with characters that control a terminal written out, for example as ``\\x1b``."""
    if text.isprintable():
        return text
    return "".join(ascii(it)[1:-1] if _steers(it) else it for it in text)


def harmless_json(text: str) -> str:
    """Do the same with JSON text, by JSON's own escapes, so that its value stays the same."""
    return "".join(f"\\u{ord(it):04x}" if _steers(it) else it for it in text)


def _steers(character: str) -> bool:
    if character == "\t":
        return False
    return unicodedata.category(character) in {"Cc", "Zl", "Zp"} or character in _BIDIRECTIONAL
