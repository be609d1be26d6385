"""A loopback endpoint: OpenAI's Responses and Chat API on 127.0.0.1, with a schedule of faults.

In a test:

    with serving(faults=["429", None]) as server:      # the first request fails, the second succeeds
        make("m", base_url=server.url, ...)
    assert [entry["status"] for entry in server.log] == [429, 200]

As a process of its own: `python tests/loopback.py --port 0 --faults 429:0.02,reset:100 --latency 0.1` prints its
address. `GET /log` gives what was answered, `GET /seen` the number of requests.

What it answers: if tools are offered and none has answered yet, a call of the first tool with arguments that fit its
schema; else `Answer: ` and the last text that it was sent. Tokens are words.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson
from aiohttp import web

JSON_TYPE = {"Content-Type": "application/json"}


Reply = tuple[int, dict[str, str], bytes]
"""A whole reply: status, headers, body."""


def _error(status: int, message: str, code: str | None = None, **headers: str) -> Reply:
    body = {"error": {"message": message, "type": "loopback", "param": None, "code": code}}
    return (
        status,
        {**JSON_TYPE, **{name.replace("_", "-"): value for name, value in headers.items()}},
        orjson.dumps(body),
    )


REPLIES: dict[str, Reply] = {
    "400": _error(400, "no such parameter", "unknown_parameter"),
    "401": _error(401, "the key is wrong", "invalid_api_key"),
    "404": _error(404, "no such model", "model_not_found"),
    "408": _error(408, "too slow"),
    "context": _error(400, "This model's maximum context length is 8 tokens.", "context_length_exceeded"),
    "quota": _error(429, "You exceeded your current quota.", "insufficient_quota"),
    "429": _error(429, "slow down", "rate_limit_exceeded"),
    "429-after": _error(429, "slow down", "rate_limit_exceeded", retry_after="2"),
    "429-after-ms": _error(429, "slow down", "rate_limit_exceeded", retry_after_ms="1500"),
    "500": _error(500, "it broke", "server_error"),
    "500-final": _error(500, "it broke for good", "server_error", x_should_retry="false"),
    "503": _error(503, "overloaded"),
    "html": (200, {"Content-Type": "text/html"}, b"<html><body>Welcome</body></html>"),
    "html-502": (502, {"Content-Type": "text/html"}, b"<html><body>Bad gateway</body></html>"),
    "error-200": (200, JSON_TYPE, b'{"error": {"message": "it broke", "code": "server_error"}}'),
    "empty": (200, JSON_TYPE, b""),
    "no-answer": (200, JSON_TYPE, b'{"id": "x", "object": "nothing"}'),
    "redirect": (308, {"Location": "https://elsewhere.example/v1"}, b""),
}
"""Faults that are whole replies."""

FAULTS = frozenset(REPLIES) | {"reset", "truncated", "hang", "refuse"}
"""All faults. reset: hang up in the middle of the body. truncated: half of the JSON, as if it were all. hang: never
answer. refuse: hang up at once."""


@dataclass
class Exchange:
    """One request for an answer: the last user text, the key that came with it, when it was read, when it was over, and
    the status delivered in full; None where the client closed the connection first, or was truncated. Times are those
    of `time.monotonic`."""

    key: str
    who: str
    asked: float
    over: float = math.inf
    status: int | None = None


@dataclass
class Loopback:
    """The endpoint: what it is told, and what it has seen.

    answer: the text for the last text that was sent. faults: one for each request in turn (a name, a whole reply, or
    None for none), or a schedule such as `429:0.02,reset:100`: a share of the prompts below 1, else every Nth request.
    latency: seconds. spread: seconds more at most, by the prompt. finish: Chat's finish reason for texts. reasoning:
    what to think first. token_ids: give token ids and log-probs also where nobody asked.
    log: one entry for each answer delivered in full: endpoint, key (the last user text), status, tool (whether it was
    a tool call). exchanges: all requests, with their times. bodies: the requests as received, if kept.
    """

    answer: Callable[[str], str] = "Answer: {}".format
    faults: Sequence[str | Reply | None] | str = ()
    latency: float = 0.0
    spread: float = 0.0
    finish: str = "stop"
    reasoning: str = ""
    token_ids: bool = False
    keep_bodies: bool = True
    url: str = ""
    seen: int = 0
    log: list[dict[str, Any]] = field(default_factory=list)
    exchanges: list[Exchange] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    failed: set[tuple[str, str]] = field(default_factory=set)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """One request."""
        if request.method == "GET":
            return web.json_response(self.log if request.path == "/log" else {"seen": self.seen})
        number, self.seen = self.seen, self.seen + 1
        body = orjson.loads(await request.content.read())  # request.read() would refuse more than 1 MB
        if self.keep_bodies:
            self.bodies.append(body)
            self.headers.append(dict(request.headers))
        endpoint, messages = self._asked(request.path, body)
        key = next((_text(m["content"]) for m in reversed(messages) if m.get("role") == "user"), "")
        exchange = Exchange(key, request.headers.get("Authorization", ""), time.monotonic())
        self.exchanges.append(exchange)
        try:
            response = await self._answer(request, number, body, endpoint, messages, key)
            if isinstance(response, web.Response) and response.prepared:  # else it was truncated
                exchange.status = response.status
            return response
        finally:
            exchange.over = time.monotonic()

    async def _answer(
        self,
        request: web.BaseRequest,
        number: int,
        body: dict[str, Any],
        endpoint: str,
        messages: list[dict[str, Any]],
        key: str,
    ) -> web.StreamResponse:
        if self.latency or self.spread:
            await asyncio.sleep(self.latency + self.spread * _hash(key))
        fault = self._fault(number, key)
        entry = {"endpoint": endpoint, "key": key, "status": 200, "tool": False}
        if isinstance(fault, tuple) or fault in REPLIES:
            status, headers, data = fault if isinstance(fault, tuple) else REPLIES[fault]
            return await self._deliver(request, status, headers, data, {**entry, "status": status})
        if fault == "hang":
            await asyncio.sleep(3600)
        transport = request.transport
        assert transport is not None
        if fault == "refuse":
            transport.abort()
            return web.Response()
        reply, entry["tool"] = self._reply(endpoint, body, messages)
        data = orjson.dumps(reply)
        if fault == "truncated":
            return await self._deliver(request, 200, JSON_TYPE, data[: len(data) // 2], entry)
        if fault == "reset":
            response = web.StreamResponse(headers={**JSON_TYPE, "Content-Length": str(len(data))})
            await response.prepare(request)
            await response.write(data[: len(data) // 2])
            transport.close()
            return response
        return await self._deliver(request, 200, JSON_TYPE, data, entry)

    def _asked(self, path: str, body: dict[str, Any]) -> tuple[str, list[dict[str, Any]]]:
        """The endpoint and the messages that a request holds."""
        if path.endswith("/chat/completions"):
            return "chat", body["messages"]
        return "responses", _messages(body["input"])

    async def _deliver(
        self, request: web.BaseRequest, status: int, headers: dict[str, str], data: bytes, entry: dict[str, Any]
    ) -> web.StreamResponse:
        response = web.Response(status=status, headers=headers, body=data)
        await response.prepare(request)
        await response.write_eof()
        self.log.append(entry)
        return response

    def _fault(self, number: int, key: str) -> str | Reply | None:
        if not isinstance(self.faults, str):
            return self.faults[number] if number < len(self.faults) else None
        for part in filter(None, self.faults.split(",")):
            name, _, often = part.partition(":")
            rate = float(often or 1)
            if rate < 1:
                # A share of the prompts, and not again when the same prompt comes back.
                if _hash(f"{name} {key}") < rate and (name, key) not in self.failed:
                    self.failed.add((name, key))
                    return name
            elif (number + 1) % int(rate) == 0:
                return name
        return None

    def _reply(
        self, endpoint: str, body: dict[str, Any], messages: list[dict[str, Any]]
    ) -> tuple[dict[str, Any], bool]:
        """The answer, and whether it is a tool call."""
        last = messages[-1]
        prompt = " ".join(_text(message["content"]) for message in messages)
        called = body.get("tools") and last.get("role") != "tool"
        text, name, arguments = "", "", ""
        if called:
            function = body["tools"][0].get("function") or body["tools"][0]
            name, arguments = function["name"], json.dumps(arguments_for(function.get("parameters") or {}))
        else:
            text = self.answer(_text(last["content"]))
        words = (text or f"{name} {arguments}").split()
        thought = self.reasoning.split()
        usage = {"in": len(prompt.split()), "out": len(words) + len(thought), "thought": len(thought)}
        tokens: dict[str, Any] = {}
        if self.token_ids or body.get("return_token_ids"):
            tokens = {
                "prompt_token_ids": [zlib.crc32(word.encode()) % 50000 for word in prompt.split()],
                "generation_token_ids": [zlib.crc32(word.encode()) % 50000 for word in words],
                "generation_log_probs": [-0.5 - i / 8 for i in range(len(words))],
            }
        shape = self._chat if endpoint == "chat" else self._responses
        return shape(body["model"], text, name, arguments, usage, tokens), bool(called)

    def _chat(
        self, model: str, text: str, name: str, arguments: str, usage: dict[str, int], tokens: dict[str, Any]
    ) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": text or None, "refusal": None}
        if self.reasoning:
            message["reasoning_content"] = self.reasoning
        if name:
            function = {"name": name, "arguments": arguments}
            message["tool_calls"] = [{"id": f"call_{self.seen}", "type": "function", "function": function}]
        choice: dict[str, Any] = {
            "index": 0,
            "message": message,
            "finish_reason": "tool_calls" if name else self.finish,
        }
        reply: dict[str, Any] = {
            "id": f"chatcmpl-{self.seen}",
            "object": "chat.completion",
            "created": 1,
            "model": model,
            "choices": [choice],
            "usage": {
                "prompt_tokens": usage["in"],
                "completion_tokens": usage["out"],
                "total_tokens": usage["in"] + usage["out"],
                "prompt_tokens_details": {"cached_tokens": 1},
                "completion_tokens_details": {"reasoning_tokens": usage["thought"]},
            },
        }
        if tokens:
            reply["prompt_token_ids"] = tokens["prompt_token_ids"]
            choice["token_ids"] = tokens["generation_token_ids"]
            log_probs = tokens["generation_log_probs"]
            choice["logprobs"] = {"content": [{"token": "t", "logprob": p, "top_logprobs": []} for p in log_probs]}
        return reply

    def _responses(
        self, model: str, text: str, name: str, arguments: str, usage: dict[str, int], tokens: dict[str, Any]
    ) -> dict[str, Any]:
        output: list[dict[str, Any]] = []
        if self.reasoning:
            summary = [{"type": "summary_text", "text": self.reasoning}]
            output.append({"type": "reasoning", "id": f"rs_{self.seen}", "summary": summary})
        if name:
            call = {"type": "function_call", "id": f"fc_{self.seen}", "call_id": f"call_{self.seen}"}
            output.append({**call, "name": name, "arguments": arguments, "status": "completed"})
        else:
            part = {"type": "output_text", "text": text, "annotations": []}
            message = {"type": "message", "id": f"msg_{self.seen}", "role": "assistant"}
            output.append({**message, "status": "completed", "content": [part]})
        output[-1].update(tokens)
        why = {"length": "max_output_tokens", "content_filter": "content_filter"}.get("" if name else self.finish)
        return {
            "id": f"resp_{self.seen}",
            "object": "response",
            "created_at": 1,
            "status": "incomplete" if why else "completed",
            "error": None,
            "incomplete_details": {"reason": why} if why else None,
            "model": model,
            "output": output,
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": [],
            "usage": {
                "input_tokens": usage["in"],
                "input_tokens_details": {"cached_tokens": 1, "cache_write_tokens": 0},
                "output_tokens": usage["out"],
                "output_tokens_details": {"reasoning_tokens": usage["thought"]},
                "total_tokens": usage["in"] + usage["out"],
            },
        }


def arguments_for(schema: dict[str, Any]) -> Any:
    """A value that fits a JSON schema: for an object its required properties, else all."""
    if schema.get("enum"):
        return schema["enum"][0]
    kind = schema.get("type", "object" if "properties" in schema else "string")
    if kind == "object":
        properties = schema.get("properties") or {}
        return {name: arguments_for(properties.get(name) or {}) for name in schema.get("required") or properties}
    return {"integer": 1, "number": 1.5, "boolean": True, "array": [], "null": None}.get(kind, "a word")


def _messages(items: Any) -> list[dict[str, Any]]:
    """Responses items as role and content, so that both endpoints read their prompts alike."""
    if isinstance(items, str):
        return [{"role": "user", "content": items}]
    read = []
    for item in items:
        if item.get("type") == "function_call_output":
            read.append({"role": "tool", "content": item["output"]})
        elif "content" in item and item.get("type") != "reasoning":
            read.append({"role": item["role"], "content": item["content"]})
    return read


def _text(content: Any) -> str:
    if isinstance(content, list):
        return "".join(part.get("text", "") for part in content)
    return content or ""


def _hash(text: str) -> float:
    return zlib.crc32(text.encode()) / 2**32


async def _listen(server: Loopback, port: int) -> web.ServerRunner:
    web_server = web.Server(server.handle, access_log=None, handler_cancellation=True)
    runner = web.ServerRunner(web_server, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port, backlog=4096)
    await site.start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    return runner


@contextmanager
def serving(kind: type[Loopback] = Loopback, **reported: Any) -> Iterator[Any]:
    """A Loopback in a thread of its own, for the length of a `with`. The arguments are its fields."""
    server = kind(**reported)
    loop = asyncio.new_event_loop()
    runner = loop.run_until_complete(_listen(server, 0))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--faults", default="")
    parser.add_argument("--latency", type=float, default=0.0)
    reported = parser.parse_args()

    async def run() -> None:
        server = Loopback(faults=reported.faults, latency=reported.latency, keep_bodies=False)
        await _listen(server, reported.port)
        print(server.url, flush=True)
        await asyncio.Event().wait()

    asyncio.run(run())


if __name__ == "__main__":
    main()
