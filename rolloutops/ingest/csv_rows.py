"""Rows of CSV and TSV files, as lines of JSON. The first line names the columns, and every cell is text.

CSV is read as RFC 4180 has it. TSV exists in two forms, and both are read: without quoting, where a quote is a
character (IANA's text/tab-separated-values), and with cells quoted as in CSV, which Excel and pandas write around
tabs, quotes and line breaks.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from rolloutops.errors import InputError
from rolloutops.formats.strict_json import dump

Row = tuple[int, bytes, str | None]
"""A row's line in the file, its bytes as a line of JSON, and why it cannot be used."""

QUOTED = re.compile(r'"((?:[^"]|"")*+)"')


def csv_rows(path: Path, numbered: Iterable[tuple[int, bytes]]) -> Iterator[Row]:
    """Read the rows of a CSV file. numbered: its lines with their numbers and endings."""
    lines_of_row: list[bytes] = []

    def lines() -> Iterator[str]:
        for _, line in numbered:
            lines_of_row.append(line)
            yield line.decode("utf-8", "surrogateescape")

    csv.field_size_limit(2**63 - 1)
    rows = csv.reader(lines(), strict=True)
    header: list[str] = []
    while True:
        lines_of_row.clear()
        start = rows.line_num + 1
        try:
            cells = next(rows)
        except StopIteration:
            break
        except csv.Error as error:
            if not header:
                raise InputError(f"{path}, line {start}: the header is not CSV: {error}") from None
            yield start, b"".join(lines_of_row).rstrip(b"\r\n"), f"not CSV: {error}"
            continue
        if not cells:
            continue
        if header:
            yield _row(start, b"".join(lines_of_row), header, cells)
        else:
            header = _header(path, cells)


def tsv_rows(path: Path, numbered: Iterable[tuple[int, bytes]]) -> Iterator[Row]:
    """Read the rows of a TSV file. numbered: its lines with their numbers and endings."""
    lines = _Lines(numbered)
    header: list[str] = []
    while (found := lines.take()) is not None:
        start, raw = found
        if not raw.strip(b"\r\n"):
            continue
        if header:
            cells, raw = _tsv_row(raw, len(header), lines)
            yield _row(start, raw, header, cells)
        else:
            header = _header(path, [_unquoted(cell) for cell in _cells(raw)])


class _Lines:
    """Numbered lines of which some can be looked at before they are taken."""

    def __init__(self, numbered: Iterable[tuple[int, bytes]]) -> None:
        self.numbered = iter(numbered)
        self.seen: list[tuple[int, bytes]] = []

    def look(self, number: int) -> bytes | None:
        """Return the line that comes after so many others; None past the end."""
        while len(self.seen) <= number:
            found = next(self.numbered, None)
            if found is None:
                return None
            self.seen.append(found)
        return self.seen[number][1]

    def take(self) -> tuple[int, bytes] | None:
        """Return the next line with its number; None at the end."""
        return self.seen.pop(0) if self.look(0) is not None else None


LOOK_AHEAD = 10_000
"""Lines among which the end of a quoted cell is searched."""


def _tsv_row(raw: bytes, columns: int, lines: _Lines) -> tuple[list[str], bytes]:
    """Read the row that begins with a line; return its cells and the lines that it has.

    A cell with a quote at its beginning and none at its end may be quoted over tabs and lines, or be text with a quote.
    It is text if the line has all cells, the next line too, and no later cell closes it; or if it is closed nowhere.
    """
    cells = _cells(raw)
    plain = [_unquoted(cell) for cell in cells], raw
    if len(cells) == columns:
        next_line = lines.look(0)
        is_open = any(map(_is_open, cells))
        next_is_whole = next_line is None or len(_cells(next_line)) == columns
        if not is_open or (next_is_whole and not _is_closed_later(cells)):
            return plain
    return _quoted_row(raw, columns, lines) or plain


def _quoted_row(raw: bytes, columns: int, lines: _Lines) -> tuple[list[str], bytes] | None:
    """Read a row as CSV with tabs, over as many lines as it takes to close its quotes; None if it is not one."""
    joined, is_open = [raw], raw.count(b'"') % 2 == 1
    while is_open:
        line = lines.look(len(joined) - 1) if len(joined) <= LOOK_AHEAD else None
        if line is None:
            return None
        joined.append(line)
        is_open ^= line.count(b'"') % 2 == 1
    cells = _parsed(b"".join(joined))
    if cells is None or len(cells) != columns:
        return None
    for _ in joined[1:]:
        lines.take()
    return cells, b"".join(joined)


def _cells(raw: bytes) -> list[str]:
    """Split a line at its tabs."""
    return raw.removesuffix(b"\n").removesuffix(b"\r").decode("utf-8", "surrogateescape").split("\t")


def _is_open(cell: str) -> bool:
    """Whether a cell begins with a quote that does not end it."""
    return cell.startswith('"') and not QUOTED.fullmatch(cell)


def _is_closed_later(cells: list[str]) -> bool:
    """Whether a later cell ends with the quote of one that is open, so that there was a tab between quotes."""
    first = next((number for number, cell in enumerate(cells) if _is_open(cell)), len(cells))
    return any(cell.endswith('"') and not cell.startswith('"') for cell in cells[first:])


def _unquoted(cell: str) -> str:
    found = QUOTED.fullmatch(cell)
    return found[1].replace('""', '"') if found else cell


def _parsed(raw: bytes) -> list[str] | None:
    """Read one row as CSV with tabs; None if it is not one whole row."""
    csv.field_size_limit(2**63 - 1)
    text = raw.decode("utf-8", "surrogateescape")
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter="\t", strict=True))
    except csv.Error:
        return None
    return rows[0] if len(rows) == 1 else None


def _row(start: int, lines: bytes, header: list[str], cells: list[str]) -> Row:
    as_written = lines.rstrip(b"\r\n")
    if len(cells) != len(header):
        return start, as_written, f"{len(cells)} cells, but the header names {len(header)} columns"
    if not _is_utf8(as_written):
        return start, as_written, "invalid UTF-8"
    value = {name: cell for name, cell in zip(header, cells, strict=True) if cell}
    return start, dump(value).encode(), None


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _header(path: Path, cells: list[str]) -> list[str]:
    double = next((name for name in cells if cells.count(name) > 1), None)
    if double is not None:
        raise InputError(f"{path}: two columns have the name {double!r}; rename one")
    return cells
