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
from rolloutops.formats.openai_requests import chat_body, responses_body
from rolloutops.types import ModelCall
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


def anthropic(*pieces: tuple[str, str, str], stop: str | None = "end_turn") -> str:
    """A stream of Anthropic's Messages API: the type of each block, of its delta, and a piece of it."""
    start = {"id": "msg", "type": "message", "role": "assistant", "model": "claude", "content": [], "stop_reason": None}
    rows: list[dict[str, Any]] = [{"type": "message_start", "message": {**start, "usage": {"input_tokens": 5}}}]
    kinds = list(dict.fromkeys(kind for kind, *_ in pieces))
    for place, kind in enumerate(kinds):
        empty = {"tool_use": {"id": "toolu_1", "name": TOOL["name"], "input": {}}, "text": {"text": ""}}
        block = {"type": kind, **empty.get(kind, {"thinking": "", "signature": ""})}
        rows += [{"type": "content_block_start", "index": place, "content_block": block}, {"type": "ping"}]
        for of, delta, text in pieces:
            key = "partial_json" if delta == "input_json_delta" else delta.removesuffix("_delta")
            one = {"type": "content_block_delta", "index": place, "delta": {"type": delta, key: text}}
            rows += [one] if of == kind else []
        rows.append({"type": "content_block_stop", "index": place})
    if stop:
        ended = {"stop_reason": stop, "stop_sequence": None}
        rows += [{"type": "message_delta", "delta": ended, "usage": {"output_tokens": 7}}, {"type": "message_stop"}]
    return "".join(f"event: {row['type']}\ndata: {json.dumps(row)}\n\n" for row in rows)


def gemini(*parts: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    """A piece of what Gemini's streamGenerateContent answers."""
    content = {"content": {"role": "model", "parts": list(parts)}} if parts else {}
    ended = {"finishReason": finish} if finish else {}
    usage = {"promptTokenCount": 5, "candidatesTokenCount": 6, "thoughtsTokenCount": 1}
    return {"candidates": [{**content, **ended, "index": 0}], "usageMetadata": usage, "modelVersion": "gemini"}


OVERLOADED = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
WHOLE = json.dumps({"choices": [{"index": 0, "message": {"content": "42"}, "finish_reason": "stop"}]})
READ = {
    "chunks_as_lines": lines(chunk({"content": "4"}), chunk({"content": "2"}), chunk({}, "stop")),
    "ollama_lines": lines(ollama("4"), ollama("2"), ollama("", done=True)),
    "ollama_tools": json.dumps(ollama("", done=True, tool_calls=[{"function": TOOL}]), indent=1),
    "text_completion": json.dumps({"choices": [{"index": 0, "text": "42", "finish_reason": "stop"}]}),
    "text_stream": events({"choices": [{"index": 0, "text": "4"}]}, {"choices": [{"index": 0, "text": "2"}]}),
    "thoughts": events(thought("I "), thought("think."), chunk({"content": "42"}), chunk({}, "stop")),
    "in_a_list": f"[{WHOLE}]",
    "anthropic_stream": anthropic(("text", "text_delta", "4"), ("text", "text_delta", "2")),
    "anthropic_thought": anthropic(
        ("thinking", "thinking_delta", "I think."),
        ("thinking", "signature_delta", "c2ln"),
        ("text", "text_delta", "42"),
    ),
    "anthropic_tools": anthropic(
        ("tool_use", "input_json_delta", '{"query":'), ("tool_use", "input_json_delta", ' "code"}'), stop="tool_use"
    ),
    "anthropic_message": json.dumps(
        {"type": "message", "role": "assistant", "content": [{"type": "text", "text": "42"}], "stop_reason": "end_turn"}
    ),
    "gemini_array": json.dumps([gemini({"text": "4"}), gemini({"text": "2"}, finish="STOP")], indent=1),
    "gemini_events": events(gemini({"text": "4"}), gemini({"text": "2"}), gemini(finish="STOP")),
    "gemini_thought": json.dumps(
        [
            gemini({"text": "I ", "thought": True}, {"text": "think.", "thought": True}),
            gemini({"text": "42"}, finish="STOP"),
        ]
    ),
    "gemini_tools": json.dumps(
        [gemini({"functionCall": {"name": TOOL["name"], "args": TOOL["arguments"]}}), gemini(finish="STOP")]
    ),
    "gemini_whole": json.dumps(gemini({"text": "42"}, finish="STOP")),
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
    "other_events": (events({"event": "hello", "said": {}}).replace("data: [DONE]\n\n", ""), "event, said"),
    "anthropic_cut": (anthropic(("text", "text_delta", "4"), stop=None), "the stream ended before"),
    "anthropic_error": (
        anthropic(("text", "text_delta", "4"), stop=None) + events(OVERLOADED),
        "529 overloaded_error",
    ),
    "anthropic_refusal": (anthropic(stop="refusal"), "a content filter removed the whole answer"),
    "gemini_cut": (json.dumps([gemini({"text": "4"}), gemini({"text": "2"})]), "the stream ended before"),
    "gemini_error": (json.dumps([gemini({"text": "4"}), {"error": {"code": 503, "message": "Busy"}}]), "503: Busy"),
    "gemini_blocked": (json.dumps([{"promptFeedback": {"blockReason": "SAFETY"}}]), "SAFETY"),
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
    for name in ("thoughts", "anthropic_thought", "gemini_thought"):
        assert said[name] == [{"role": "assistant", "content": "42", "reasoning_content": "I think."}]
    for name in ("ollama_tools", "anthropic_tools", "gemini_tools", "arguments_with_done"):
        assert len(server.sent[name]) == 2
    tokens = "SELECT DISTINCT input_tokens, output_tokens FROM rollouts WHERE turns = 1 AND input_tokens = 5"
    assert query(tmp_path / "w", tokens) == [(5, 7)]
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


def test_a_custom_call_has_free_text(tmp_path: Path) -> None:
    """It is stored as an object that holds the text, and goes back as it came."""
    call = {"id": "c1", "type": "custom", "custom": {"name": TOOL["name"], "input": "find: code"}}
    READ["custom"] = json.dumps({"choices": [{"message": {"tool_calls": [call]}, "finish_reason": "tool_calls"}]})
    write_jsonl(tmp_path / "tasks.jsonl", [{"prompt": "custom ?", "document": ["code"], "expected_answer": ["42"]}])
    try:
        with serving(Odd) as server:
            words = ("--environment=multi_step", "--engine=openai", "--model=m", f"--base_url={server.url}")
            rolloutops("collect", "--input=tasks.jsonl", "--data=w", *words, "--endpoint=chat", cwd=tmp_path)
    finally:
        del READ["custom"]
    assert server.sent["custom"][1][1]["tool_calls"] == [call]
    ((completion,),) = query(tmp_path / "w", "SELECT completion FROM rollouts")
    function = json.loads(completion)[0]["tool_calls"][0]["function"]
    assert function == {"name": TOOL["name"], "arguments": '{"input":"find: code"}'}


def test_custom_tools_are_offered_in_the_form_of_each_endpoint() -> None:
    grammar = {"syntax": "lark", "definition": "start: /x/"}
    flat = {"type": "custom", "name": "edit", "format": {"type": "grammar", **grammar}}
    nested = {"type": "custom", "custom": {"name": "edit", "format": {"type": "grammar", "grammar": grammar}}}
    for tool in (flat, nested):
        call = ModelCall([{"role": "user", "content": "?"}], [tool], {})
        assert chat_body(call, "m")["tools"] == [nested]
        assert responses_body(call, "m")["tools"] == [flat]
