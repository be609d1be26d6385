"""Rows of .json files, read as a stream: memory does not grow with the file, but with its longest row.

What such a file holds is recognised by its form (JSON as RFC 8259 defines it):

- a list: each element is a row;
- several values one after another (JSON lines under another name): each is a row, and each element of a list;
- one object with a key of ROW_KEYS is itself the row; of any other, the one list of objects holds the rows, as in
  `{"version": "1.1", "data": [{…}, {…}]}`. Of several such lists, one whose key is among LIST_KEYS; else the object is
  the row.

An element that is no object, or no JSON, is a row with a reason. A row's line is the one on which it begins.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from rolloutops.errors import InputError
from rolloutops.formats.strict_json import parse

ROW_KEYS = frozenset(
    (
        *("messages", "conversations", "conversation", "prompt", "question", "problem", "instruction", "input"),
        *("query", "text", "contents", "content", "turns", "dialog", "dialogue", "history", "chat_history"),
        *("trajectory", "steps", "events", "request", "requests", "choices", "candidates", "output", "outputs"),
        *("response", "responses", "completion", "completions", "generation", "chosen", "rejected"),
        *("responses_create_params", "task_input", "custom_id", "body", "answer"),
    )
)
"""Keys of a task or a rollout: an object that has one is a row, not a wrapper around rows."""

LIST_KEYS = frozenset(
    (
        *("data", "rows", "examples", "instances", "records", "items", "samples", "tasks", "questions", "results"),
        *("entries", "rollouts", "dataset"),
    )
)
"""Keys under which rows lie beside other lists, in any case (Natural Instructions: `Instances`)."""

SPLITS = frozenset(("train", "training", "test", "validation", "valid", "val", "dev", "eval", "evaluation"))
"""Keys of lists that hold rows too, beside the one that is read, in any case."""

OUTSIDE = re.compile(rb'["{}\[\]]')
BRACKET = re.compile(rb'[^"{}\[\]]*+(?:"[^"\\]*+(?:\\.[^"\\]*+)*+"[^"{}\[\]]*+)*+([{}\[\]])', re.DOTALL)
"""Up to the next bracket that is not in a string; no match if a block ends before."""
STRING_REST = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
SPACE = re.compile(rb"[ \t\r\n]*")
SCALAR_END = re.compile(rb"[ \t\r\n,:\]}]")
LINE = re.compile(r"\bline (\d+), column")

DocumentRow = tuple[int, bytes, str | None]
"""A row's line in the file, its bytes as one line, and why it cannot be used."""


def document_rows(path: Path, blocks: Callable[[], Iterator[bytes]]) -> Iterator[DocumentRow]:
    """Read the rows of a .json file. blocks: its bytes from the start, each time it is called.

    Raises InputError where the rest of the file cannot be split into values.
    """
    scanner = _Scanner(path, blocks())
    lone, key = scanner.peek() == b"{", None
    members: list[tuple[str, bool]] = []
    if lone:
        members = scanner.members()
        lone = not scanner.peek()
        key = _rows_key(members) if lone else None
        scanner = _Scanner(path, blocks())
    if key is not None:
        scanner.enter(key)
        yield from _elements(scanner)
        for name in (name for name, has_objects in members if has_objects and name != key and name.lower() in SPLITS):
            why = f"the rows are read from the list {key!r}, and not from {name!r}: put each list into its own file"
            yield 1, f'{{"{name}":[]}}'.encode(), why
        return
    while first := scanner.peek():
        if first == b"[":
            yield from _elements(scanner)
        else:
            yield _row(scanner.line, scanner.value())


def _rows_key(members: list[tuple[str, bool]]) -> str | None:
    """Name the key of an object whose list holds the rows; None where the object is a row. members: its keys, and
    whether each holds a list of objects."""
    if any(name in ROW_KEYS for name, _ in members):
        return None
    lists = [name for name, has_objects in members if has_objects]
    known = [name for name in lists if name.lower() in LIST_KEYS]
    return lists[0] if len(lists) == 1 else known[0] if len(known) == 1 else None


def _elements(scanner: _Scanner) -> Iterator[DocumentRow]:
    """Read the elements of the list that begins here."""
    scanner.expect(b"[")
    if scanner.accept(b"]"):
        return
    while True:
        scanner.peek()
        yield _row(scanner.line, scanner.value())
        if not scanner.accept(b","):
            scanner.expect(b"]")
            return


def _row(line: int, raw: bytes) -> DocumentRow:
    """Bring an element to one line. Between its lines lie only spaces, once it is known to be JSON."""
    if b"\n" not in raw and b"\r" not in raw:
        return line, raw, None
    try:
        parse(raw)
    except ValueError as error:
        return line, raw, LINE.sub(lambda found: f"line {line + int(found[1]) - 1}, column", str(error))
    return line, b" ".join(map(bytes.strip, raw.splitlines())), None


class _Scanner:
    """A place in a stream of JSON, which moves over whole values without parsing them."""

    def __init__(self, path: Path, blocks: Iterator[bytes]) -> None:
        self.path, self.blocks = path, blocks
        self.block, self.at, self.line = b"", 0, 1

    def peek(self) -> bytes:
        """Skip white space and return the byte that comes next; nothing at the end."""
        while True:
            space = SPACE.match(self.block, self.at)
            end = space.end() if space else self.at
            self.line += self.block.count(b"\n", self.at, end)
            self.at = end
            if end < len(self.block):
                return self.block[end : end + 1]
            if not self._next():
                return b""

    def accept(self, byte: bytes) -> bool:
        """Move over a byte if it comes next."""
        if self.peek() != byte:
            return False
        self.at += 1
        return True

    def expect(self, byte: bytes) -> None:
        """Move over a byte. Raises InputError if another one comes next."""
        found = self.peek()
        if found == byte:
            self.at += 1
            return
        if not found:
            raise self._truncated()
        raise self._broken(f"{found.decode('utf-8', 'replace')!r} where {byte.decode()!r} was expected")

    def value(self) -> bytes:
        """Take the value that begins here, as it is written."""
        pieces: list[bytes] = []
        self._pass_value(pieces)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def members(self) -> list[tuple[str, bool]]:
        """Move over an object; return its keys, and whether each holds a list whose first element is an object."""
        found = []
        for key in self._keys():
            is_list = self.accept(b"[")
            has_objects = is_list and self.peek() == b"{"
            if is_list:
                self._pass_nested(None, depth=1)
            else:
                self._pass_value(None)
            found.append((key, has_objects))
        return found

    def enter(self, key: str) -> None:
        """Move to the value of a key of the object that begins here."""
        for name in self._keys():
            if name == key:
                return
            self._pass_value(None)

    def _keys(self) -> Iterator[str]:
        """Read the keys of an object, one at a time; the caller moves over each value."""
        self.expect(b"{")
        if self.accept(b"}"):
            return
        while True:
            if (found := self.peek()) != b'"':
                raise self._broken(f"{found.decode('utf-8', 'replace')!r} where a key was expected")
            raw = self.value()
            try:
                name = parse(raw)
            except ValueError as error:
                raise self._broken(f"a key that cannot be read: {error}") from None
            self.expect(b":")
            yield name
            if not self.accept(b","):
                self.expect(b"}")
                return

    def _pass_value(self, pieces: list[bytes] | None) -> None:
        """Move over a value, and keep its bytes if there is a list for them."""
        first = self.peek()
        if not first:
            raise self._truncated()
        if first in b",:]}":
            raise self._broken(f"{first.decode()!r} where a value was expected")
        if first in b'{["':
            self._pass_nested(pieces, depth=0)
            return
        while True:
            end = SCALAR_END.search(self.block, self.at)
            self._keep(pieces, end.start() if end else len(self.block))
            if end or not self._next():
                return

    def _pass_nested(self, pieces: list[bytes] | None, depth: int) -> None:
        """Move to where the brackets are closed, `depth` of which were opened before."""
        at, quoted = self.at, False
        while True:
            if quoted:
                end = STRING_REST.match(self.block, at)
                if not end:  # a backslash at the end says what the next block's first byte means
                    at = self._more(pieces, keep=_trailing_backslashes(self.block, at))
                    continue
                at, quoted = end.end(), False
            else:
                found = (depth and BRACKET.match(self.block, at)) or OUTSIDE.search(self.block, at)
                if not found:
                    at = self._more(pieces, keep=0)
                    continue
                at = found.end()
                byte = self.block[at - 1 : at]
                quoted = byte == b'"'
                depth += (byte in b"{[") - (byte in b"}]")
            if not quoted and depth <= 0:
                self._keep(pieces, at)
                return

    def _more(self, pieces: list[bytes] | None, keep: int) -> int:
        """Get the next block and return where to go on. keep: bytes at the end of this one that go before it."""
        rest = self.block[len(self.block) - keep :]
        self._keep(pieces, len(self.block) - keep)
        if not self._next():
            raise self._truncated()
        if rest:
            self.block = rest + self.block
        return 0

    def _keep(self, pieces: list[bytes] | None, end: int) -> None:
        self.line += self.block.count(b"\n", self.at, end)
        if pieces is not None:
            pieces.append(self.block[self.at : end])
        self.at = end

    def _next(self) -> bool:
        self.block, self.at = next(self.blocks, b""), 0
        while not self.block:
            block = next(self.blocks, None)
            if block is None:
                return False
            self.block = block
        return True

    def _truncated(self) -> InputError:
        return InputError(f"{self.path} ends in the middle of its JSON (line {self.line}): copy or generate it again")

    def _broken(self, what: str) -> InputError:
        return InputError(f"{self.path}, line {self.line}: not JSON: {what}")


def _trailing_backslashes(block: bytes, start: int) -> int:
    """Count the backslashes at the end of a block, from `start` on."""
    return len(block) - max(start, len(block.rstrip(b"\\")))
