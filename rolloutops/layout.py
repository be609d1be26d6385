"""How text fits a terminal: its width in columns, lines that wrap, tables that shrink; and how sentences count. Nothing
here prints."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import TextIO

COLUMNS = 80
"""The width where there is no terminal."""
SQUEEZES = ((2, 24), (2, 12), (1, 12), (1, 8))
"""How a table gets narrower, step by step: the space between columns, and the longest word that is kept whole."""
TALL = 8
"""A table with a row of more lines than that is shown one value a line instead."""

Cells = Sequence[Sequence[str]]
SINGULAR = {"are": "is", "were": "was", "have": "has", "do": "does"}


def count(number: int, noun: str) -> str:
    """Write a number with its noun: `1 task`, `2,000 tasks`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def all_of(number: int, noun: str) -> str:
    """Write a whole with its noun: `the one task`, `all 2,000 tasks`."""
    return f"the one {noun}" if number == 1 else f"all {count(number, noun)}"


def verb(number: int, plural: str) -> str:
    """Return the verb as the number wants it: `verb(1, "are")` is `is`, `verb(1, "wait")` is `waits`."""
    return plural if number != 1 else SINGULAR.get(plural, f"{plural}s")


def columns_of(out: TextIO | None = None) -> int:
    """The width of the terminal that a stream (default: standard output) writes to: $COLUMNS where it is set, 80 where
    there is no terminal."""
    try:
        wide = int(os.environ.get("COLUMNS", ""))
    except ValueError:
        wide = 0
    if wide > 0:
        return max(wide, 20)
    try:
        return max(os.get_terminal_size(out.fileno() if out else 1).columns or COLUMNS, 20)
    except (OSError, ValueError):  # no terminal, or a stream without a file
        return COLUMNS


def width(text: str) -> int:
    """How many columns a text takes: 2 for a double-width character, 0 for a combining one."""
    return len(text) if text.isascii() else sum(map(_columns, text))


def _columns(character: str) -> int:
    if unicodedata.east_asian_width(character) in "WF":
        return 2
    joins = unicodedata.category(character) in ("Mn", "Me", "Cf") and character != "\xad"
    return 0 if joins or "\u1160" <= character <= "\u11ff" else 1  # Hangul vowels and finals join the syllable before


def pad(text: str, columns: int, right: bool = False) -> str:
    """A text with spaces up to a width, before it or after it."""
    space = " " * max(columns - width(text), 0)
    return space + text if right else text + space


def shorten(text: str, columns: int) -> str:
    """A text of this width at most; an ellipsis stands for what was truncated."""
    return text if width(text) <= columns else _head(text, columns - 1) + "…"


def _head(text: str, columns: int, start: int = 0) -> str:
    """The longest beginning of a text that fits, and at least one character with what combines with it. start: where
    the text begins, so that nobody copies the rest of a long one for each of its lines."""
    taken, at = 0, start
    while at < len(text) and (at == start or taken + _columns(text[at]) <= columns):
        taken += _columns(text[at])
        at += 1
    while at < len(text) and _columns(text[at]) == 0:
        at += 1
    return text[start:at]


def wrap(text: str, columns: int) -> list[str]:
    """A text in lines of this width: broken at spaces, else after punctuation, else anywhere. Nothing is left out."""
    if width(text) <= columns:
        return [text]
    lines, line = list[str](), ""
    for word in text.split(" "):
        joined = f"{line} {word}" if line else word
        if width(joined) <= columns:
            line = joined
            continue
        if line:
            lines.append(line)
        *whole, line = _pieces(word, columns)
        lines += whole
    return [*lines, line]


def _pieces(word: str, columns: int) -> list[str]:
    """A word in pieces that fit, broken after punctuation where there is some."""
    pieces, piece = list[str](), ""
    for part in re.findall(r"[^/_.,:;=|&?-]*[/_.,:;=|&?-]+|[^/_.,:;=|&?-]+", word):
        joins = 0  # characters that combine with the mark before
        while piece and joins < len(part) and _columns(part[joins]) == 0:
            joins += 1
        piece, part = piece + part[:joins], part[joins:]
        if width(piece + part) <= columns:
            piece += part
            continue
        if piece:
            pieces.append(piece)
        at = 0
        while at + len(head := _head(part, columns, at)) < len(part):
            pieces.append(head)
            at += len(head)
        piece = part[at:]
    return [*pieces, piece]


def table(names: Sequence[str], cells: Cells, right: Sequence[bool], columns: int) -> list[str]:
    """The lines of an aligned table.

    One that is too wide breaks its headings, then wraps its text; one that does not fit even so is shown one value a
    line. Numbers are never broken.
    """
    natural = [max([width(name), *(width(row[i]) for row in cells)]) for i, name in enumerate(names)]
    fitted = _fitted(names, cells, right, natural, columns)
    if fitted is None:
        return list(_vertical(names, cells, columns))
    widths, gap = fitted
    rows = [[wrap(text, wide) for text, wide in zip(row, widths, strict=True)] for row in cells]
    if any(len(lines) > TALL for row in rows for lines in row):
        return list(_vertical(names, cells, columns))
    heading = [wrap(name, wide) for name, wide in zip(names, widths, strict=True)]
    rule = [["─" * wide] for wide in widths]
    return [line for row in (heading, rule, *rows) for line in _lines(row, widths, right, gap)]


def _fitted(
    names: Sequence[str], cells: Cells, right: Sequence[bool], natural: Sequence[int], columns: int
) -> tuple[list[int], int] | None:
    """The width of each column, the widest ones narrowed, and the space between two; None where they do not fit."""

    def least(longest_word: int) -> list[int]:
        found = []
        for i, name in enumerate(names):
            heading = max(map(width, re.findall(r"[^_ ]+_?|_", name)), default=0)
            if right[i]:
                body = max((width(row[i]) for row in cells), default=0)
            else:
                words = (width(word) for row in cells for word in row[i].split(" "))
                body = min(max(words, default=0), longest_word)
            found.append(max(heading, body))
        return found

    for gap, longest_word in SQUEEZES:
        floor, room = least(longest_word), columns - gap * (len(names) - 1)
        if sum(floor) > room:
            continue
        for most in range(max(natural), 0, -1):
            widths = [max(low, min(wide, most)) for low, wide in zip(floor, natural, strict=True)]
            if sum(widths) <= room:
                return widths, gap
    return None


def _lines(row: Sequence[Sequence[str]], widths: Sequence[int], right: Sequence[bool], gap: int) -> Iterator[str]:
    """One row of wrapped cells."""
    for at in range(max(map(len, row), default=0)):
        texts = [lines[at] if at < len(lines) else "" for lines in row]
        yield (" " * gap).join(map(pad, texts, widths, right)).rstrip()


def _vertical(names: Sequence[str], cells: Cells, columns: int) -> Iterator[str]:
    """Each row as a block with a line for each value."""
    if not cells:
        yield from wrap(", ".join(names) + ": no rows", columns)
    wide = min(max(map(width, names)), columns // 2)
    for number, row in enumerate(cells):
        if number:
            yield ""
        for name, text in zip(names, row, strict=True):
            label = pad(shorten(name, wide), wide)
            for at, line in enumerate(wrap(text, max(columns - wide - 2, 10))):
                yield f"{' ' * wide if at else label}  {line}".rstrip()


def rows_on_screen(text: str, columns: int) -> int:
    """How many lines of a terminal a text takes, those that the terminal itself wraps counted."""
    return sum(max(-(-width(line) // columns), 1) for line in text.split("\n"))
