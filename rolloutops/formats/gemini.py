"""Gemini's contents to canonical messages (GenerateContentRequest and Candidate of the API v1beta, google-genai 1.50,
types.py). Names are read in camel and in snake case, as its files have both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rolloutops.formats.chat import Tool, from_chat, tools_from
from rolloutops.types import Message


def member(value: Any, name: str) -> Any:
    """A field of an object, under its camel-case name or its snake-case one."""
    if not isinstance(value, Mapping):
        return None
    snake = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)
    return value.get(name) if value.get(name) is not None else value.get(snake)


def from_contents(contents: Any, system: Any = None) -> list[Message]:
    """Contents, after their system instruction, as canonical messages. Raises ValueError where they are none.

    Function responses of a turn become tool messages before it; thoughts become reasoning; inline images become
    `image_url` parts; other parts stay as they are.
    """
    turns: list[dict[str, Any]] = []
    if system:
        turns.append({"role": "system", "content": _content(_parts(system))})
    listed = contents if isinstance(contents, list) else [contents]
    if all(isinstance(each, str) or "parts" not in each for each in listed if isinstance(each, str | Mapping)):
        listed = [{"role": "user", "parts": listed}]  # a list of parts is one turn, as in the SDK
    for each in listed:
        parts = _parts(each)
        if not parts:
            raise ValueError("a turn of contents has no parts")
        turns += _of_model(parts) if member(each, "role") == "model" else _of_user(parts)
    return from_chat(turns)


def model_turn(content: Any) -> Message:
    """A candidate's content as one canonical message."""
    return from_chat(_of_model(_parts(content)))[0]


def tools_of(tools: Any) -> list[Tool] | None:
    """Function declarations as canonical tools; None where there are none. A built-in tool is named by its key."""
    found: list[Any] = []
    for tool in tools if isinstance(tools, list) else [tools] if tools else []:
        declared = member(tool, "functionDeclarations")
        if isinstance(declared, list):
            found += [_declared(each) for each in declared]
        elif isinstance(tool, Mapping):
            found += [{"type": name, name: settings} for name, settings in tool.items()]
    return tools_from(found)


def _declared(tool: Any) -> Any:
    schema = member(tool, "parametersJsonSchema") or member(tool, "parameters")
    rest = {key: tool[key] for key in ("name", "description") if isinstance(tool, Mapping) and key in tool}
    return {**rest, **({"parameters": schema} if schema else {})}


def _parts(content: Any) -> list[Any]:
    if isinstance(content, str):
        return [{"text": content}]
    parts = content.get("parts") if isinstance(content, Mapping) else content
    listed = parts if isinstance(parts, list) else [parts] if parts else []
    return [{"text": part} if isinstance(part, str) else part for part in listed]


def _of_model(parts: Sequence[Any]) -> list[dict[str, Any]]:
    thoughts = [str(part.get("text") or "") for part in parts if member(part, "thought") is True]
    calls = [member(part, "functionCall") for part in parts]
    said = [part for part in parts if member(part, "thought") is not True and member(part, "functionCall") is None]
    listed = [
        {"id": call.get("id"), "function": {"name": call.get("name"), "arguments": call.get("args")}}
        for call in calls
        if isinstance(call, Mapping)
    ]
    reasoning = "\n\n".join(filter(None, thoughts))
    return [{"role": "assistant", "content": _content(said), "reasoning_content": reasoning, "tool_calls": listed}]


def _of_user(parts: Sequence[Any]) -> list[dict[str, Any]]:
    answers = [member(part, "functionResponse") for part in parts]
    turns: list[dict[str, Any]] = [
        {"role": "tool", "name": each.get("name"), "tool_call_id": each.get("id"), "content": _text(each)}
        for each in answers
        if isinstance(each, Mapping)
    ]
    rest = [part for part in parts if member(part, "functionResponse") is None]
    return [*turns, {"role": "user", "content": _content(rest)}] if rest else turns


def _text(answer: Mapping[str, Any]) -> Any:
    """What a function returned: text under `output` or `result`, else the whole object."""
    response = answer.get("response")
    if isinstance(response, Mapping) and len(response) == 1:
        only = next(iter(response.values()))
        if isinstance(only, str):
            return only
    return response


def _content(parts: Sequence[Any]) -> str | list[dict[str, Any]]:
    made = [_part(part) for part in parts if part]
    if all(part["type"] == "text" and isinstance(part.get("text"), str) for part in made):
        return "".join(part["text"] for part in made)
    return made


def _part(part: Any) -> dict[str, Any]:
    if isinstance(part, Mapping) and isinstance(part.get("text"), str):
        return {"type": "text", "text": part["text"]}
    inline, file = member(part, "inlineData"), member(part, "fileData")
    kind = str(member(inline or file, "mimeType") or "")
    if inline is not None and kind.startswith("image/"):
        return {"type": "image_url", "image_url": {"url": f"data:{kind};base64,{inline.get('data')}"}}
    if file is not None and kind.startswith("image/"):
        return {"type": "image_url", "image_url": {"url": member(file, "fileUri")}}
    if isinstance(part, Mapping):
        return {"type": next((key for key in part if isinstance(part[key], Mapping)), "part"), **part}
    return {"type": "text", "text": str(part)}
