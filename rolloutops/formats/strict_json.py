"""JSON as text: read strictly, written compactly, hashed by meaning.

Nothing is guessed on the way in. What parsers quietly repair (a key given twice, NaN, a number too large for a
double, half a surrogate pair) is refused with a reason, because the row would not be the one its author meant.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jiter
import orjson

PIECE = 1 << 20
"""Characters of a text that are encoded at once to be hashed."""

_POSITION = re.compile(r" at line (\d+) column (\d+)$")


def parse(data: bytes | str) -> Any:
    """JSON text as Python values; integers stay exact (up to Python's own limit of 4300 digits).

    Raises ValueError with one reason: not JSON, invalid UTF-8, a duplicate key, NaN or infinity, a number too large,
    half a surrogate pair, or nesting deeper than 200 levels.
    """
    try:
        raw = data.encode() if isinstance(data, str) else data
        value = jiter.from_json(raw, catch_duplicate_keys=True, allow_inf_nan=False)
    except UnicodeEncodeError as error:
        raise ValueError(f"half a surrogate pair at character {error.start + 1}") from None
    except ValueError as error:
        raise ValueError(_reason(raw, str(error))) from None
    if not _finite(value):
        raise ValueError("a number is too large: JSON readers would take it for infinity")
    return value


def read(text: str | bytes) -> Any:
    """JSON that we have stored, as Python values: read several times as fast as with json, integers exact."""
    return jiter.from_json(text if isinstance(text, bytes) else text.encode())


def canonical(value: Any) -> str:
    """JSON text that is equal for equal values: keys sorted, compact, integers exact, characters as themselves.

    Numbers keep their kind: 1 and 1.0 differ. Python's own encoder is used, because hashes of this text are stored and
    its float format does not change with a package's version. Raises ValueError where the value is not JSON.
    """
    try:
        return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except (TypeError, RecursionError) as error:
        raise ValueError(f"not a JSON value: {error}") from None


def digest(value: Any) -> str:
    """The first 32 hex digits of the SHA-256 of `canonical(value)`."""
    return hashlib.sha256(_canonical_bytes(value)).hexdigest()[:32] if _is_plain(value) else _digest_of_pieces(value)


def _canonical_bytes(value: Any) -> bytes:
    """`canonical(value)` of a value without floats: orjson writes all else as Python does, six times as fast. Whole
    numbers beyond 64 bits, which it cannot write, are Python's."""
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except TypeError:
        return canonical(value).encode("utf-8", "surrogatepass")


def _digest_of_pieces(value: Any) -> str:
    found = hashlib.sha256()
    for text in _pieces(value):
        found.update(text.encode("utf-8", "surrogatepass"))
    return found.hexdigest()[:32]


PLAIN = frozenset((int, bool, type(None)))


def _is_plain(value: Any) -> bool:
    """Whether a value is of JSON's own types, without floats and without a text of more than PIECE characters."""
    kind = type(value)
    if kind is not dict and kind is not list:
        return kind in PLAIN or (kind is str and len(value) <= PIECE)
    for item in value.values() if kind is dict else value:
        kind = type(item)
        if kind is str:
            if len(item) > PIECE:
                return False
        elif kind is dict or kind is list:
            if not _is_plain(item):
                return False
        elif kind not in PLAIN:
            return False
    return True


def _has_long_text(value: Any) -> bool:
    """Whether a text in a value has more than PIECE characters."""
    if isinstance(value, str):
        return len(value) > PIECE
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        kind = type(item)
        if (len(item) > PIECE) if kind is str else (kind is dict or kind is list) and _has_long_text(item):
            return True
    return False


def _pieces(value: Any) -> Iterator[str]:
    """`canonical(value)` in pieces: of a text of 200 MB it would be in memory three times, beside the value."""
    if not _has_long_text(value):
        yield canonical(value)
    elif isinstance(value, str):
        yield '"'
        for start in range(0, len(value), PIECE):
            yield canonical(value[start : start + PIECE])[1:-1]
        yield '"'
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield "," if number else "["
            yield from _pieces(item)
        yield "]"
    else:
        for number, key in enumerate(sorted(value)):
            yield f"{',' if number else '{'}{canonical(key)}:"
            yield from _pieces(value[key])
        yield "}"


def dump(value: Any) -> str:
    """Compact JSON text, keys in their order, integers exact.

    For values that code made, not files: what JSON cannot hold must not end a run, so NaN and infinity become null and
    half a surrogate pair becomes U+FFFD. Raises ValueError where the value has no JSON form at all.
    """
    try:
        return orjson.dumps(value).decode()
    except TypeError:  # an integer beyond 64 bits, half a surrogate pair, a key that is not a string, or no JSON at all
        try:
            text = json.dumps(
                _mapped(value, _null_for_infinite), ensure_ascii=False, separators=(",", ":"), allow_nan=False
            )
        except (TypeError, RecursionError) as error:
            raise ValueError(f"not a JSON value: {error}") from None
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def to_json_safe(value: Any) -> Any:
    """Settings as JSON can hold them: infinities and NaN become the texts `inf`, `-inf` and `nan`."""
    return _mapped(value, lambda item: str(item) if isinstance(item, float) and not math.isfinite(item) else item)


def from_json_safe(value: Any) -> Any:
    """The settings that `spelled` made these of. A text `inf` comes back as a number, which SQL casts to it."""
    return _mapped(value, lambda item: float(item) if item in ("inf", "-inf", "nan") else item)


def _mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    """The value with each of its leaves changed."""
    if isinstance(value, Mapping):
        return {key: _mapped(item, change) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_mapped(item, change) for item in value]
    return change(value)


def _null_for_infinite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _finite(value: Any) -> bool:
    """No infinite float anywhere in a parsed value: the parser makes one of 1e400."""
    if isinstance(value, float):
        return math.isfinite(value)
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        kind = type(item)
        if kind is str:
            continue
        if (kind is dict or kind is list or kind is float) and not _finite(item):
            return False
    return True


def _reason(data: bytes, error: str) -> str:
    """The parser's message in the user's words."""
    found = _POSITION.search(error)
    line, column = (int(found[1]), int(found[2])) if found else (1, 1)
    what = error[: found.start()] if found else error
    where = f"line {line}, column {column}" if line > 1 else f"column {column}"
    if what.startswith("Detected duplicate key"):
        return f"the key {what.removeprefix('Detected duplicate key ')} is given twice ({where})"
    try:
        data.decode()
    except UnicodeDecodeError as bad:
        return f"invalid UTF-8 at byte {bad.start + 1}"
    if "recursion limit" in what:
        return f"nested deeper than 200 levels ({where})"
    if "out of range" in what:
        return f"a number has too many digits ({where})"
    if "hex escape" in what and re.search(rb"\\u[dD][89a-fA-F]", data):
        return f"half a surrogate pair ({where})"
    here = data.split(b"\n")[line - 1][max(column - 2, 0) : column + 10]
    if name := re.match(rb"[^\w-]?(-?(?:NaN|Infinity))", here):
        return f"{name[1].decode()} is not a JSON number ({where})"
    if not data.strip():
        return "not JSON: it is empty"
    if data.startswith(b"\xef\xbb\xbf"):
        return "not JSON: it begins with a byte order mark"
    return f"not JSON: {'it ends too early' if what.startswith('EOF') else what} ({where})"
