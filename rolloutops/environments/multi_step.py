"""Several steps: find facts in a long document that the model cannot see, with a search tool.

    prompt or responses_create_params   the question; it need not hold the document
    document         [paragraph, ...], or one text with blank lines between its paragraphs
    expected_answer  [fact, ...] or one fact. A fact is a text, or a list of texts of which one is enough

The tool returns few and short passages, so that facts from several paragraphs take several calls. The reward is the
share of the facts that are in the final answer.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from rolloutops.environments.answers import final_text
from rolloutops.errors import UsageError
from rolloutops.types import Rollout, Task

VERSION = 1
"""Raised by whoever changes a reward: rollouts that an earlier version verified are then verified again."""

TOOL = "search_document"
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Index:
    """A document for BM25 search: its passages, the words of each with their counts, and each word's weight."""

    passages: Sequence[str]
    counts: Sequence[Counter[str]]
    weights: Mapping[str, float]

    def best(self, query: str, limit: int) -> list[int]:
        """The numbers of the passages nearest to a query, best first; of equals the earlier. BM25, k1 1.5, b 0.75."""
        words = [word for word in dict.fromkeys(_words(query)) if word in self.weights]
        mean = sum(map(Counter.total, self.counts)) / max(1, len(self.counts))
        scores = []
        for at, counts in enumerate(self.counts):
            long = 1.5 * (0.25 + 0.75 * counts.total() / mean) if mean else 1.5
            score = sum(self.weights[word] * counts[word] * 2.5 / (counts[word] + long) for word in words)
            if score > 0:
                scores.append((-score, at))
        return [at for _, at in sorted(scores)[:limit]]


class MultiStep:
    """See `make`."""

    pure = True

    def __init__(self, max_results: int, passage_chars: int, answer_chars: int) -> None:
        self.max_results, self.passage_chars, self.answer_chars = max_results, passage_chars, answer_chars
        self.tools = [
            {
                "type": "function",
                "function": {
                    "name": TOOL,
                    "description": f"Search the document. Gives the best {max_results} short passage(s) for a query; "
                    "search again with other words for other facts.",
                    "parameters": {
                        "type": "object",
                        "properties": {"query": {"type": "string", "description": "a few words to look for"}},
                        "required": ["query"],
                        "additionalProperties": False,
                    },
                },
            }
        ]

    def begin(self, task: Task) -> Index:
        """The document's index: the state that each tool call reads."""
        return _index(_passages(task.row.get("document"), self.passage_chars))

    def call(self, name: str, arguments: Any, state: Index) -> str:
        """Run the search tool. A ValueError tells the model what it did wrong."""
        if name != TOOL:
            raise ValueError(f"there is no tool '{name}'; the only tool is {TOOL}(query)")
        query = arguments.get("query") if isinstance(arguments, Mapping) else None
        if not isinstance(query, str) or not query.strip():
            raise ValueError(f'{TOOL} takes one argument, a text: {{"query": "words to look for"}}')
        found = state.best(query, self.max_results)
        if not found:
            return "Nothing in the document matches this query. Try other words."
        return "\n\n".join(f"[{at + 1} of {len(state.passages)}] {state.passages[at]}" for at in found)

    def verify(self, task: Task, rollout: Rollout) -> dict[str, Any]:
        """{"reward": share of the facts found, "facts_found", "facts_total", "missing": [...], "searches"}."""
        facts = _facts(task)
        if not facts:
            raise ValueError("the row's 'expected_answer' must be a fact or a list of facts")
        # A short answer is asked for: who recites the document has not found anything in it.
        answer = _normal(final_text(rollout.text)[: self.answer_chars])
        missing = [fact[0] for fact in facts if not any(_stands_in(text, answer) for text in fact)]
        found = len(facts) - len(missing)
        return {
            "reward": found / len(facts),
            "facts_found": found,
            "facts_total": len(facts),
            "missing": missing,
            "searches": sum(name == TOOL for name in _called(rollout.completion)),
        }

    def gold(self, task: Task) -> str | None:
        """All facts, one a line; None where the row has none."""
        return "\n".join(fact[0] for fact in _facts(task)) or None


def make(max_results: int = 1, passage_chars: int = 600, answer_chars: int = 4000) -> MultiStep:
    """An environment to find facts in long documents.

    max_results: passages per search. passage_chars: maximum characters of a passage; longer paragraphs are split.
    answer_chars: characters of the final answer that are read, so that copying the document gives no reward.
    """
    for name, value in (("max_results", max_results), ("passage_chars", passage_chars), ("answer_chars", answer_chars)):
        if value < 1:
            raise UsageError(f"multi_step: {name} must be at least 1, not {value}")
    return MultiStep(max_results, passage_chars, answer_chars)


def _passages(document: Any, limit: int) -> tuple[str, ...]:
    if isinstance(document, str):
        document = re.split(r"\n\s*\n", document)
    if not isinstance(document, list) or not all(isinstance(paragraph, str) for paragraph in document):
        raise ValueError("the row's 'document' must be a text or a list of paragraphs")
    return tuple(passage for paragraph in document for passage in _cut(" ".join(paragraph.split()), limit))


def _cut(paragraph: str, limit: int) -> Iterable[str]:
    """A paragraph in passages of at most `limit` characters, cut after a sentence, else a word, where possible."""
    while len(paragraph) > limit:
        sentence = max(paragraph.rfind(mark, 0, limit) for mark in (". ", "! ", "? ")) + 1
        at = sentence or paragraph.rfind(" ", 0, limit + 1)
        at = at if at > 0 else limit
        yield paragraph[:at].strip()
        paragraph = paragraph[at:].strip()
    if paragraph:
        yield paragraph


@lru_cache(maxsize=32)
def _index(passages: tuple[str, ...]) -> Index:
    """The rollouts of one task share their document, so its index is made once."""
    counts = [Counter(_words(passage)) for passage in passages]
    holders = Counter(word for count in counts for word in count)
    weights = {word: math.log(1 + (len(passages) - n + 0.5) / (n + 0.5)) for word, n in holders.items()}
    return Index(passages, counts, weights)


def _words(text: str) -> list[str]:
    """Words without case and without a plural `s`."""
    return [w[:-1] if len(w) > 3 and w.endswith("s") else w for w in _WORD.findall(_normal(text))]


def _facts(task: Task) -> list[list[str]]:
    """Each fact as its acceptable texts."""
    given = task.row.get("expected_answer", task.answer)
    given = given if isinstance(given, list) else [given]
    facts = [[str(text) for text in (fact if isinstance(fact, list) else [fact]) if _has_text(text)] for fact in given]
    return [fact for fact in facts if fact]


def _has_text(text: Any) -> bool:
    return text is not None and str(text).strip() != ""


def _normal(text: str) -> str:
    """Text without case, emphasis, line breaks, and commas inside numbers."""
    text = unicodedata.normalize("NFKC", text).casefold()
    text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", re.sub(r"[*_`]+", "", text))
    return " ".join(text.split())


def _stands_in(fact: str, answer: str) -> bool:
    """Whether a fact is in a normal text as whole words: `12` is neither in `2012` nor in `12.5`."""
    return re.search(rf"(?<!\w)(?<!\d[.,]){re.escape(_normal(fact))}(?!\w)(?![.,]\d)", answer) is not None


def _called(completion: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    for message in completion:
        for call in message.get("tool_calls") or ():
            yield call.get("function", {}).get("name", "")
