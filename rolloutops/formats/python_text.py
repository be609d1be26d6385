"""Lists that a table without lists holds as text: JSON, or what Python prints for them (pandas' `to_csv`)."""

from __future__ import annotations

import ast
import re
from typing import Any

from rolloutops.formats.strict_json import dump, parse

PRINTED_MESSAGES = re.compile(r"\s*\[\s*\{\s*'(?:role|from|content|value)'\s*:")
"""How Python prints a list of messages. No JSON begins so."""

LONGEST = 1 << 20
"""Characters that are read as Python: its parser takes some hundred bytes for each."""


def parse_list(text: str) -> Any:
    """What a JSON text holds, or a list of messages that Python printed. Raises ValueError where it is neither."""
    if not PRINTED_MESSAGES.match(text):
        return parse(text)
    try:
        if len(text) > LONGEST:
            raise ValueError("too long")
        return parse(dump(ast.literal_eval(text.strip())))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        raise ValueError(
            "a list of messages as Python prints it, which cannot be read back: write it as JSON"
        ) from None
