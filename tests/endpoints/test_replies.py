"""Replies of other shapes than a whole Chat completion: each is read whole, or fails with its true reason."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from rolloutops.errors import AttemptFailed
from rolloutops.formats.openai_replies import read_responses
from tests.helpers import query, rolloutops, write_jsonl
from tests.loopback import Loopback, serving

TOOL = {"name": "search_document", "arguments": {"query": "code"}}


def chunk(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    """A chunk of a Chat completion."""
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return {"object": "chat.completion.chunk", "model": "m", "choices": [choice]}


def ollama(text: str, *, done: bool = False, **more: Any) -> dict[str, Any]:
    """A message of Ollama's own API."""
    said = {"model": "m", "message": {"role": "assistant", "content": text, **more}, "done": done}
    return {**said, "done_reason": "stop", "prompt_eval_count": 5, "eval_count": 7} if done else said


def lines(*rows: dict[str, Any]) -> str:
    """JSON objects, one a line."""
    return "".join(json.dumps(row) + "\n" for row in rows)


def events(*rows: dict[str, Any]) -> str:
    """A stream of server-sent events."""
    return "".join(f"data: {json.dumps(row)}\n\n" for row in rows) + "data: [DONE]\n\n"


def thought(text: str) -> dict[str, Any]:
    """A piece of Mistral's reasoning."""
    return chunk({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": text}]}]})


WHOLE = json.dumps({"choices": [{"index": 0, "message": {"content": "42"}, "finish_reason": "stop"}]})
READ = {
    "chunks_as_lines": lines(chunk({"content": "4"}), chunk({"content": "2"}), chunk({}, "stop")),
    "ollama_lines": lines(ollama("4"), ollama("2"), ollama("", done=True)),
    "ollama_tools": json.dumps(ollama("", done=True, tool_calls=[{"function": TOOL}]), indent=1),
    "text_completion": json.dumps({"choices": [{"index": 0, "text": "42", "finish_reason": "stop"}]}),
    "text_stream": events({"choices": [{"index": 0, "text": "4"}]}, {"choices": [{"index": 0, "text": "2"}]}),
    "thoughts": events(thought("I "), thought("think."), chunk({"content": "42"}), chunk({}, "stop")),
    "in_a_list": f"[{WHOLE}]",
    "arguments_with_done": json.dumps(
        {
            "choices": [
                {"message": {"tool_calls": [{"function": {**TOOL, "arguments": {"query": "code", "done": True}}}]}}
            ]
        }
    ),
}
FAILED = {
    "ollama_cut": (lines(ollama("4"), ollama("2")), "the stream ended before"),
    "ollama_error": (lines(ollama("4"), {"error": "the runner stopped"}), "the runner stopped"),
    "two_answers": (lines(json.loads(WHOLE), json.loads(WHOLE)), "2 lines of JSON and no chunk"),
    "an_error": (
        json.dumps({"object": "error", "message": "The model is overloaded", "code": 503}),
        "503: The model is",
    ),
    "a_detail": (json.dumps({"detail": "No such deployment"}), "No such deployment"),
    "no_message": (json.dumps({"choices": [{"index": 0}]}), "has no message"),
    "other_events": (events({"type": "message_start", "message": {}}).replace("data: [DONE]\n\n", ""), "type, message"),
    "another_api": (json.dumps({"type": "message", "content": []}), "it has the keys type, content"),
}


@dataclass
class Odd(Loopback):
    """An endpoint that answers the first word of a prompt with that reply; once a tool answered, as usual."""

    sent: dict[str, list[Any]] = field(default_factory=lambda: defaultdict(list))

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """One request."""
        messages = json.loads(await request.content.read())["messages"]
        kind = messages[0]["content"].split()[0]
        self.sent[kind].append(messages)
        text = WHOLE if len(messages) > 1 else READ.get(kind) or FAILED[kind][0]
        return web.Response(text=text, headers={"Content-Type": "application/json"})


def test_each_reply_is_read_whole_or_fails_with_its_reason(tmp_path: Path) -> None:
    rows = [{"id": k, "prompt": f"{k} ?", "document": ["code"], "expected_answer": ["42"]} for k in (*READ, *FAILED)]
    write_jsonl(tmp_path / "tasks.jsonl", rows)
    with serving(Odd) as server:
        rolloutops(
            *("collect", "--input=tasks.jsonl", "--data=w", "--environment=multi_step", "--engine=openai", "--model=m"),
            *(f"--base_url={server.url}", "--endpoint=chat", "--num_repeats=1", "--max_attempts=1", "--max_given_up=1"),
            cwd=tmp_path,
        )
    read = query(tmp_path / "w", "SELECT row->>'id', text, tool_errors, response, completion FROM rollouts")
    assert {name: (text, errors) for name, text, errors, *_ in read} == dict.fromkeys(READ, ("42", 0))
    assert all(json.loads(response) for *_, response, _ in read)
    said = {name: json.loads(completion) for name, *_, completion in read}
    assert said["thoughts"] == [{"role": "assistant", "content": "42", "reasoning_content": "I think."}]
    assert len(server.sent["ollama_tools"]) == len(server.sent["arguments_with_done"]) == 2
    failed = dict(
        query(
            tmp_path / "w", "SELECT t.row->>'id', error_message FROM failures JOIN tasks AS t USING (dataset, task_id)"
        )
    )
    assert failed.keys() == FAILED.keys()
    assert not [(name, why) for name, why in failed.items() if FAILED[name][1] not in why]


@dataclass
class Several(Odd):
    """An address before several servers: one refuses a message with reasoning, another one without."""

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """One request."""
        messages = json.loads(await request.content.read())["messages"]
        kind = messages[0]["content"].split()[0]
        self.sent[kind].append(messages)
        made = {"role": "assistant", "reasoning_content": "I look.", "tool_calls": [{"function": TOOL}]}
        if len(messages) == 1:
            return web.json_response({"choices": [{"message": made}]})
        thinks = "reasoning_content" in messages[1]
        why = {True: "messages.1.reasoning_content: Extra inputs are not permitted, only required ones"}
        why |= {False: "The `reasoning_content` in the thinking mode must be passed back to the API."}
        if thinks == (kind == "refuses"):
            return web.json_response({"error": {"message": why[thinks]}}, status=400)
        return web.Response(text=WHOLE)


def test_a_field_that_one_server_refuses_goes_to_another_that_demands_it(tmp_path: Path) -> None:
    kinds = ("refuses", "demands")
    rows = [{"id": k, "prompt": f"{k} ?", "document": ["code"], "expected_answer": ["42"]} for k in kinds]
    write_jsonl(tmp_path / "tasks.jsonl", rows)
    with serving(Several) as server:
        rolloutops(
            *("collect", "--input=tasks.jsonl", "--data=w", "--environment=multi_step", "--engine=openai", "--model=m"),
            *(f"--base_url={server.url}", "--endpoint=chat", "--num_repeats=3", "--num_samples_in_parallel=1"),
            cwd=tmp_path,
        )
    found = query(tmp_path / "w", "SELECT text, finish_reason, count(*) FROM rollouts GROUP BY ALL")
    assert found == [("42", "stop", 6)]


def test_pieces_of_text_are_read_where_the_response_does_not_repeat_them() -> None:
    done = {"id": "r", "status": "completed", "output": []}
    text = [{"type": "response.output_text.delta", "delta": piece} for piece in ("4", "2")]
    end = {"type": "response.completed", "response": done}
    assert read_responses(events(*text, end).encode()).message["content"] == "42"
    call = {"type": "response.function_call_arguments.delta", "delta": "{"}
    with pytest.raises(AttemptFailed, match="hold an answer that its response lacks"):
        read_responses(events(call, end).encode())
