"""A prompt in one field and its answer, or several answers, in another.

- `prompt` + `completion`: TRL 0.24 (docs/source/dataset_formats.md), and results.jsonl of verifiers 0.1.9
  (utils/save_utils.py), which flattens its metrics, writes tool calls as JSON texts and tools as `tool_defs`.
- `prompt` + `response`, `generation`, `model_output`, `output`: files of open-r1 and many others. `generations` and
  the like hold several rollouts of one task; `outputs` may be vLLM's (`text`, `finish_reason`).

`answer` is the expected answer, and never the model's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from rolloutops.errors import AttemptFailed
from rolloutops.formats.columns import MEDIA_COLUMNS
from rolloutops.formats.langchain import with_role
from rolloutops.formats.openai_replies import count_of
from rolloutops.formats.python_text import PRINTED_MESSAGES
from rolloutops.formats.responses import CALLS, OUTPUTS, from_responses
from rolloutops.formats.rollouts.conversation import (
    PROMPT_KEYS,
    Conversation,
    answer_messages,
    conversation_of,
    listed,
    rollout_of,
    says_something,
    tools_beside,
    unread_fields,
)
from rolloutops.formats.rollouts.rewards import left_out, returned
from rolloutops.formats.rollouts.row import RolloutRow, share
from rolloutops.formats.rollouts.task_keys import task_fields
from rolloutops.types import Message, RolloutAnswer

LABEL, ENGINE = "prompt and answer", "import:prompt_answer"

PROMPTS = ("prompt", "messages", "question", "problem", "query", "instruction", "input", "inputs", "user_prompt")
"""Where the prompt is: the first of these that a row has."""

ANSWERS = (
    *("completion", "completions", "response", "responses", "generation", "generations", "model_output"),
    *("model_outputs", "model_response", "model_answer", "generated_text", "generated_response", "prediction"),
    *("predictions", "output", "outputs", "output_text"),
)
"""Where the model's answer is: the first of these that a row has."""

ITEMS = ("message", "reasoning", *CALLS, *OUTPUTS)
"""Types of Responses items."""

INNER = ("text", "generated_text", "content", "message", "output_text", "response", "completion", "output", "answer")
"""Where an object that is an answer has its text."""


def recognizes(row: Mapping[str, Any]) -> bool:
    """Whether a row has a prompt in one of PROMPTS and an answer in one of ANSWERS."""
    prompt = _first(row, PROMPTS)
    if prompt is None or _first(row, ANSWERS) is None:
        return False
    turns = row[prompt]
    whole = prompt == "messages" and isinstance(turns, list) and bool(turns) and _of_model(turns[-1])
    return not whole  # a conversation that ends with an answer is a chat log


def read(row: Mapping[str, Any], raw: str) -> RolloutRow:
    """The prompt and its rollouts. Raises ValueError where one of them is empty or in no known shape."""
    prompt_key, answer_key = str(_first(row, PROMPTS)), str(_first(row, ANSWERS))
    read_keys = (*PROMPT_KEYS, *ROWS_OWN, *_parts(prompt_key), answer_key)
    if prompt_key == "input" and row.get("instructions"):  # the system message of a Responses request
        row, read_keys = {"system": row["instructions"], **row}, (*read_keys, "instructions")
    prompt = _prompt(row, prompt_key)
    # Media stand in the prompt.
    fields = {name: value for name, value in task_fields(row).items() if name not in MEDIA_COLUMNS}
    task = {"messages": prompt.messages, **tools_beside(row), **fields}
    values = _values(row[answer_key])
    failed = _failure(row, values)
    answers = [failed] if failed else _answers(row, raw, values, read_keys, answer_key)
    if not answers:
        raise ValueError(f"{answer_key} holds no answer")
    read_keys = (*read_keys, "error") if failed else read_keys
    model = row.get("model")
    return RolloutRow(
        task,
        answers,
        model=model if isinstance(model, str) else None,
        left_out=[*left_out(row, read_keys), *prompt.left_out, *_unread(values, answer_key)],
        shape=f"{prompt_key} + {answer_key}",
    )


ROWS_OWN = ("token_usage", "is_truncated", "is_completed", "finish_reasons", "chat_template_kwargs")
"""Fields that are read here besides prompt, answer, tools and rewards."""


def _answers(
    row: Mapping[str, Any], raw: str, values: Sequence[Any], read_keys: Sequence[str], key: str
) -> list[RolloutAnswer | AttemptFailed]:
    """The rollouts of a row. Lists as long as the answers hold something of each; counted tokens are shared out."""
    usage = row.get("token_usage") or row.get("usage")
    usage = usage if isinstance(usage, Mapping) else {}
    spent = count_of(usage.get("output_tokens", usage.get("completion_tokens")))
    asked = count_of(usage.get("input_tokens", usage.get("prompt_tokens")))
    found: list[RolloutAnswer | AttemptFailed] = []
    for number, (value, tokens) in enumerate(zip(values, share(spent, len(values)), strict=True)):
        own = _own(row, number, len(values))
        inner = value if isinstance(value, Mapping) else {}
        try:
            found.append(
                rollout_of(
                    _completion(value),
                    raw,
                    model=inner.get("model") or row.get("model"),
                    finish_reason=inner.get("finish_reason") or own.get("finish_reason"),
                    returned=returned({k: v for k, v in own.items() if k != "finish_reason"}, read_keys),
                    input_tokens=asked if number == 0 else None,
                    output_tokens=tokens,
                )
            )
        except ValueError as error:
            where = f"{key}[{number}]" if len(values) > 1 else key
            raise ValueError(f"{where}: {error}") from None
    return found


def _own(row: Mapping[str, Any], number: int, count: int) -> dict[str, Any]:
    """A row as one of its rollouts has it: its own reward and finish reason, where they are lists."""
    own = dict(row)
    for name, several in (("reward", "rewards"), ("finish_reason", "finish_reasons")):
        given = row.get(several, row.get(name))
        if isinstance(given, list) and len(given) == count:
            own[name] = given[number]
        elif count > 1:
            own.pop(name, None)  # one value does not say of which of several rollouts it is
        own.pop(several, None)
    if row.get("is_truncated") is True and not own.get("finish_reason"):
        own["finish_reason"] = "length"
    return own


def _prompt(row: Mapping[str, Any], key: str) -> Conversation:
    texts = [row[part] for part in _parts(key) if isinstance(row.get(part), str) and row[part]]
    value = "\n".join(texts) if len(texts) > 1 else row[key]
    if isinstance(value, str) and PRINTED_MESSAGES.match(value):
        value = listed(value)
    elif isinstance(value, str) and value.lstrip().startswith("[{"):
        with suppress(ValueError):
            value = listed(value)
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, str | list) or (
        isinstance(value, list) and not all(isinstance(v, Mapping) for v in value)
    ):
        raise ValueError(f"{key} is neither text nor a list of messages")
    return conversation_of({**row, "prompt": value}, "prompt")


def _parts(key: str) -> tuple[str, ...]:
    """The fields that make up a prompt: an instruction goes on in `input` (Alpaca) or `context` (Dolly)."""
    return (key, "input", "context") if key == "instruction" else (key,)


def _values(value: Any) -> list[Any]:
    """The answers in a field: one, or a list of them. A list of messages is one answer."""
    if isinstance(value, str) and PRINTED_MESSAGES.match(value):
        value = listed(value)
    elif isinstance(value, str) and value.lstrip().startswith("[{") and '"role"' in value:
        try:
            value = listed(value)
        except ValueError:
            return [value]
    if isinstance(value, Mapping) and isinstance(value.get("choices"), list):
        return [
            {"model": value.get("model"), **each} if isinstance(each, Mapping) else each for each in value["choices"]
        ]
    if not isinstance(value, list) or (value and all(_is_turn(item) for item in value)):
        return [value]
    return value


def _unread(values: Sequence[Any], key: str) -> Iterator[str]:
    """The fields of the answers' messages that no reader knows."""
    for value in values:
        turns = [value] if _is_message(value) else value
        if isinstance(turns, list) and all(_is_message(turn) for turn in turns):
            yield from unread_fields(turns, key)


def _completion(value: Any) -> list[Message]:
    """An answer as messages: text, messages, or an object that has one of INNER."""
    if isinstance(value, Mapping) and not _is_message(value):
        key = _first(value, INNER)
        if key is None:
            raise ValueError(f"an answer with none of {', '.join(INNER)}")
        return _completion(value[key])
    items = value if isinstance(value, list) else []
    if any(isinstance(item, Mapping) and item.get("type") in ITEMS for item in items):
        found = from_responses(items)
    else:
        return answer_messages(value)
    if not says_something(found):
        raise ValueError("the answer is empty")
    return found


def _failure(row: Mapping[str, Any], values: Sequence[Any]) -> AttemptFailed | None:
    """The error of a row that has one and no answer (verifiers writes both)."""
    error = row.get("error")
    if not error or any(value not in (None, "", [], {}) for value in values):
        return None
    text = error.get("error_chain_str") or error.get("error") if isinstance(error, Mapping) else error
    return AttemptFailed("server_error", str(text))


def _is_turn(item: Any) -> bool:
    """Whether a value is a message, or an item of the Responses API."""
    return _is_message(item) or (isinstance(item, Mapping) and item.get("type") in ITEMS)


def _is_message(item: Any) -> bool:
    item = with_role(item)
    return isinstance(item, Mapping) and bool(item.get("role") or item.get("from"))


def _of_model(item: Any) -> bool:
    item = with_role(item)
    return isinstance(item, Mapping) and item.get("role") == "assistant"


def _first(row: Mapping[str, Any], keys: Sequence[str]) -> str | None:
    """The first of these keys that holds something; else the first that is there with an empty value."""
    held = (key for key in keys if row.get(key) not in (None, "", [], {}))
    return next(held, next((key for key in keys if key in row), None))
