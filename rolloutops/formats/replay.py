"""A model's own message in the next request: as its endpoint returned it, less what the endpoint refuses.

Endpoints demand fields that no list of ours will ever hold whole: Gemini the `thought_signature` in
`tool_calls[].extra_content` (ai.google.dev/gemini-api/docs/thought-signatures), OpenRouter `reasoning_details`,
DeepSeek `reasoning_content`, Mistral its `thinking` parts, Responses the ids of items and their `encrypted_content`.
Others answer 400 to the same fields (Groq: "property 'reasoning' is unsupported"). So the message goes back verbatim,
and a field that a refusal names is taken out of the request.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson

from rolloutops.types import Message

Body = dict[str, Any]

ROWS = ("messages", "input")
"""Where a request holds its conversation: Chat's key and that of Responses."""
CHAT_CORE = frozenset({"role", "content", "tool_calls", "id", "type", "function", "name", "arguments", "text"})
"""What every Chat endpoint takes: never taken out."""
ITEM_CORE = CHAT_CORE - {"id"} | {"call_id", "input", "output", "summary", "message", "function_call", "output_text"}
"""The same of Responses items and their types."""
DEMANDED = ("summary", "annotations", "content")
"""Lists of Responses items that the API's types require, empty or not."""
CALL_ARGUMENTS = {"function_call": "arguments"}
"""Responses items that call a tool with JSON arguments: type -> the key that holds them."""
DEMAND = re.compile(r"\bmissing\b|\brequired?\b|must be (passed|provided|set|sent|included)", re.IGNORECASE)
"""How an endpoint says that it wants a field (DeepSeek, Gemini), not that it refuses one."""
REFUSAL = re.compile(
    r"not (be )?(permitted|allowed|supported|accepted|provided|sent|valid)|unsupported|unexpected|unknown"
    r"|unrecogni[sz]ed|forbidden|\bextra\b|additional propert",
    re.IGNORECASE,
)
"""How one says that it refuses a field, whatever else it says."""
LONG = 8
"""Letters from which on a name below a field stands for that field: shorter ones are plain words (`format`)."""


def chat_message(returned: Mapping[str, Any], message: Message) -> Message:
    """A Chat message as it was returned, without nulls and empty lists. message: its canonical form, which has what a
    server may leave out: the role, the content, ids of tool calls, their arguments as text."""
    sent = {"role": "assistant", **_holding(returned)}
    sent["content"] = [_holding(part) for part in _listed(returned.get("content"))] or message["content"]
    if isinstance(returned.get("content"), str):
        sent["content"] = returned["content"]
    sent.pop("function_call", None)
    calls, canonical = returned.get("tool_calls"), message.get("tool_calls", ())
    if not isinstance(calls, list) or len(calls) != len(canonical):
        calls = [{} for _ in canonical]
    if canonical:
        sent["tool_calls"] = [_chat_call(call, known) for call, known in zip(calls, canonical, strict=True)]
    return sent


def response_items(returned: Sequence[Any], message: Message) -> list[Body]:
    """Responses items as they were returned, without nulls and the empty lists that nobody demands. message: their
    canonical form, which has the ids of calls that lack one."""
    ids = iter([call["id"] for call in message.get("tool_calls", ())])
    items = []
    for each in returned:
        item = _holding(each, DEMANDED)
        if isinstance(item.get("content"), list):
            item["content"] = [_holding(part, DEMANDED) for part in item["content"]]
        if item.get("type") in ("function_call", "custom_tool_call"):
            item["call_id"] = item.get("call_id") or next(ids, "")
        items.append(item)
    return items


def readable_arguments(text: str) -> str:
    """A tool call's arguments as every endpoint reads them. What is not a JSON object becomes one that holds it: vLLM,
    SGLang and Anthropic's layer answer 400 to other text, and chat templates that parse it raise. No text is `{}`."""
    try:
        found = orjson.loads(text) if text.strip() else None
    except orjson.JSONDecodeError:
        found = text
    if isinstance(found, dict):
        return text
    return "{}" if found is None and not text.strip() else orjson.dumps({"invalid_arguments": text}).decode()


def with_readable_arguments(body: Body) -> Body:
    """The request, whose tool calls have arguments that every endpoint reads (`readable_arguments`)."""
    for holder in _callers(body):
        if isinstance(holder.get("arguments"), str):
            holder["arguments"] = readable_arguments(holder["arguments"])
    return body


def without_fields(body: Body, names: frozenset[str]) -> Body:
    """The request, whose assistant's messages have none of the fields, parts and items so named. The input is changed.

    An id names an item that a server holds. Without its ids a Responses conversation cannot refer to reasoning, and a
    server that finds its reasoning gone asks for it by those ids: so both go together.
    """
    if not names:
        return body
    if "messages" in body:
        body["messages"] = [_bare(each, names) if _own(each) else each for each in body["messages"]]
    elif isinstance(body.get("input"), list):
        names = names | {"id"} if "reasoning" in names else names
        kept = [each for each in body["input"] if not _own(each) or not _gone(each, names)]
        body["input"] = [_bare_item(each, names) if _own(each) else each for each in kept]
    return body


def refused_fields(refusal: str, body: Body) -> frozenset[str]:
    """The fields of the request's own assistant messages that a refusal names; all of them where it names none, and
    none where it demands a field.

    refusal: its reasons, separated by `; `.
    """
    known = fields_of(body)
    reasons = [reason for reason in refusal.split("; ") if REFUSAL.search(reason) or not DEMAND.search(reason)]
    words = set(re.findall(r"\w+", "; ".join(reasons)))
    named = {field for field, names in known.items() if names & words}
    if names_an_item(refusal, body):
        named.add("id")
    return frozenset(named or (known if reasons else ()))


def demands(refusal: str) -> bool:
    """Whether a refusal asks for a field that is missing."""
    return any(DEMAND.search(reason) and not REFUSAL.search(reason) for reason in refusal.split("; "))


def names_an_item(refusal: str, body: Body) -> bool:
    """Whether a refusal names one of the request's items by its id, which the server does not hold."""
    return any(isinstance(each.get("id"), str) and each["id"] in refusal for each in _rows(body) if "type" in each)


def fields_of(body: Body) -> dict[str, set[str]]:
    """Fields, parts and items that may be taken out of a request -> the names by which a refusal may name them."""
    found: dict[str, set[str]] = {}
    core = CHAT_CORE if "messages" in body else ITEM_CORE
    for place in _places(body):
        kind = place.get("type")
        if isinstance(kind, str) and kind not in core:
            found.setdefault(kind, {kind})
        for key, value in place.items():
            if key not in core:
                found.setdefault(key, {key}).update(name for name in _names(value) if len(name) >= LONG)
    return found


def _chat_call(call: Any, known: Mapping[str, Any]) -> Body:
    """A tool call as it was returned, with the id and the arguments that the canonical one has."""
    sent = _holding(call) if isinstance(call, Mapping) else {}
    sent.setdefault("type", "function")
    sent["id"] = known["id"]
    if sent["type"] != "function":
        return sent
    inner = sent.get("function")
    sent["function"] = {**(_holding(inner) if isinstance(inner, Mapping) else {}), **known["function"]}
    return sent


def _holding(value: Any, keep: Sequence[str] = ()) -> Any:
    """An object without its nulls and its empty lists, but for those to keep."""
    if not isinstance(value, Mapping):
        return value
    return {key: each for key, each in value.items() if each is not None and (each != [] or key in keep)}


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _rows(body: Body) -> list[Any]:
    """The assistant's own messages or items in a request."""
    rows: list[Any] = next((body[key] for key in ROWS if isinstance(body.get(key), list)), [])
    return [each for each in rows if _own(each)]


def _own(row: Any) -> bool:
    """Whether the model made a message or an item."""
    if not isinstance(row, Mapping):
        return False
    return row["role"] == "assistant" if "role" in row else not str(row.get("type")).endswith("_output")


def _callers(body: Body) -> Iterator[Body]:
    """What holds the arguments of a request's tool calls."""
    for row in _rows(body):
        if row.get("type") in CALL_ARGUMENTS:
            yield row
        for call in _listed(row.get("tool_calls")):
            if isinstance(call.get("function"), dict):
                yield call["function"]


def _places(body: Body) -> Iterator[Mapping[str, Any]]:
    """The objects of a request in which a field may stand that an endpoint does not take."""
    for row in _rows(body):
        yield row
        yield from (part for part in _listed(row.get("content")) if isinstance(part, Mapping))
        for call in _listed(row.get("tool_calls")):
            yield call
            if isinstance(call.get("function"), Mapping):
                yield call["function"]


def _names(value: Any) -> Iterator[str]:
    """All keys below a value."""
    if isinstance(value, Mapping):
        yield from value
        value = list(value.values())
    for each in value if isinstance(value, list) else ():
        yield from _names(each)


def _bare(message: Message, names: frozenset[str]) -> Message:
    """A Chat message without the fields and parts so named."""
    bare = _less(message, names)
    if isinstance(bare.get("content"), list):
        bare["content"] = _bare_parts(bare["content"], names) or ""
    if "tool_calls" in bare:
        bare["tool_calls"] = [
            {**_less(call, names), **({"function": _less(call["function"], names)} if "function" in call else {})}
            for call in bare["tool_calls"]
        ]
    return bare


def _bare_item(item: Body, names: frozenset[str]) -> Body:
    bare = _less(item, names)
    if isinstance(bare.get("content"), list):
        bare["content"] = _bare_parts(bare["content"], names)
    return bare


def _bare_parts(parts: list[Any], names: frozenset[str]) -> list[Any]:
    return [_less(part, names) for part in parts if not (isinstance(part, Mapping) and part.get("type") in names)]


def _less(value: Any, names: frozenset[str]) -> Any:
    return {key: each for key, each in value.items() if key not in names} if isinstance(value, Mapping) else value


def _gone(item: Mapping[str, Any], names: frozenset[str]) -> bool:
    """Whether an item goes: by its type, or as reasoning of which nothing is left without its id."""
    if item.get("type") in names:
        return True
    unreadable = item.get("type") == "reasoning" and not item.get("encrypted_content") and not item.get("content")
    return unreadable and "id" in names
