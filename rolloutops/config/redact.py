"""What comes from outside, without the keys in use: an endpoint may echo what it was sent, as it is or encoded.

A key in use is every value that came from a variable named by `api_key_env`, and every secret among settings
(`secrets.py`). It is known for the whole process, so that each door (what an endpoint sent, what is recorded, what is
shown) looks for all of them.
"""

from __future__ import annotations

import base64
import html
import os
import re
import sys
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, unquote, unquote_to_bytes

from rolloutops.visible import visible

HIDDEN_KEY = "[key]"
"""What stands for a key where one stood."""
SHORTEST = 8
"""Characters from which on a value is looked for. A shorter one would be found in texts that do not hold it."""
WORD = re.compile(r"[A-Za-z]{1,15}|(?:sk-)?(?i:no|not|none|any|dummy|fake|empty|your|some)(?:[ _-][A-Za-z]{1,10}){1,3}")
"""A placeholder instead of a key, as EMPTY or sk-no-key-required: an answer may well say it."""
PART = 12
"""Characters of a key's beginning or end that are a part of it, where a message truncated the rest."""
TAIL = rb"(?:[\w.~+/=-]|%[0-9A-Fa-f]{2}|\\+u00[0-9A-Fa-f]{2}|\\+/|&#x?[0-9A-Fa-f]+;?)*"
BREAK = rb"(?:[ \t\r\n]|\\+[rnt]|%0[AaDd9])*"
"""What a folded header or a wrapped line puts between the characters of a key."""
ESCAPE = re.compile(rb"\\+(?:u00([0-9A-Fa-f]{2})|x([0-9A-Fa-f]{2})|[rnt])?")
"""What JSON and Python escape; a backslash before any other character falls away."""
NAMED = {
    "&": rb"&amp;",
    "<": rb"&lt;",
    ">": rb"&gt;",
    '"': rb"&quot;",
    "'": rb"&apos;",
    "+": rb"&plus;",
    "/": rb"&sol;",
}

_keys: dict[str, tuple[bytes, ...]] = {}
_needles: tuple[bytes, ...] = ()
_raw: tuple[bytes, ...] = ()
_parts: tuple[bytes, ...] = ()
_pattern: re.Pattern[bytes] | None = None
_lock = threading.Lock()


def keep_out(value: str) -> None:
    """Know a value as a key in use from now on. A placeholder is not a key: too short, or only words."""
    value = value.strip()
    scheme, _, credentials = value.partition(" ")
    if scheme.lower() in ("bearer", "basic", "token", "apikey", "bot") and credentials:
        value = credentials.strip()
    if len(value) < SHORTEST or WORD.fullmatch(value) or value in _keys:
        return
    global _needles, _pattern, _raw, _parts
    with _lock:
        for form in {value, unquote(value)}:
            _keys[form] = tuple(dict.fromkeys(_encoded(form)))
        _needles = tuple(needle for needles in _keys.values() for needle in needles)
        _raw = tuple(needles[0] for needles in _keys.values())
        _parts = tuple(dict.fromkeys(part for key in _keys for part in _pieces(key)))
        longest_first = sorted(_keys, key=len, reverse=True)
        _pattern = re.compile(b"|".join(piece for key in longest_first for piece in _patterns(key)))


def keep_out_variable(name: str) -> None:
    """Know the value of an environment variable that holds a key."""
    keep_out(os.environ.get(name, ""))


def redacted(data: bytes) -> bytes:
    """Bytes without the keys in use, where a message may have escaped, encoded, wrapped or cut one in any way.

    It is decoded and looked through first, some 5 us a kilobyte; the regular expression takes 100 and runs on a hit.
    """
    if _pattern is None or not _occurs(data):
        return data
    return _pattern.sub(HIDDEN_KEY.encode(), data)


def redacted_text(text: str) -> str:
    """`redacted` for text."""
    if _pattern is None:
        return text
    data = text.encode("utf-8", "surrogatepass")
    clean = redacted(data)
    return text if clean == data else clean.decode("utf-8", "surrogatepass")


def for_screen(text: str) -> str:
    """Show a table or sentence: no key in use is in it, and nothing that a terminal would obey."""
    return visible(redacted_text(text))


def tell(*lines: str) -> None:
    """Write sentences for the person at the terminal, to standard error; nothing else writes there."""
    sys.stderr.write("".join(f"{for_screen(line)}\n" for line in lines))


def without_keys(data: bytes) -> bytes:
    """`redacted` for an ordinary answer: each usual spelling of a key is looked for, about 1 us in 2 kB."""
    for needle in _needles:
        if needle in data:
            return redacted(data)
    return data


def holds_key(data: bytes) -> bool:
    """Whether a key is in these bytes as it is."""
    return any(key in data for key in _raw) if len(_raw) > 1 else bool(_raw) and _raw[0] in data


def redacted_row(row: Any) -> Any:
    """A row, at any depth, with `redacted_text` for each text in it."""
    if isinstance(row, str):
        return redacted_text(row)
    if isinstance(row, dict):
        return {redacted_row(name): redacted_row(value) for name, value in row.items()}
    if isinstance(row, list | tuple):
        return [redacted_row(value) for value in row]
    return row


def _occurs(data: bytes) -> bool:
    """Whether a part of a key may be in these bytes, in any spelling."""
    for _ in range(3):  # as often as something may be escaped
        if any(part in data for part in _parts):
            return True
        plain = data
        if b"%" in plain:
            plain = unquote_to_bytes(plain)
        if b"&" in plain:
            plain = html.unescape(plain.decode("utf-8", "replace")).encode()
        if b"\\" in plain:
            plain = ESCAPE.sub(lambda found: bytes.fromhex((found[1] or found[2] or b"").decode()), plain)
        plain = plain.translate(None, b" \t\r\n")
        if plain == data:
            return False
        data = plain
    return any(part in data for part in _parts)


def _encoded(key: str) -> Iterator[bytes]:
    """The spellings that programs give to a key as a whole, the most usual ones; `_patterns` knows all."""
    raw = key.encode("utf-8", "surrogatepass")
    yield raw
    yield from list(_base64(raw))[:4]  # alone, and behind `Bearer ` or a colon
    for digits in ("04x", "04X"):
        yield "".join(f"\\u{ord(c):{digits}}" for c in key).encode()
        yield "".join(c if c.isalnum() or c in "-_.~" else f"\\u{ord(c):{digits}}" for c in key).encode(
            "utf-8", "replace"
        )
    yield key.replace("/", r"\/").encode("utf-8", "surrogatepass")
    yield quote(key, safe="", errors="surrogatepass").encode()
    yield "".join(f"%{byte:02X}" for byte in raw).encode()
    yield html.escape(key).encode("utf-8", "surrogatepass")
    yield "".join(f"&#{ord(c)};" for c in key).encode()


def _base64(raw: bytes) -> Iterator[bytes]:
    """What a key is in base64 wherever it begins, without the characters that its neighbors share."""
    for before in range(3):
        whole = base64.b64encode(b"\0" * before + raw)
        first, last = (0, 2, 3)[before], (before + len(raw)) * 8 // 6
        if last - first >= PART - 2:
            yield whole[first:last]
            yield base64.urlsafe_b64encode(b"\0" * before + raw)[first:last]


def _pieces(key: str) -> Iterator[bytes]:
    """What a text holds that holds a key or a part of it, decoded and without white space."""
    raw = key.encode("utf-8", "surrogatepass").translate(None, b" \t\r\n\\")
    yield from (raw[:PART], raw[-PART:])
    for core in _base64(raw):
        yield core[:PART]


def _patterns(key: str) -> Iterator[bytes]:
    """Regular expressions for a key: its beginning and its end, a half of it at least, each character in any spelling;
    and its base64."""
    most = min(max(PART, (len(key) + 1) // 2), 48)
    yield BREAK.join(map(_spellings, key[:most])) + (TAIL if len(key) > most else b"")
    if len(key) >= 2 * PART:
        yield BREAK.join(map(_spellings, key[-most:]))
    for core in dict.fromkeys(_base64(key.encode("utf-8", "surrogatepass"))):
        yield re.escape(core) + rb"[A-Za-z0-9+/_-]*=*"


def _spellings(c: str) -> bytes:
    """One character in any spelling: itself, escaped in JSON (any number of times), in an address or in HTML."""
    raw = c.encode("utf-8", "surrogatepass")
    percent = b"".join(rb"%%(?:25)*%b" % _hex(f"{byte:02x}") for byte in raw)
    ways = [
        rb"\\*" + re.escape(raw) if not c.isalnum() else re.escape(raw),
        rb"\\+u%b" % _hex(f"{ord(c):04x}"),
        percent,
    ]
    ways += [rb"\\+x%b" % _hex(f"{byte:02x}") for byte in raw[:1]]
    ways += [rb"&#0*%d;?" % ord(c), rb"&#[xX]0*%b;?" % _hex(f"{ord(c):x}"), *filter(None, [NAMED.get(c)])]
    return b"(?:" + b"|".join(ways) + b")"


def _hex(digits: str) -> bytes:
    """Hexadecimal digits in either case."""
    return "".join(f"[{d}{d.upper()}]" if d.isalpha() else d for d in digits).encode()


keep_out_variable("OPENAI_API_KEY")
