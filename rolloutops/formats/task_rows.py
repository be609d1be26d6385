"""Conversations: the one place that knows their forms, and the door through which all of them come.

The canonical form, in which prompts and completions are stored:

    [{"role": "system" | "developer" | "user" | "assistant" | "tool",
      "content": text, or a list of chat parts where it holds something that is not text,
      "reasoning_content": text,                                  # assistant
      "tool_calls": [{"id": text, "type": "function",
                      "function": {"name": text, "arguments": text as received}}],    # assistant
      "tool_call_id": text,                                       # tool
      "name": text}]

A key that holds nothing is absent, never null; content is always there. A tool is
`{"type": "function", "function": {"name", "description"?, "parameters"?, "strict"?}}`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rolloutops.formats.chat import Tool, from_chat, text_of, to_chat, tools_from
from rolloutops.formats.columns import ANSWER_COLUMNS, TOOL_COLUMNS
from rolloutops.formats.gemini import tools_of as gemini_tools
from rolloutops.formats.media import media_columns, with_media
from rolloutops.formats.prompt_shapes import PROMPT_COLUMNS, NoPrompt, Turns, find_turns
from rolloutops.formats.responses import from_responses, to_responses, to_responses_tools, unread_items
from rolloutops.formats.strict_json import dump, parse
from rolloutops.types import Message

__all__ = [
    "PROMPT_COLUMNS",
    "Message",
    "NoPrompt",
    "Prompt",
    "Tool",
    "answer_of_row",
    "from_chat",
    "from_responses",
    "prompt_of_row",
    "take_answer",
    "text_of",
    "to_chat",
    "to_responses",
    "to_responses_tools",
    "tools_from",
]

READER = 4
"""The version of what `prompt_of_row` makes of a row: raised when it reads an unchanged row differently, so that
workspaces compare their tasks once more. 1: until tasks could have a prompt file. 2: without the
`instructions` beside an input of text, and results of tools under rare keys. 3: without LangChain's messages,
`turns`, and the prompts of preference rows."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a task asks. messages, tools: canonical. params: the row's own parameters, under Responses names. shape: how
    the row was read. left_aside: its columns, fields and items that were not, fields as `messages[].weight`. answer:
    what the shape itself says is the answer, where no column of ANSWER_COLUMNS does."""

    messages: list[Message]
    tools: list[Tool] | None
    params: dict[str, Any]
    shape: str = ""
    left_aside: Sequence[str] = ()
    answer: str | None = None


def prompt_of_row(row: Mapping[str, Any]) -> Prompt:
    """The prompt of a task row.

    - NeMo Gym: `responses_create_params` (also inside `task_input`) with `input` as items, text, [] or null;
      `instructions` become a system message; its other parameters that are not null become `params`.
    - Otherwise one of the shapes of prompt_shapes.py. Tools come from the row's `tools` or `functions`,
      media from `images`, `videos` and `audios` (`media.py`).

    Raises ValueError that says what is missing or wrong; NoPrompt if no column holds a prompt.
    """
    gym = _create_params(row)
    params = dict(gym or {})
    given, tools, instructions = (params.pop(key, None) for key in ("input", "tools", "instructions"))
    turns = _from_input(given) if given is not None else _from_columns(row, gym)
    messages, columns = turns.messages, turns.columns
    if given is None:
        column = next((name for name in TOOL_COLUMNS if row.get(name)), "")
        tools = tools or (gemini_tools(row.get(column)) if "contents" in turns.columns else row.get(column))
        columns = (*columns, column)
    if instructions:
        messages = [*from_chat([{"role": "system", "content": instructions}]), *messages]
    messages = with_media(messages, row, marks_only=given is not None)
    left_aside = turns.left_aside
    if given is None and gym is None:
        left_aside = [*_unread_columns(row, (*columns, *media_columns(messages, row))), *left_aside]
    params = {key: value for key, value in params.items() if value is not None}
    return Prompt(messages, tools_from(tools), params, turns.shape, left_aside, turns.answer)


def take_answer(prompt: Prompt) -> Prompt:
    """The prompt without the model's own last turn, if it ends with one: whatever follows the last message of anyone
    else but tools. Its text is the answer. Raises NoPrompt if nothing comes before it."""
    messages = prompt.messages
    if not messages or messages[-1]["role"] != "assistant":
        return prompt
    end = max((n for n, said in enumerate(messages, 1) if said["role"] not in ("assistant", "tool")), default=0)
    if not end:
        raise NoPrompt("there is no turn before the last one, which is the answer (last_turn = answer)")
    return replace(prompt, messages=messages[:end], answer=text_of(messages[-1]) or prompt.answer)


def answer_of_row(row: Mapping[str, Any]) -> str | None:
    """The expected answer of a task row: the first of ANSWER_COLUMNS that is not null, text as it is, anything else as
    compact JSON; None where the row has none."""
    answer = next((row[key] for key in ANSWER_COLUMNS if row.get(key) is not None), None)
    return answer if answer is None or isinstance(answer, str) else dump(answer)


def _create_params(row: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """responses_create_params of the row, or of its task_input."""
    value = row.get("responses_create_params")
    if value is None and isinstance(row.get("task_input"), Mapping):
        value = row["task_input"].get("responses_create_params")
    if isinstance(value, str):
        value = _parsed(value, "responses_create_params")
    if value is not None and not isinstance(value, Mapping):
        raise ValueError("responses_create_params is not an object")
    return value


def _from_input(value: Any) -> Turns:
    if not isinstance(value, (str, list)):
        raise ValueError("responses_create_params.input is neither a list nor text")
    items = value if isinstance(value, list) else ()
    for number, item in enumerate(items):
        if not isinstance(item, dict):
            raise ValueError(f"responses_create_params.input[{number}] is not an object")
    messages = from_responses(value)
    if value and not messages:
        raise ValueError("responses_create_params.input has no message")
    return Turns("NeMo Gym", messages, (), [f"input[].{kind}" for kind in unread_items(items)])


def _from_columns(row: Mapping[str, Any], gym: Mapping[str, Any] | None) -> Turns:
    keys = f"the row has the keys {', '.join(row)}" if row else "the row is empty"
    try:
        turns = find_turns(row)
    except NoPrompt as error:
        raise NoPrompt(f"{error}; {keys}") from None
    if turns is not None:
        return turns
    if gym is not None and "input" in gym:
        return Turns("NeMo Gym", [], ())
    missing = "responses_create_params has no input; " if gym is not None else ""
    raise NoPrompt(f"no prompt: {missing}{keys}, and none of responses_create_params, {', '.join(PROMPT_COLUMNS)}")


def _unread_columns(row: Mapping[str, Any], read: Sequence[str]) -> Iterator[str]:
    """The columns that hold something and are neither read nor an expected answer."""
    known = {*read, *ANSWER_COLUMNS}
    return (name for name, value in row.items() if name not in known and value not in (None, "", [], {}))


def _parsed(text: str, key: str) -> Any:
    try:
        return parse(text)
    except ValueError as error:
        raise ValueError(f"{key} cannot be read: {error}") from None
