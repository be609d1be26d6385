"""Tokens of an answer that does not say how many there were: four characters make one.

English text has some four characters a token in all present tokenizers, code and other scripts fewer. What counts is
the JSON of prompt and answer, which is a little longer than their text, so that a budget is rather kept than exceeded.
Attempts are stored with null tokens, as received: the estimate is made where a budget needs it, here and in `SPENT`
(prices.py), by the same formula.
"""

from __future__ import annotations

from typing import Any

from rolloutops.formats.strict_json import dump

CHARACTERS = 4
"""of text that make a token."""


def estimate(content: Any) -> int:
    """Tokens of a message, or of several."""
    return -(-len(content if isinstance(content, str) else dump(content)) // CHARACTERS)


def estimate_prompts(prompt: int, completion: int, turns: int) -> int:
    """Prompt tokens over all model calls: each sends the prompt and, on average, half of what followed it."""
    return turns * prompt + (turns - 1) * completion // 2
