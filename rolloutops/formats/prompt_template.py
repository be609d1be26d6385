"""Prompt files: a task's messages as a template over its row's fields, with examples before them.

The form is NeMo Gym's (`nemo_gym/prompt.py` at 0b159e3): YAML with `user`, and `system` where there is one, in which
`{field}` stands for a field of the row and `{{` for a brace. `assistant` is rolloutops' own: what an example answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import Formatter
from typing import Any

from rolloutops.formats.strict_json import digest
from rolloutops.formats.task_rows import answer_of_row
from rolloutops.types import Message

OWN_MESSAGES = ("messages", "conversations")
"""Fields that hold a conversation: no template can be filled beside them."""


@dataclass(frozen=True)
class Example:
    """A question with its answer, shown before a task. row_hash: of its row, so that no task is shown itself."""

    row_hash: str
    messages: Sequence[Message]


@dataclass(frozen=True)
class PromptTemplate:
    """What a prompt file says. name: the file's. examples: one more than `shots`, which are shown before each task: the
    last one stands in where a task is an example itself."""

    name: str
    user: str
    system: str | None = None
    assistant: str | None = None
    shots: int = 0
    examples: Sequence[Example] = ()

    def hash(self) -> str:
        """Hash all that changes what a row becomes."""
        shown = [[one.row_hash, one.messages] for one in self.examples]
        return digest([self.user, self.system, self.assistant, self.shots, shown])

    def fill(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The row with the messages of the template as its prompt. Raises ValueError that says what does not fit."""
        params = row.get("responses_create_params")
        if isinstance(params, Mapping) and params.get("input"):
            raise ValueError(f"the row has responses_create_params.input, but {self.name} makes the prompt: remove one")
        if own := next((name for name in OWN_MESSAGES if row.get(name) is not None), None):
            raise ValueError(f"the row has {own}, but {self.name} makes the prompt: remove one")
        system = [{"role": "system", "content": self._text(self.system, row)}] if self.system is not None else []
        messages = [*system, *self._examples_for(row), {"role": "user", "content": self._text(self.user, row)}]
        if params is not None:
            return {
                **row,
                "responses_create_params": {**(params if isinstance(params, Mapping) else {}), "input": messages},
            }
        return {**row, "messages": messages}

    def example(self, row: Mapping[str, Any]) -> Example:
        """A row as an example: its question, and its answer. Raises ValueError where it has none."""
        answer = self._text(self.assistant, row) if self.assistant is not None else answer_of_row(row)
        if answer is None:
            raise ValueError(f"the row has no expected answer to show: add a line assistant: … to {self.name}")
        question = self._text(self.user, row)
        return Example(digest(row), [{"role": "user", "content": question}, {"role": "assistant", "content": answer}])

    def _examples_for(self, row: Mapping[str, Any]) -> list[Message]:
        """The examples of a task: the same for all, so that a prefix cache holds them."""
        if not self.examples:
            return []
        own = digest(row)
        others = [one for one in self.examples if one.row_hash != own][: self.shots]
        return [message for one in others for message in one.messages]

    def _text(self, template: str, row: Mapping[str, Any]) -> str:
        there = {name: value for name, value in row.items() if value is not None}
        try:
            return template.format_map(there)
        except (KeyError, IndexError) as error:
            raise ValueError(
                f"{self.name} names {{{error.args[0]}}}, which the row does not have; it has: {', '.join(there)}"
            ) from None
        except (AttributeError, TypeError, ValueError) as error:
            raise ValueError(f"{self.name} cannot be filled: {error}") from None


def fields_of(template: str) -> list[str]:
    """The fields that a template names. Raises ValueError where it is none, as with a brace that is not closed."""
    return [field for _, field, _, _ in Formatter().parse(template) if field is not None]
