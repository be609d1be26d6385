"""A loopback endpoint with the habits of a real one (`habits.toml`).

What it answers, by the first word of the prompt: `single`, an answer; `tools`, a call of the first tool in each of two
turns, then an answer; `twice`, the same, and both calls have one id; `unread`, a call, then a sample that it cannot
read; `broken`, a call whose arguments are not JSON, then an answer; `stuck`, the same, and the message is refused
whatever it holds; the name of a refusal, that refusal: what ENDS a run when all else was answered, what WAITS
once, then an answer.
"""

from __future__ import annotations

import asyncio
import json
import time
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

from tests.loopback import Loopback

KEY = "habit-key-0123456789"
THOUGHT, ANSWER = "I look it up.", "The code is 42."
SAME = "abcDEF123"
"""The id of two calls; of the form that Mistral takes."""
BROKEN = '{"query": "code'
ENDS = ("unauthorized", "out_of_money")
"""Kinds of refusals that are the run's: it ends, and nothing is given up."""
WAITS = ("rate_limited", "loading", "server_error")
"""Kinds that pass. All others are the prompt's."""
HABITS: dict[str, dict[str, Any]] = tomllib.loads((Path(__file__).parent / "habits.toml").read_text(encoding="utf-8"))


@dataclass
class Endpoint(Loopback):
    """An endpoint with these habits. stream: replies are streamed, whatever was asked for; `cut`: they end too early.
    refused: how often it refused the model's own message. left: first words of prompts that are not answered yet;
    asked: when each of them was."""

    habits: dict[str, Any] = field(default_factory=dict)
    stream: str = ""
    refused: int = 0
    left: set[str] = field(default_factory=set)
    asked: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """One request."""
        if request.method == "GET":
            return web.json_response({"object": "list", "data": [{"id": "m", "object": "model"}]})
        body = json.loads(await request.content.read())
        self.bodies.append(body)
        self.headers.append(dict(request.headers))
        rows = body.get("messages") or body["input"]
        kind = next(text_of(row) for row in rows if row.get("role") == "user").split()[0]
        self.asked[kind].append(time.monotonic())
        while kind_of(kind) in ENDS and self.left:
            await asyncio.sleep(0.01)
        if not (self._is_refused(kind) and kind_of(kind) in WAITS):
            self.left.discard(kind)
        status, text, headers = self._reply(request, body, kind)
        return web.Response(status=status, text=text, headers={"Content-Type": "application/json", **headers})

    def _is_refused(self, kind: str) -> bool:
        """Whether a prompt gets the refusal that it names."""
        return kind in self.habits["refusals"] and (kind_of(kind) not in WAITS or len(self.asked[kind]) == 1)

    def _reply(self, request: web.BaseRequest, body: dict[str, Any], kind: str) -> tuple[int, str, dict[str, str]]:
        refusals = self.habits.get("refusals", {})
        header = self.habits.get("key_header")
        if request.headers.get(header or "Authorization", "") != (KEY if header else f"Bearer {KEY}"):
            return whole(refusals.get("unauthorized", [401, '{"error":"Unauthorized"}']))
        rows = body.get("messages") or body["input"]
        own = [(place, row) for place, row in enumerate(rows) if is_own(row)]
        refusal = next(self._faults(own), None)
        if refusal is None and kind == "stuck" and own:
            refusal = [400, '{"error":{"message":"Invalid messages"}}']
        if refusal is not None:
            self.refused += 1
            return whole(refusal)
        turns = sum(row.get("type", "function_call") == "function_call" for _, row in own if calls(row))
        if self._is_refused(kind):
            return whole(refusals[kind])
        if kind == "unread" and turns:
            return whole(self.habits["unread"][:2])
        call = {"single": False, "tools": turns < 2, "twice": turns < 2}.get(kind, turns < 1 and kind not in refusals)
        make = self._chat_reply if self.habits["api"] == "chat" else self._response
        made = make(body, call, BROKEN if kind in ("broken", "stuck") else '{"query": "code"}')
        if kind == "twice":
            for own in (f"c{len(self.bodies):08d}", f"call_{len(self.bodies)}"):
                made = json.loads(json.dumps(made).replace(own, SAME))
        if self.stream:
            return 200, streamed(made, self.stream == "cut"), {"Content-Type": "text/event-stream"}
        return 200, self.habits.get("prefix", "") + json.dumps(made), {}

    def _faults(self, own: list[tuple[int, dict[str, Any]]]) -> Iterator[list[Any]]:
        """What it refuses of the model's own messages."""
        ids = [call_id for _, row in own for call_id in ids_in(row)]
        if "unique" in self.habits and len(ids) > len(set(ids)):
            yield self.habits["unique"]
        for place, row in own:
            names = set(names_in(row))
            called = bool(calls(row))
            for name in self.habits.get("refuses", ()):
                if name in names:
                    yield filled(self.habits["refusal"], name, place, row)
            for name in self.habits.get("demands", ()) if called else ():
                before = [names_in(each) for at, each in own if at == place - 1]
                if name not in names and name not in {n for each in before for n in each}:
                    yield filled(self.habits["demand"], name, place, row)
            for arguments in calls(row):
                if "arguments" in self.habits and not is_object(arguments):
                    yield self.habits["arguments"]

    def _chat_reply(self, body: dict[str, Any], call: bool, arguments: str) -> dict[str, Any]:
        habits = self.habits
        message: dict[str, Any] = {"role": "assistant", "content": None if call else ANSWER}
        message |= {name: json.loads(value) for name, value in habits.get("message", {}).items()}
        if habits.get("reasoning") == "parts":
            thought = {"type": "thinking", "thinking": [{"type": "text", "text": THOUGHT}]}
            message["content"] = [thought, *([] if call else [{"type": "text", "text": ANSWER}])]
        elif habits.get("reasoning"):
            message[habits["reasoning"]] = THOUGHT
        if call:
            made = {"id": f"c{len(self.bodies):08d}", "type": "function"}
            made |= {name: json.loads(value) for name, value in habits.get("call", {}).items()}
            function = {"name": body["tools"][0]["function"]["name"], "arguments": arguments}
            function |= {name: json.loads(value) for name, value in habits.get("function", {}).items()}
            message["tool_calls"] = [{**made, "function": function}]
        finish = "tool_calls" if call else habits.get("finish", "stop")
        choice = {"index": 0, "message": message, "finish_reason": finish, "logprobs": None}
        usage = {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}
        return {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}

    def _response(self, body: dict[str, Any], call: bool, arguments: str) -> dict[str, Any]:
        number = len(self.bodies)
        items: list[dict[str, Any]] = [
            {"type": "reasoning", "id": f"rs_{number}", "summary": [{"type": "summary_text", "text": THOUGHT}]}
        ]
        if call:
            made = {"type": "function_call", "id": f"fc_{number}", "call_id": f"call_{number}", "status": "completed"}
            items.append({**made, "name": body["tools"][0]["name"], "arguments": arguments})
        else:
            part = {"type": "output_text", "text": ANSWER, "annotations": [], "logprobs": []}
            items.append(
                {
                    "type": "message",
                    "id": f"msg_{number}",
                    "role": "assistant",
                    "status": "completed",
                    "content": [part],
                }
            )
        usage = {"input_tokens": 5, "output_tokens": 7, "total_tokens": 12}
        made = {"id": "r", "object": "response", "created_at": 1, "model": "m", "error": None, "usage": usage}
        return {**made, "status": "completed", "incomplete_details": None, "output": items}


def streamed(reply: dict[str, Any], cut: bool) -> str:
    """A reply as server-sent events: pieces of its texts, then how it ended."""
    if reply["object"] == "response":
        events = [{"type": "response.created", "response": {**reply, "status": "in_progress", "output": []}}]
        events += [{"type": "response.output_item.done", "item": item} for item in reply["output"]]
        ends = [{"type": "response.completed", "response": reply}]
    else:
        choice = reply["choices"][0]
        deltas = [{"role": "assistant", "content": ""}]
        for name, value in choice["message"].items():
            if name == "tool_calls":
                for number, call in enumerate(value):
                    function = call["function"]
                    deltas.append({name: [{**call, "index": number, "function": {**function, "arguments": ""}}]})
                    deltas += [{name: [{"index": number, "function": {"arguments": c}}]} for c in function["arguments"]]
            elif isinstance(value, str) and name != "role":
                deltas += [{name: letter} for letter in value]
            elif name != "role":
                deltas.append({name: value})
        plain = {key: value for key, value in reply.items() if key not in ("choices", "usage")}
        plain["object"] = "chat.completion.chunk"
        events = [{**plain, "choices": [{"index": 0, "delta": each, "finish_reason": None}]} for each in deltas]
        ends = [{**plain, "choices": [{"index": 0, "delta": {}, "finish_reason": choice["finish_reason"]}]}]
        ends.append({**plain, "choices": [], "usage": reply["usage"]})
    lines = [": PROCESSING", *("data: " + json.dumps(event) for event in [*events, *([] if cut else ends)])]
    return "\n\n".join([*lines, *([] if cut else ["data: [DONE]"]), ""])


def kind_of(name: str) -> str:
    """The kind of a refusal: its name without that of the variant."""
    return name.partition("-")[0]


def whole(refusal: list[Any]) -> tuple[int, str, dict[str, str]]:
    """A refusal of the table as status, body and headers."""
    return refusal[0], refusal[1], refusal[2] if len(refusal) > 2 else {}


def filled(refusal: list[Any], name: str, place: int, row: dict[str, Any]) -> list[Any]:
    """A refusal that names a field, its message and the item's id."""
    text = refusal[1].replace("{field}", name).replace("{place}", str(place)).replace("{id}", str(row.get("id")))
    return [refusal[0], text]


def is_own(row: dict[str, Any]) -> bool:
    """Whether a message or item of a request is the model's own."""
    return row["role"] == "assistant" if "role" in row else not row["type"].endswith("_output")


def calls(row: dict[str, Any]) -> list[str]:
    """The arguments of the tool calls in a message or an item."""
    if row.get("type") == "function_call":
        return [row["arguments"]]
    return [call["function"]["arguments"] for call in row.get("tool_calls") or ()]


def ids_in(row: dict[str, Any]) -> list[str]:
    """The ids of the tool calls in a message or an item."""
    return [call["id"] for call in row.get("tool_calls") or ()] + ([row["call_id"]] if "call_id" in row else [])


def names_in(row: dict[str, Any]) -> Iterator[str]:
    """Fields of a message, of its tool calls and of its parts; types of parts and items."""
    yield from row
    yield str(row.get("type"))
    for call in row.get("tool_calls") or ():
        yield from call
    for part in row["content"] if isinstance(row.get("content"), list) else ():
        yield from (str(part.get("type")), *part)


def is_object(arguments: str) -> bool:
    """Whether arguments are a JSON object."""
    try:
        return isinstance(json.loads(arguments), dict)
    except ValueError:
        return False


def text_of(row: dict[str, Any]) -> str:
    """The text of a user's message."""
    content = row["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
