"""Tokens of an answer that does not say how many there were: four characters make one.

English text has some four characters a token in all present tokenizers, code and other scripts fewer. What counts is
the JSON of prompt and answer, which is a little longer than their text, so that a budget is rather kept than exceeded.
Attempts are stored with null tokens, as received: the estimate is made where a budget needs it, here and in `SPENT`
(prices.py), by the same formula.
"""

from __future__ import annotations

import re
from typing import Any

from rolloutops.formats.strict_json import dump

CHARACTERS = 4
"""of text that make a token."""


MEDIUM = 1000
"""Tokens that a picture, a video or a sound is taken for: providers count 100 to 3,000 for a picture."""

BASE64 = re.compile(f"(;base64,|['\"]data['\"]: ?['\"])[A-Za-z0-9+/=]{{{MEDIUM * CHARACTERS},}}")
"""The bytes of a medium in a request: of a data URL, or of a sound. They are not text, and are not billed as text."""


def estimate(content: Any) -> int:
    """Tokens of a message, or of several."""
    return -(-text_length(content if isinstance(content, str) else dump(content)) // CHARACTERS)


def text_length(text: str) -> int:
    """Characters of a text, a medium in it counted as MEDIUM tokens."""
    if len(text) <= MEDIUM * CHARACTERS:
        return len(text)
    return len(BASE64.sub("x" * MEDIUM * CHARACTERS, text))


def estimate_prompts(prompt: int, completion: int, turns: int) -> int:
    """Prompt tokens over all model calls: each sends the prompt and, on average, half of what followed it."""
    return turns * prompt + (turns - 1) * completion // 2
