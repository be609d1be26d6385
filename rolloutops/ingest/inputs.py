"""Input files: found by name, read row by row. Memory does not grow with the file.

Every row comes with its bytes. A line of JSONL is kept byte for byte, an element of a JSON file too but for its line
breaks; a row of a table becomes one compact line of JSON. A row that cannot be used comes with the reason and ends
nothing; a file that cannot be read is an InputError.
"""

from __future__ import annotations

import glob
import os
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from io import FileIO
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from rolloutops.config.paths import as_path
from rolloutops.errors import InputError, did_you_mean
from rolloutops.formats.strict_json import parse
from rolloutops.ingest.csv_rows import csv_rows, tsv_rows
from rolloutops.ingest.json_documents import document_rows
from rolloutops.ingest.remote import fetch, is_remote

TEXTS = (".jsonl", ".jsonl.out", ".ndjson", ".csv", ".tsv", ".json")
PACKED = (".gz", ".zst")
TABLES = (".parquet", ".arrow", ".feather")
SUFFIXES = (*(kind + packed for kind in TEXTS for packed in ("", *PACKED)), *TABLES)
"""The kinds of file that can be read."""

MARK = b"\xef\xbb\xbf"
"""The byte order mark of UTF-8, which some programs write."""

BLOCK = 1 << 16
"""Bytes of a compressed file that are unpacked at once."""

LARGE_BLOCK = 1 << 24
"""Bytes of a plain file that are read at once where its lines are not parsed."""

CHECK_ROWS = 1 << 16
"""Rows after which a file is looked at: does it change while it is read?"""

UNUSABLE = {list: "a JSON array", str: "a JSON string", int: "a number", float: "a number", bool: "true or false"}


class Row(NamedTuple):
    """One row of an input file.

    line: its line in the file (in a table its row), from 1. raw: its bytes, as one line of JSON. value: the object in
    it; None where the row cannot be used, and then reason says why.
    """

    line: int
    raw: bytes
    value: dict[str, Any] | None
    reason: str | None


RawRow = tuple[int, bytes, str | None]
"""A row's line, its bytes as one line of JSON, and why it cannot be used; None where it can, as far as is known."""


def find_inputs(pattern: str | Sequence[str], *bases: Path, empty_too: bool = False) -> list[Path]:
    """The files that a recipe's `input` names: files, globs (`**` reaches into subfolders), and folders, of which every
    readable file counts; also addresses, whose files are fetched. Relative names start at the first of the bases where
    something lies under them. In the order given, sorted within each pattern, no file twice.

    Raises InputError where something is missing, empty (unless empty_too), or of a kind that cannot be read.
    """
    patterns = [pattern] if isinstance(pattern, str) else list(pattern)
    try:
        found = dict.fromkeys(path for one in patterns for path in _find(one, _base(one, bases)))
        empty = next((path for path in found if not empty_too and path.stat().st_size == 0), None)
    except OSError as error:
        raise _unreadable(Path(error.filename or bases[0]), error) from None
    if not found:
        raise InputError("no input: name a file, a folder, or a glob such as data/*.jsonl")
    if empty:
        raise InputError(f"{empty} is empty: regenerate it, or remove it from the input")
    return list(found)


def is_missing(pattern: str, *bases: Path) -> bool:
    """Whether nothing lies under a name of `find_inputs`: no file, no match, or a folder without one that is read."""
    path = _base(pattern, bases) / as_path(pattern)
    if is_remote(pattern):
        return False
    if path.is_dir():
        return not _files_of(path)
    return not path.exists() and not glob.glob(str(path), recursive=True)


def open_rows(path: Path, lines: Iterable[int] | None = None) -> Iterator[Row]:
    """The rows of one input file, one at a time, or only those of these lines, which ascend; blank lines are skipped.

    Several elements of a .json file may have one line. An empty cell of a CSV or TSV file is an absent key, and other
    cells are text; a null of Parquet or Arrow is a null.

    Raises InputError where the file, or the rest of it, cannot be read, or changes meanwhile.
    """
    return map(parse_row, unparsed_rows(path, lines))


def unparsed_rows(path: Path, lines: Iterable[int] | None = None) -> Iterator[RawRow]:
    """The rows of `open_rows` as they are read, for `parse_row`."""
    before = file_state(path)
    wanted = iter(lines or ())
    next_line = next(wanted, None)
    number, held = 0, list[RawRow]()
    for row in raw_rows(path):
        number += 1
        if number % CHECK_ROWS == 0:
            refuse_change(path, before)  # one that grows as fast as it is read would never end
        if lines is not None:
            while next_line is not None and next_line < row[0]:
                next_line = next(wanted, None)
            if row[0] != next_line:
                continue
        if row[2] or (row[1] and not row[1].isspace()):
            held.append(row)
            del row  # a generator's variables live on while it waits: a row of 200 MB would lie beside the next one
            yield held.pop()
    refuse_change(path, before)


def parse_row(row: RawRow) -> Row:
    """A row of a file as the object in it, or with the reason why there is none."""
    line, raw, reason = row
    return Row(line, raw, None, reason) if reason else _checked(line, raw)


def raw_rows(path: Path) -> Iterator[RawRow]:
    """Read each row, unparsed; blank lines too."""
    try:
        if _readable(path).name.lower().endswith(TABLES):
            from rolloutops.ingest.arrow_rows import table_lines

            yield from table_lines(path)
        elif is_json_lines(path):
            yield from map(_without_end, _lines(path))
        elif _kind(path) == ".json":
            yield from document_rows(path, lambda: _unmarked(path))
        else:
            yield from (csv_rows if _kind(path) == ".csv" else tsv_rows)(path, _lines(path))
    except OSError as error:
        raise _unreadable(path, error) from None


def _without_end(row: tuple[int, bytes]) -> RawRow:
    line, raw = row
    return line, raw.removesuffix(b"\n").removesuffix(b"\r") if raw.endswith(b"\n") else raw, None


def is_json_lines(path: Path) -> bool:
    """Whether a file's rows are its lines, as they stand there."""
    return _kind(path) in (".jsonl", ".ndjson")


def _kind(path: Path) -> str:
    """Return the suffix of a file, without that of its compression."""
    name = path.name.lower().removesuffix(".gz").removesuffix(".zst")
    return Path(name.removesuffix(".out")).suffix  # as Bedrock names what it answers: NAME.jsonl.out


def file_state(path: Path) -> tuple[int, ...]:
    """Return what differs as soon as a file is written to or replaced."""
    try:
        found = path.stat()
    except OSError as error:
        raise _unreadable(path, error) from None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def refuse_change(path: Path, before: tuple[int, ...]) -> None:
    """Raise InputError if a file is no longer as it was: what was read may be half of it."""
    if not path.exists() or file_state(path) != before:
        raise InputError(
            f"{path} changed while it was read, and nothing was written: wait until it is complete, then run the same "
            "command again (to avoid this, write files under another name and rename them when complete)"
        )


def _unreadable(path: Path, error: OSError) -> InputError:
    return InputError(f"cannot read {path}: {os.strerror(error.errno) if error.errno else error}")


def _base(pattern: str, bases: Sequence[Path]) -> Path:
    """Where a name starts: the first base that has it, else the first."""
    name = pattern and str(as_path(pattern))
    return next((base for base in bases if name and glob.glob(name, root_dir=base, recursive=True)), bases[0])


def _find(pattern: str, base: Path) -> list[Path]:
    if not pattern:
        raise InputError("an input has no name: name a file, a folder, or a glob such as data/*.jsonl")
    if is_remote(pattern):
        return [_readable(path) for path in fetch(pattern, lambda name: _is_input(Path(name)))]
    path = base / as_path(pattern)
    if path.is_dir():
        files = _files_of(path)
        if not files:
            raise InputError(
                f"the folder {path} has no file ending in {', '.join(SUFFIXES)}; for subfolders use a glob"
            )
        return files
    if path.exists():
        return [_readable(path)]
    if glob.has_magic(pattern):
        names = glob.glob(str(as_path(pattern)), root_dir=base, recursive=True)
        files = sorted(base / name for name in names if (base / name).is_file())
        if not files:
            raise InputError(f"no file matches {path}")
        return [_readable(file) for file in files]
    siblings = [file.name for file in path.parent.iterdir()] if path.parent.is_dir() else []
    raise InputError(f"no such file: {path}{did_you_mean(path.name, siblings)}")


def _files_of(folder: Path) -> list[Path]:
    """The readable files of a folder. A .json file beside other kinds holds settings or figures, as NeMo Gym's metrics
    and a build's manifest do; alone, they are the data."""
    files = sorted(file for file in folder.iterdir() if file.is_file() and _is_input(file))
    return [file for file in files if _kind(file) != ".json"] or files


def _is_input(path: Path) -> bool:
    return path.name.lower().endswith(SUFFIXES) and not path.name.startswith((".", "_"))


def _readable(path: Path) -> Path:
    """The path, where its suffix is one that can be read."""
    name = path.name.lower()
    if name.endswith(SUFFIXES):
        return path
    suffix = "".join(Path(name).suffixes[-2:]) if name.endswith(PACKED) else Path(name).suffix
    guess = did_you_mean(suffix, SUFFIXES) if suffix else ""
    raise InputError(f"{path}: cannot read {suffix or 'a file without suffix'}{guess} (known: {', '.join(SUFFIXES)})")


def _checked(line: int, raw: bytes) -> Row:
    """A line as a row: parsed, or with the reason why not."""
    try:
        value = parse(raw)
    except ValueError as error:
        return Row(line, raw, None, str(error))
    if isinstance(value, dict):
        return Row(line, raw, value, None)
    return Row(line, raw, None, f"{UNUSABLE.get(type(value), 'null')}, not a JSON object")


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """(number, line with its ending) of a text file, plain or compressed; without a byte order mark."""
    with path.open("rb", buffering=1 << 20) as file:
        packed = path.name.lower().endswith(PACKED)
        lines = _split(_unpacked(path, file)) if packed else file
        yield from map(partial(_numbered, path), count(1), lines)  # unlike variables and enumerate, it holds no line


def _numbered(path: Path, number: int, line: bytes) -> tuple[int, bytes]:
    return number, without_mark(path, line) if number == 1 else line


def without_mark(path: Path, start: bytes) -> bytes:
    """The first bytes of a text file without a byte order mark. Raises InputError for one that is not of UTF-8."""
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise InputError(f"{path} is UTF-16: convert it to UTF-8 first (iconv -f utf-16 -t utf-8)")
    return start.removeprefix(MARK)


def blocks_of(path: Path) -> Iterator[bytes]:
    """The bytes of a text file, unpacked where it is compressed, in blocks of any size."""
    try:
        with path.open("rb", buffering=0) as file:
            if path.name.lower().endswith(PACKED):
                yield from _unpacked(path, file)
            else:
                while block := file.read(LARGE_BLOCK):
                    yield block
    except OSError as error:
        raise _unreadable(path, error) from None


def _unmarked(path: Path) -> Iterator[bytes]:
    """The bytes of a text file in blocks, without a byte order mark."""
    blocks = blocks_of(path)
    start = b""
    while len(start) < len(MARK) and (block := next(blocks, None)) is not None:
        start += block
    yield without_mark(path, start)
    yield from blocks


def _split(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Blocks of bytes as lines with their endings. A long line is joined once, not block by block."""
    begun: list[bytes] = []
    for block in blocks:
        first, *rest = block.split(b"\n")
        begun.append(first)
        for piece in rest:
            begun.append(b"\n")
            yield joined(begun)
            begun.append(piece)
    if last := b"".join(begun):
        yield last


def joined(pieces: list[bytes]) -> bytes:
    """Join pieces, and take them out of their list."""
    whole = b"".join(pieces)
    pieces.clear()
    return whole


def _unpacked(path: Path, file: BinaryIO | FileIO) -> Iterator[bytes]:
    """The bytes of a .gz or .zst file, over all its members. Tells a truncated file, which zstandard's own does not."""
    new, broken = _unpacker(path)
    unpacker = new()
    fresh = True  # between two members, where the file may end
    while block := file.read(BLOCK):
        while block := block.lstrip(b"\0") if fresh else block:  # gzip files may be padded with zeros
            try:
                yield unpacker.decompress(block)
            except broken as error:
                raise InputError(f"{path} is damaged, or not what its suffix says: {error}") from None
            fresh, block = unpacker.eof, unpacker.unused_data
            if fresh:
                unpacker = new()
    if not fresh:
        raise InputError(f"{path} is truncated: copy or generate it again")


def _unpacker(path: Path) -> tuple[Callable[[], Any], type[Exception]]:
    if path.name.lower().endswith(".gz"):
        return lambda: zlib.decompressobj(wbits=31), zlib.error
    if sys.version_info >= (3, 14):
        from compression import zstd

        return zstd.ZstdDecompressor, zstd.ZstdError
    import zstandard

    return lambda: zstandard.ZstdDecompressor().decompressobj(), zstandard.ZstdError
