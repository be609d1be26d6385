"""Standard output and standard error as they may come: closed, or for a terminal that knows ASCII alone."""

from __future__ import annotations

import codecs
import io
import os
import sys

from rolloutops.visible import visible

PLAIN = {
    **dict.fromkeys("─–—‐‑", "-"),
    **{
        "…": "...",
        "·": "|",
        "└": "`",
        "×": "x",
        "→": "->",
        "←": "<-",
        "│": "|",
        "▶": ">",
        "≥": ">=",
        "≤": "<=",
        "±": "+-",
        "≈": "~",
    },
    **dict.fromkeys("“”„", '"'),
    **dict.fromkeys("‘’", "'"),
}
"""What is written where an encoding lacks a character that the program itself uses."""


def prepare() -> None:
    """Make sure that there is something to write to, and that every character can be written.

    What is written to a closed stream is lost, as whoever closed it wants. Left closed, its number would go to the next
    file that is opened: a part of the workspace, into which a message would then be written.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "r" if name == "stdin" else "w", encoding="utf-8", closefd=False))  # noqa: SIM115
    codecs.register_error("rolloutops", _escape)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="rolloutops")


def _escape(error: UnicodeError) -> tuple[str, int]:
    """The codec error handler: a character that the encoding lacks in ASCII, or escaped."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    plain = (PLAIN.get(c) or visible(c).encode("ascii", "backslashreplace").decode() for c in lacking)
    return "".join(plain), error.end
