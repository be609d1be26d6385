"""A model call as the body of an OpenAI request: `POST /responses` or `POST /chat/completions`.

Parameters have Responses names everywhere in rolloutops. Responses bodies take them as they are; for Chat the ones
that differ are renamed here. A null parameter is left out, and so is one that needs tools where there are none.
Field names: https://platform.openai.com/docs/api-reference and vLLM's protocol for what it adds (`return_token_ids`,
`chat_template_kwargs`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson

from rolloutops.errors import AttemptFailed
from rolloutops.formats.columns import HOW_SENT
from rolloutops.formats.media import to_openai
from rolloutops.formats.replay import chat_message, response_items
from rolloutops.formats.strict_json import dump
from rolloutops.formats.task_rows import to_chat, to_responses, to_responses_tools
from rolloutops.types import Message, ModelCall

Body = dict[str, Any]

ENGINES_OWN = frozenset({"input", "tools", "model", *HOW_SENT})
"""Keys of a task's parameters that the call itself or the engine decides."""

NEEDS_TOOLS = frozenset({"tool_choice", "parallel_tool_calls"})
"""Parameters that endpoints refuse where no tools are offered."""

RESPONSES_ONLY = frozenset({"include", "truncation", "max_tool_calls"})
"""Parameters without a meaning in Chat, whose absence changes no prompt: left out there."""

STATEFUL = frozenset({"previous_response_id", "conversation", "prompt"})
"""Parameters that put text into the prompt which Chat cannot reach: an error there."""


def responses_body(call: ModelCall, model: str, *, openai: bool = False) -> Body:
    """The body of `POST /responses`. openai: the endpoint is OpenAI itself, which looks the ids of earlier items up
    in its own store: there they go without their ids, and reasoning does not go at all."""
    params, extra = _parameters(call)
    body: Body = {"model": model, "input": _items(call, openai)}
    if call.tools:
        body["tools"] = to_responses_tools(call.tools)
    body.update(params)
    body.update(extra)
    return body


def chat_body(
    call: ModelCall, model: str, *, openai: bool = False, limit: str = "max_tokens", token_ids: bool = False
) -> Body:
    """The body of `POST /chat/completions`. openai: the endpoint is OpenAI itself, which does not take reasoning back.
    limit: what the server calls max_output_tokens. token_ids: ask vLLM for token ids and log-probs."""
    params, extra = _parameters(call)
    messages = to_openai(call.messages)
    messages = to_chat(_without_reasoning(messages) if openai else messages)
    for place, returned in call.returned.items():
        messages[place] = chat_message(returned, call.messages[place])
    body: Body = {"model": model, "messages": messages}
    if call.tools:
        body["tools"] = [_chat_tool(tool) for tool in call.tools]
    if token_ids:
        body["return_token_ids"] = True
        body["logprobs"] = True
    for name, value in params.items():
        if name == "max_output_tokens":
            body[limit] = value
        elif name == "reasoning":
            if value.get("effort") is not None:
                body["reasoning_effort"] = value["effort"]
        elif name == "text":
            body.update(_chat_text(value))
        elif name == "tool_choice":
            body[name] = _chat_tool_choice(value)
        elif name == "top_logprobs":
            body["logprobs"], body[name] = True, value
        elif name == "instructions":
            body["messages"] = [{"role": "system", "content": value}, *body["messages"]]
        elif name in STATEFUL:
            raise AttemptFailed("bad_request", f"Chat has no parameter {name}: set endpoint to 'responses'")
        elif name not in RESPONSES_ONLY:
            body[name] = value
    body.update(extra)
    return body


def _items(call: ModelCall, openai: bool) -> list[Body]:
    """The conversation as Responses items; the model's own messages as they were returned."""
    found: list[Body] = []
    for place, messages in _runs(call):
        if place is not None:
            found += response_items(call.returned[place], messages[0])
            continue
        sent = to_openai(messages)
        made = to_responses(_without_reasoning(sent) if openai else sent, first=len(found))
        for item in made if openai else ():
            item.pop("id", None)
        found += made
    custom = {item.get("call_id") for item in found if item.get("type") == "custom_tool_call"}
    for item in found:
        if item.get("type") == "function_call_output" and item["call_id"] in custom:
            item["type"] = "custom_tool_call_output"
    return found


def _runs(call: ModelCall) -> Iterator[tuple[int | None, Sequence[Message]]]:
    """The messages in runs: those that were returned alone, with their position, and the others as they stand."""
    start = 0
    for place in sorted(call.returned):
        if place > start:
            yield None, call.messages[start:place]
        yield place, call.messages[place : place + 1]
        start = place + 1
    if start < len(call.messages):
        yield None, call.messages[start:]


def encode(body: Body) -> bytes:
    """JSON as bytes."""
    try:
        return orjson.dumps(body)
    except TypeError:  # an integer beyond 64 bits, half a surrogate pair
        try:
            return dump(body).encode()
        except ValueError as error:
            raise AttemptFailed("bad_request", f"the request cannot be written: {error}") from None


def _parameters(call: ModelCall) -> tuple[Body, Body]:
    """The call's parameters without nulls, and fields for the body that Responses has no name for: `extra_body`, and
    what NeMo Gym's rows carry as JSON text in `metadata` (`extra_body`, `chat_template_kwargs`)."""
    params = {name: value for name, value in call.params.items() if value is not None and name not in ENGINES_OWN}
    if not call.tools:
        for name in NEEDS_TOOLS:
            params.pop(name, None)
    extra = dict(_object(params.pop("extra_body", None), "extra_body"))
    metadata = params.get("metadata")
    if metadata is not None and ("extra_body" in metadata or "chat_template_kwargs" in metadata):
        metadata = dict(metadata)
        extra.update(_object(metadata.pop("extra_body", None), "metadata.extra_body"))
        template = _object(metadata.pop("chat_template_kwargs", None), "metadata.chat_template_kwargs")
        if template:
            extra["chat_template_kwargs"] = {**extra.get("chat_template_kwargs", {}), **template}
        params.pop("metadata")
        if metadata:
            params["metadata"] = metadata
    return params, {name: value for name, value in extra.items() if name not in HOW_SENT}


def _object(value: Any, name: str) -> Body:
    """A JSON object, given as one or as its text; nothing is an empty one."""
    try:
        found = orjson.loads(value) if isinstance(value, str) else value or {}
    except orjson.JSONDecodeError as error:
        raise AttemptFailed("bad_request", f"{name} is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise AttemptFailed("bad_request", f"{name} is not a JSON object")
    return found


def _without_reasoning(messages: Sequence[Message]) -> list[Message]:
    return [
        {key: value for key, value in message.items() if key != "reasoning_content"}
        if "reasoning_content" in message
        else message
        for message in messages
    ]


def _chat_text(text: Mapping[str, Any]) -> Body:
    """`text` of Responses as Chat's `response_format` and `verbosity`."""
    body: Body = {}
    if text.get("verbosity") is not None:
        body["verbosity"] = text["verbosity"]
    form = text.get("format") or {}
    if form.get("type") == "json_schema":
        body["response_format"] = {
            "type": "json_schema",
            "json_schema": {name: value for name, value in form.items() if name != "type" and value is not None},
        }
    elif form and form.get("type") != "text":
        body["response_format"] = form
    return body


def _chat_tool(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    """A custom tool of Responses as Chat has it, in an object of its own (openai 2.x,
    types/chat/chat_completion_custom_tool_param.py). Any other tool as it is."""
    if tool.get("type") != "custom" or "custom" in tool or "name" not in tool:
        return tool
    custom = {key: value for key, value in tool.items() if key != "type"}
    form = custom.get("format")
    if isinstance(form, Mapping) and form.get("type") == "grammar" and "grammar" not in form:
        custom["format"] = {"type": "grammar", "grammar": {k: v for k, v in form.items() if k != "type"}}
    return {"type": "custom", "custom": custom}


def _chat_tool_choice(choice: Any) -> Any:
    """`{type: function, name}` of Responses as Chat's `{type: function, function: {name}}`."""
    if isinstance(choice, Mapping) and choice.get("type") == "function" and "name" in choice:
        return {"type": "function", "function": {"name": choice["name"]}}
    return choice
