"""What a terminal would obey, or not show, as text that can be read.

A model, an endpoint or a file's name may hold characters that move the cursor, set a clipboard, turn a line around or
hide a part of it. Every text of a table or sentence passes through `visible`.
"""

from __future__ import annotations

import re

UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e"
    "\u2060-\u206f\u3164\ufeff\uffa0\ufff9-\ufffb\U0001d173-\U0001d17a\U000e0000-\U000e007f\ud800-\udfff]"
)
"""Control characters but for tab and line feed, those of direction, of no width, of lines, and half surrogate pairs."""


def visible(text: str) -> str:
    """A text with each such character as it is written in Python, `\\x1b`. Tabs and line feeds stay."""
    return UNSEEN.sub(_escaped, text)


def visible_json(text: str) -> str:
    """JSON text with each such character as JSON escapes it: it means the same."""
    return UNSEEN.sub(lambda found: found[0] if found[0] == "\r" else ascii_json(found[0]), text)


def ascii_json(text: str) -> str:
    """JSON text with nothing but ASCII in it: it means the same."""
    return "".join(c if c.isascii() and c != "\x7f" else _utf16_escapes(c) for c in text)


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a path that is not UTF-8
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _utf16_escapes(c: str) -> str:
    units = c.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))
