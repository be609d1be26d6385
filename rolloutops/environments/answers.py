"""Where the final answer is in a text: shared by the built-in environments."""

from __future__ import annotations

import re
from decimal import Decimal

TAIL = 10_000
"""Characters at the end of a text that are searched: the answer stands at the end, and 10 MB cost nothing."""

MARK_TAIL = 200
"""Characters at the end of a text where a mark is looked for first."""

_BRACE = re.compile(r"\\(?:boxed|fbox)\s*\{|\\[{}]|[{}]")
_NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d*)?(?:[eE][-+]?\d{1,9})?")
_DIGIT = re.compile("[0-9]")
_WRAP = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mathit)\s*\{([^{}]*)\}")
_MARK = re.compile(r"(?i)\banswer\**\s*(?::|\bis\b:?)\**|####")
_FENCES = (("\\(", "\\)"), ("\\[", "\\]"), ("$", "$"), ("**", "**"), ("`", "`"), ("{", "}"))
_OPENING = frozenset(left[0] for left, _ in _FENCES)


def without_reasoning(text: str) -> str:
    """A text without inline reasoning: what is in `<think>` is not an answer, closed or not."""
    end = text.rfind("</think>")
    text = text[end + len("</think>") :] if end >= 0 else text
    return text.partition("<think>")[0]


def final_text(text: str) -> str:
    """The end of a text, without inline reasoning."""
    return without_reasoning(text)[-TAIL:]


def boxes(text: str) -> list[str]:
    """The contents of each `\\boxed{...}` that is closed and not empty, in order; of nested ones the inner."""
    found: list[str] = []
    opened: list[int | None] = []  # for each open brace, where its box's content begins; None for any other brace
    inner = -1
    for token in _BRACE.finditer(text):
        if token[0] == "}":
            start = opened.pop() if opened else None
            if start is not None and inner < start and text[start : token.start()].strip():
                found.append(text[start : token.start()].strip())
                inner = start
        elif token[0] == "{":
            opened.append(None)
        elif token[0][-2:] not in ("\\{", "\\}"):
            opened.append(token.end())
    return found


def stated(text: str) -> str | None:
    """What a text states last as its answer: the last box, or the line after the last `Answer:`, `answer is` or `####`,
    whichever comes last; without any the whole text. None where nothing is there."""
    mark = _last_mark(text)
    after = text[mark.end() :] if mark else text
    if ("boxed" in after or "fbox" in after) and (found := boxes(after)):
        return bare(found[-1])
    if mark:
        lines = [line for line in after.splitlines() if line.strip(" \t*")]
        return bare(lines[0]) if lines else None
    return bare(text) or None


def _last_mark(text: str) -> re.Match[str] | None:
    """The last mark of an answer. It mostly stands near the end, as one of the words that are looked for first."""
    for word in ("Answer", "answer", "####"):
        at = text.rfind(word, max(0, len(text) - MARK_TAIL))
        mark = _MARK.match(text, at) if at >= 0 else None
        if mark and not _MARK.search(text, mark.end()):
            return mark
    marks = list(_MARK.finditer(text))
    return marks[-1] if marks else None


def bare(text: str) -> str:
    """A text without the marks around it: `**B**`, `$B$`, `\\text{B}`, `{B}`, white space, a full stop at its end."""
    while True:
        stripped = text.strip()
        if stripped[:1] in _OPENING:
            for left, right in _FENCES:
                inner = stripped[len(left) : -len(right)]
                if inner and stripped == left + inner + right and left not in inner and right not in inner:
                    stripped = inner.strip()
        if match := _WRAP.fullmatch(stripped):
            stripped = match[1].strip()
        if stripped.endswith(".") and not stripped.endswith(".."):
            stripped = stripped[:-1]
        if stripped == text:
            return text
        text = stripped


def number(text: str) -> Decimal | None:
    """The number that a text is, as `1,234`, `-0.5`, `1e400` or `$7`; None where it is not one number."""
    text = text.strip().removeprefix("$")
    if len(text) <= 1000 and text.isascii() and text.isdigit():  # as most are
        return Decimal(text)
    if len(text) > 1000 or not _NUMBER.fullmatch(text) or not _DIGIT.search(text):
        return None
    try:
        return Decimal(text.replace(",", ""))
    except ArithmeticError:
        return None


def same(one: str, other: str) -> bool:
    """Equal as text, or as numbers where both are one."""
    if one == other:
        return True
    left = number(one)
    return left is not None and left == number(other)
