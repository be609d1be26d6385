"""Replies that came as a stream of server-sent events, though nobody asked for one, as the JSON that they amount to.

Some proxies and gateways stream whatever the request says (litellm pull request 34095, token_proxy pull request 238).
Lines as of the WHATWG's server-sent events; chunks as of OpenAI's `chat.completion.chunk`; events as of its Responses
API; those of Anthropic and Gemini in `other_apis`. A stream that did not end is no answer: half of one would pass for
a short one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import orjson

from rolloutops.errors import AttemptFailed
from rolloutops.formats.other_apis import is_generated, of_generated, of_message_events
from rolloutops.layout import count

LINES = re.compile(rb"\}[ \t]*\r?\n\s*\{")
"""Where one JSON object ends and another begins in the next line."""
FIELDS = (b"data:", b"event:", b"id:", b"retry:", b":")
"""How a line of an event stream begins."""
DONE = b"[DONE]"
"""The last event of OpenAI's streams."""
ENDED = frozenset({"response.completed", "response.incomplete", "response.failed", "response.done"})
"""Events with a whole Responses object."""
NAMES = frozenset({"id", "type", "role", "name", "index", "format"})
"""Texts of a delta that are sent whole, where others are pieces."""


def is_stream(body: bytes) -> bool:
    """Whether a reply is a stream of events."""
    return body.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(FIELDS)


def read_stream(body: bytes) -> dict[str, Any]:
    """The Chat completion, the Responses object or the error that a stream amounts to. Raises AttemptFailed."""
    events = list(_events(body))
    done = bool(events) and events[-1] == DONE
    parsed = [_parsed(event) for event in events if event != DONE]
    for event in parsed:
        if failed := _error(event):
            return failed
    if any(event.get("type") == "message_start" for event in parsed):
        return of_message_events(parsed)
    if parsed and all(map(is_generated, parsed)):
        return of_generated(parsed)
    if any(str(event.get("type")).startswith("response.") for event in parsed):
        return _response(parsed, done)
    return _completion(parsed, done)


def last_event(body: bytes) -> dict[str, Any]:
    """The last event of a stream, or the first error in it: of servers whose events are notes until the whole reply
    comes. Raises AttemptFailed where there is none."""
    parsed = [_parsed(event) for event in _events(body) if event != DONE]
    if not parsed:
        raise AttemptFailed("bad_response", "the stream holds no event")
    return next((failed for event in parsed if (failed := _error(event))), parsed[-1])


def is_lines(body: bytes) -> bool:
    """Whether a reply is JSON objects, one a line."""
    return LINES.search(body) is not None


def read_lines(body: bytes) -> dict[str, Any]:
    """The Chat completion or the error that lines amount to: chunks as of a stream, or messages of Ollama's own API.
    Raises AttemptFailed."""
    lines = [_parsed(line) for line in body.splitlines() if line.strip()]
    for line in lines:
        if failed := _error(line):
            return failed
    chunks = [_chunk(line) for line in lines]
    if not all(chunk.get("object") == "chat.completion.chunk" for chunk in chunks):
        raise AttemptFailed(
            "bad_response", f"the reply has {count(len(lines), 'line')} of JSON and no chunk of an answer"
        )
    return _completion(chunks, False)


def _chunk(line: dict[str, Any]) -> dict[str, Any]:
    """A line of Ollama's `/api/chat` (docs/api.md of its 0.13) as a chunk; any other as it is."""
    if "done" not in line or "message" not in line:
        return line
    ended = (line.get("done_reason") or "stop") if line["done"] else None
    usage = {"prompt_tokens": line.get("prompt_eval_count"), "completion_tokens": line.get("eval_count")}
    return {
        "object": "chat.completion.chunk",
        "model": line.get("model"),
        "choices": [{"index": 0, "delta": line["message"], "finish_reason": ended}],
        **({"usage": usage} if line["done"] else {}),
    }


def _events(body: bytes) -> Iterator[bytes]:
    """The data of each event; of an `error`, whose name may stand in another line, as an object with that key."""
    data: list[bytes] = []
    name = b""
    for line in [*body.lstrip(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n"), b""]:
        if line.startswith(b"data:"):
            data.append(line[5:].strip())
        elif line.startswith(b"event:"):
            name = line[6:].strip()
        elif not line.strip() and data:
            whole = b"\n".join(data)
            failed = name == b"error" and _is_json(whole) and b'"error"' not in whole
            yield from [b'{"error":' + whole + b"}"] if failed else _split(data)
            data, name = [], b""


def _split(data: list[bytes]) -> Iterator[bytes]:
    """The lines of one event: its data in several lines, or several events that no empty line separates."""
    whole = b"\n".join(data)
    if len(data) > 1 and not _is_json(whole):
        yield from data
    else:
        yield whole


def _is_json(text: bytes) -> bool:
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    return True


def _parsed(event: bytes) -> dict[str, Any]:
    try:
        found = orjson.loads(event)
    except orjson.JSONDecodeError as error:
        raise AttemptFailed("bad_response", f"the stream holds an event that is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise AttemptFailed("bad_response", "the stream holds an event that is not a JSON object")
    return found


def _error(event: dict[str, Any]) -> dict[str, Any] | None:
    """A reply with the error that an event holds."""
    if event.get("type") == "error":
        return {"error": event.get("error") or {key: value for key, value in event.items() if key != "type"}}
    if event.get("error") and not event.get("choices") and "response" not in event:
        return {"error": event["error"]}
    return None


def _response(events: list[dict[str, Any]], done: bool) -> dict[str, Any]:
    """A Responses object: the last event's, or that of the items which were done, where the stream says that it is."""
    last = next((event["response"] for event in reversed(events) if event.get("type") in ENDED), None)
    items = [event["item"] for event in events if event.get("type") == "response.output_item.done"] or _items_of_pieces(
        events
    )
    if isinstance(last, dict) and (last.get("output") or not items):
        pieces = any(str(event.get("type")).endswith(".delta") for event in events)
        if pieces and not last.get("output") and last.get("status") == "completed":
            raise AttemptFailed("bad_response", "the stream's events hold an answer that its response lacks")
        return last
    if last is None and not (done and items):
        raise AttemptFailed("bad_response", "the stream ended before the response was completed")
    begun: dict[str, Any] = next((event["response"] for event in events if isinstance(event.get("response"), dict)), {})
    return {**begun, "status": "completed", **(last or {}), "output": items}


def _items_of_pieces(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The message that pieces of text amount to, of a server that does not repeat it whole; no other item is whole."""
    kinds = {str(event.get("type")) for event in events if str(event.get("type")).endswith(".delta")}
    if kinds - {"response.output_text.delta"}:
        return []
    text = "".join(str(event["delta"]) for event in events if event.get("type") in kinds)
    part = {"type": "output_text", "text": text, "annotations": []}
    return [{"type": "message", "role": "assistant", "content": [part]}] if text else []


def _completion(chunks: list[dict[str, Any]], done: bool) -> dict[str, Any]:
    """A Chat completion of chunks: its first choice, the fields of all chunks, and the last usage."""
    answer: dict[str, Any] = {}
    choice: dict[str, Any] = {"message": {"role": "assistant"}}
    begun = False
    for chunk in chunks:
        answer |= {key: value for key, value in chunk.items() if key != "choices" and value is not None}
        own = chunk.get("x_groq")
        if isinstance(own, dict) and own.get("usage"):
            answer["usage"] = own["usage"]
        for piece in chunk.get("choices") or ():
            if piece.get("index"):
                continue
            begun = True
            _add(choice["message"], piece.get("delta") or piece.get("message") or {})
            _add(choice, {key: value for key, value in piece.items() if key not in ("delta", "message", "index")})
    if not begun and not done and chunks:
        keys = ", ".join(dict.fromkeys(key for chunk in chunks for key in chunk))
        raise AttemptFailed("bad_response", f"the stream is of no known API: its events have the keys {keys}")
    if not done and not choice.get("finish_reason"):
        raise AttemptFailed("bad_response", "the stream ended before the answer was complete")
    for call in choice["message"].get("tool_calls", ()):
        call.pop("index", None)  # of the stream
    return {**answer, "object": "chat.completion", "choices": [choice] if begun else []}


def _add(to: dict[str, Any], delta: dict[str, Any]) -> None:
    """Add a delta to what has come: pieces of text and lists grow, objects too, anything else is replaced."""
    for key, value in delta.items():
        known = to.get(key)
        if value is None:
            continue
        if key in ("tool_calls", "reasoning_details") and isinstance(value, list):
            to[key] = _joined(known if isinstance(known, list) else [], value)
        elif isinstance(value, dict) and isinstance(known, dict):
            _add(known, value)
        elif isinstance(value, list) and isinstance(known, list):
            _extend(known, value)
        elif isinstance(value, list) and isinstance(known, str) and key == "content":
            to[key] = [*([{"type": "text", "text": known}] if known else []), *value]
        elif isinstance(value, str) and isinstance(known, list) and key == "content":
            known.extend([{"type": "text", "text": value}] if value else [])
        elif isinstance(value, str) and isinstance(known, str) and key not in NAMES and key != "finish_reason":
            to[key] = known + value
        elif value != "" or known is None:
            to[key] = value


def _extend(known: list[Any], pieces: list[Any]) -> None:
    """Add parts to those that have come; Mistral sends a thought in many `thinking` parts."""
    for piece in pieces:
        last = known[-1] if known else None
        if isinstance(piece, dict) and isinstance(last, dict) and piece.get("type") == last.get("type") == "thinking":
            _add(last, piece)
        else:
            known.append(piece)


def _joined(known: list[Any], pieces: list[Any]) -> list[Any]:
    """Tool calls, or details of reasoning, with further pieces: of the same index; without one, a piece with an id is a
    new call and one without goes on."""
    for piece in pieces:
        if not isinstance(piece, dict):
            continue
        index = piece.get("index")
        same = [each for each in known if each.get("index") == index] if index is not None else known[-1:]
        begins = piece.get("id") and (index is None or (same and same[-1].get("id") not in (None, "", piece["id"])))
        if same and not begins:
            _add(same[-1], piece)
        else:
            known.append(piece)
    return known
