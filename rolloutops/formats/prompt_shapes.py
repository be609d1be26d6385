"""The shapes that a task row's prompt has outside NeMo Gym's rows, each known by the names of its columns.

| shape | columns | from |
| --- | --- | --- |
| chat messages | `messages`, `conversation`, `turns`, and TEXT_COLUMNS with a list | Chat Completions, TRL, verl |
| LangChain messages | the same | langchain-core 1 (langchain.py) |
| ShareGPT turns | `conversations`, `conversation` | FastChat, LLaMA-Factory (data/README at 0798d9d) |
| Gemini contents | `contents`, `systemInstruction` | google-genai 1 |
| Responses input | `input` as a list, `instructions` | openai-python 2 |
| Alpaca | `instruction` with `input` or `context`, `history` | stanford_alpaca, LLaMA-Factory, Dolly |
| preference | `chosen` and `rejected` that begin with the prompt | TRL, UltraFeedback (preferences.py) |
| text | `prompt`, `question`, `problem`, `query`, `input` | datasets of questions, OpenAI evals, Inspect |

`system`, `system_prompt` and `system_message` beside any of them are its system message.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from rolloutops.formats.chat import CONTENT_KEYS, content_key, from_chat, message, text_of
from rolloutops.formats.columns import SYSTEM_COLUMNS
from rolloutops.formats.content import BESIDE_CONTENT, read_content, unread_keys
from rolloutops.formats.gemini import from_contents
from rolloutops.formats.langchain import with_role
from rolloutops.formats.preferences import shared_prompt, with_shared, without_copy
from rolloutops.formats.python_text import PRINTED_MESSAGES, parse_list
from rolloutops.formats.responses import from_responses, unread_items
from rolloutops.formats.strict_json import parse
from rolloutops.formats.tool_calls import as_text, object_in
from rolloutops.types import Message

CHAT_COLUMNS = ("messages", "conversations")
"""Columns of turns, which come before the others."""

TEXT_COLUMNS = ("prompt", "question", "problem", "conversation", "contents", "query", "instruction", "input", "turns")
"""The other columns that may hold a prompt, as text or as turns: the first that is there counts."""

PROMPT_COLUMNS = (*CHAT_COLUMNS, *TEXT_COLUMNS)
"""Where a row without NeMo Gym's input has its prompt: the first of these that holds something."""

ONLY_TURNS = (*CHAT_COLUMNS, "conversation", "contents", "turns")
"""Columns in which text is the JSON text of turns."""

GEMINI_SYSTEM = ("systemInstruction", "system_instruction")
"""Where Gemini's requests have it."""

OF_A_MESSAGE = frozenset(
    {
        *("role", "from", "name", "id", "type", "status", "refusal", "annotations", "tool_calls", "function_call"),
        *("tool_call_id", "toolCallId", "tool_use_id", "call_id", *BESIDE_CONTENT),
    }
)
"""Fields of a message that are read, its content apart, and those that say nothing about what was said."""

SAYS = frozenset({*CONTENT_KEYS, *OF_A_MESSAGE} - {"role", "from", "name", "id", "type", "status"})
"""Fields that hold what was said."""


class NoPrompt(ValueError):
    """A row has no column that holds a prompt."""


@dataclass(frozen=True)
class Turns:
    """A prompt as a row's columns hold it. columns: those that were read. left_aside: fields and items that were not.
    answer: what the shape itself says is the answer."""

    shape: str
    messages: list[Message]
    columns: tuple[str, ...]
    left_aside: list[str] = field(default_factory=list)
    answer: str | None = None


def find_turns(row: Mapping[str, Any]) -> Turns | None:
    """The prompt of a row by the names of its columns, with its system message; None if it has none of them.

    Raises ValueError for one that cannot be read, and NoPrompt for one that is empty.
    """
    row = without_copy(row)
    column = next((name for name in PROMPT_COLUMNS if _may_hold(row.get(name), name)), None)
    if column is None:
        empty = next((name for name in PROMPT_COLUMNS if row.get(name) is not None), None)
        if shared := shared_prompt(row):
            return _with_system(row, Turns("what chosen and rejected begin with", shared, ()))
        if empty is None:
            return None
        raise NoPrompt(f"{empty} is empty")
    value = _turns_in(row[column], column)
    if isinstance(value, str):
        found = _alpaca(row, value) if column == "instruction" else _with_instructions(row, _text(column, value))
    elif column == "input":
        found = _responses(row, value)
    elif column == "contents":
        found = _gemini(row, value)
    else:
        found = _chat(column, value)
    if not any(said["content"] or said.get("tool_calls") or said.get("reasoning_content") for said in found.messages):
        raise NoPrompt(f"{column} holds no text")
    found = replace(found, messages=with_shared(found.messages, row))
    return found if column == "contents" else _with_system(row, found)


def _may_hold(value: Any, column: str) -> bool:
    """Whether a cell may be meant as the prompt: columns with common names are only what they are if they hold text."""
    return bool(value) and (isinstance(value, (str, list, dict)) or column in ("messages", "conversations", "prompt"))


def _turns_in(value: Any, column: str) -> str | list[Any]:
    """A cell's text or its turns. A cell of text may hold turns as JSON text; one message may stand without a list."""
    if isinstance(value, str):
        if column in ONLY_TURNS:
            try:
                value = parse_list(value)
            except ValueError as error:
                raise ValueError(f"{column} cannot be read: {error}") from None
        else:
            value = _as_turns(value, column)
    if isinstance(value, Mapping):
        value = value["messages"] if isinstance(value.get("messages"), list) else [value]
    if isinstance(value, str) and column not in ONLY_TURNS:
        return value
    if not isinstance(value, list):
        raise ValueError(f"{column} is not a list of messages")
    return value


def _as_turns(text: str, column: str) -> Any:
    """What a text holds, if it is the text of messages; else the text."""
    if PRINTED_MESSAGES.match(text):
        try:
            return parse_list(text)
        except ValueError as error:
            raise ValueError(f"{column} cannot be read: {error}") from None
    if not text.lstrip().startswith("[{"):
        return text
    try:
        value = parse(text)
    except ValueError:
        return text
    return value if all(isinstance(item, dict) and _speaker(with_role(item)) for item in value) else text


def _text(column: str, text: str) -> Turns:
    return Turns(f"text in {column}", [message("user", text)], (column,))


def _chat(column: str, turns: list[Any]) -> Turns:
    given = [object_in(item) for item in turns]
    turns = [with_role(item) for item in given]
    if column in TEXT_COLUMNS and all(isinstance(part, dict) and not _speaker(part) for part in turns):
        content = read_content(turns, "user").parts  # parts of one message
        if content and all(isinstance(part.get("type"), str) for part in turns):
            unread = [f"{column}[].{key}" for key in unread_keys(turns)]
            return Turns(f"content parts in {column}", [message("user", content)], (column,), unread)
    try:
        messages = from_chat(turns)
        for number, item in enumerate(turns):
            _refuse_unread(number, item)
    except ValueError as error:
        raise ValueError(f"{column}: {error}") from None
    kind = "ShareGPT turns" if any("from" in item and not item.get("role") for item in turns) else "chat messages"
    kind = "LangChain messages" if any(old is not new for old, new in zip(given, turns, strict=True)) else kind
    return Turns(f"{kind} in {column}", messages, (column,), list(unread_fields(column, turns)))


def _speaker(item: Mapping[str, Any]) -> bool:
    return bool(item.get("role") or item.get("from"))


def _refuse_unread(number: int, item: Mapping[str, Any]) -> None:
    """Raise ValueError for a message with nothing that is read, but with something else."""
    if SAYS.isdisjoint(item) and (others := [name for name in item if name not in OF_A_MESSAGE]):
        raise ValueError(
            f"message {number} has no content: it has the keys {', '.join([*item.keys() - others, *others])}"
        )


def unread_fields(column: str, turns: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The fields of messages that are not read, one for each that holds something."""
    for item in turns:
        content = content_key(item)
        for name, value in item.items():
            if name != content and name not in OF_A_MESSAGE and value not in (None, "", [], {}):
                yield f"{column}[].{name}"
        if content is not None and not isinstance(item[content], str):
            yield from (f"{column}[].{content}[].{key}" for key in unread_keys(item[content]))


def _responses(row: Mapping[str, Any], items: list[Any]) -> Turns:
    shared = (isinstance(item, dict) and "from" in item and not item.get("role") for item in items)
    if any(shared) or any(with_role(item) is not item for item in items):
        return _chat("input", items)
    for number, item in enumerate(items):
        if not isinstance(item, dict):
            raise ValueError(f"input[{number}] is not an object")
    messages = from_responses(items)
    if not messages:
        raise NoPrompt("input has no message")
    unread = [f"input[].{kind}" for kind in unread_items(items)]
    return _with_instructions(row, Turns("Responses input", messages, ("input",), unread))


def _with_instructions(row: Mapping[str, Any], turns: Turns) -> Turns:
    """The turns after the `instructions` that stand beside a Responses input."""
    if "input" not in turns.columns or not row.get("instructions"):
        return turns
    messages = [message("system", as_text(row["instructions"])), *turns.messages]
    return replace(turns, messages=messages, columns=(*turns.columns, "instructions"))


def _gemini(row: Mapping[str, Any], contents: list[Any]) -> Turns:
    """Contents with their system instruction, if any column has one."""
    system = next((name for name in (*GEMINI_SYSTEM, *SYSTEM_COLUMNS) if row.get(name)), None)
    messages = from_contents(contents, row[system] if system else None)
    columns = ("contents", *filter(None, [system]))
    turns = [item for item in contents if isinstance(item, Mapping)]
    return Turns("Gemini contents", messages, columns, list(unread_fields("contents", turns)))


def _alpaca(row: Mapping[str, Any], instruction: str) -> Turns:
    """Instruction and input, a line each, after the earlier turns; the answer is `output`, Dolly's is `response`."""
    beside = next((name for name in ("input", "context") if isinstance(row.get(name), str)), None)
    asked = "\n".join(filter(None, [instruction, row[beside] if beside else ""]))
    answered = next((name for name in ("output", "response") if isinstance(row.get(name), str)), None)
    used = ["instruction", *filter(None, [beside, answered])]
    messages: list[Message] = []
    history = row.get("history")
    if isinstance(history, list) and history:
        used.append("history")
        for number, pair in enumerate(history):
            if not isinstance(pair, list) or len(pair) != 2:
                raise ValueError(f"history[{number}] is not a pair of a question and its answer")
            messages += [message("user", as_text(pair[0])), message("assistant", as_text(pair[1]))]
    messages.append(message("user", asked))
    return Turns("Alpaca (instruction)", messages, tuple(used), answer=(row[answered] or None) if answered else None)


def _with_system(row: Mapping[str, Any], turns: Turns) -> Turns:
    """The turns after the system message that stands beside them, unless they begin with the same."""
    for name in SYSTEM_COLUMNS:
        text = _system_text(row.get(name))
        if text:
            first = turns.messages[0] if turns.messages else {}
            same = first.get("role") in ("system", "developer") and text_of(first) == text
            messages = turns.messages if same else [message("system", text), *turns.messages]
            return replace(turns, messages=messages, columns=(*turns.columns, name))
    return turns


def _system_text(value: Any) -> str:
    """A system message: text, content parts, or a message."""
    if isinstance(value, dict) and (isinstance(value.get("parts"), list) or value.get("role")):
        key = content_key(value)
        value = value[key] if key else None
    if not isinstance(value, (str, list, dict)):
        return ""
    content = read_content(value, "system").parts
    return content if isinstance(content, str) else ""
