"""What every command prints with: messages to stderr, results to stdout, for a person or for another program."""

from __future__ import annotations

import csv
import io
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rolloutops.config.redact import for_screen, tell
from rolloutops.visible import ascii_json, visible, visible_json

STYLES = {"heading": "1;36", "user": "1;34", "assistant": "1;32", "tool": "33", "quiet": "2", "mark": "1;31"}
"""Name of a style -> its parameters of the escape sequence SGR."""


class Line(NamedTuple):
    """A line for the terminal. text: with nothing in it that a terminal would obey, and no key. style: of STYLES.
    beside: what stands to the right of it, in its own style."""

    text: str
    style: str = ""
    beside: Line | None = None


def say(*lines: str) -> int:
    """Print a message for the person at the terminal. Returns the exit code of a command that ends with it."""
    tell(*lines)
    return 0


def show(*lines: str) -> None:
    """Print tables and sentences, the result of a command."""
    print(*map(for_screen, lines), sep="\n")


def show_painted(lines: Sequence[Line], pager: bool = False) -> None:
    """Print styled lines: in color on a terminal that has colors, unless $NO_COLOR is set; there through a pager where
    one is asked for."""
    screen = sys.stdout.isatty()
    colors = screen and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    text = "".join(f"{_painted(line, colors).rstrip()}\n" for line in lines)
    if not (pager and screen and _paged(text)):
        sys.stdout.write(text)


def _painted(line: Line, colors: bool) -> str:
    text = f"\x1b[{STYLES[line.style]}m{line.text}\x1b[0m" if colors and line.style and line.text else line.text
    return text + (_painted(line.beside, colors) if line.beside else "")


def _paged(text: str) -> bool:
    """Show a text in $PAGER, or less; return whether there is one."""
    words = shlex.split(os.environ.get("PAGER", "")) or ["less"]
    if shutil.which(words[0]) is None:
        return False
    sys.stdout.flush()
    subprocess.run(
        words, input=text.encode("utf-8", "backslashreplace"), env={"LESS": "FRX", **os.environ}, check=False
    )
    return True


def show_json(text: str) -> None:
    """Print JSON that means the same on every terminal and in every file."""
    utf8 = (sys.stdout.encoding or "utf-8").lower().replace("-", "") == "utf8"
    print(visible_json(text) if utf8 else ascii_json(text))


def show_exactly(script: str) -> None:
    """Print a text for another program: as it is, unless a person looks at it."""
    print(visible(script) if sys.stdout.isatty() else script)


def show_csv(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table for another program: as it is, unless a person looks at it."""
    made = io.StringIO()
    csv.writer(made, lineterminator="\n").writerows([columns, *rows])
    show_exactly(made.getvalue().removesuffix("\n"))


def as_json(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Write rows as a JSON array of objects; times and other rich types as text."""
    from rolloutops.formats.strict_json import dump

    return dump([{name: _plain(value) for name, value in zip(columns, row, strict=True)} for row in rows])


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)
