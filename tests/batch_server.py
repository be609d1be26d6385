"""A loopback provider of batches: OpenAI's Files and Batches API on 127.0.0.1, with faults. It counts what is paid.

    with serving() as server:
        ...collect with base_url = server.url...
    assert server.paid == Counter({"What is 1 + 1?": 1})

Only the making of a batch costs: each request of it that is carried out is paid. A request's fate is asked of `fate`,
with the last text that it was sent:

    ok          a line in the output file
    missing     no line anywhere                    expired    a batch_expired line in the error file, not paid
    error       status 500, in the error file       refused    status 400, in the error file, not paid
    twice       two lines in the output file        cut        a line that is not JSON
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

REFUSALS = {
    **{"error": (500, None), "refused": (400, None), "forbidden": (403, None)},
    **{"filtered": (400, "content_filter"), "unpaid": (429, "insufficient_quota")},
}
"""Fates of a request -> the status and code of its answer."""

STEPS = ("upload", "create", "list", "look", "download")


@dataclass
class BatchServer:
    """The provider: what it is told, and what it has seen.

    fate: what becomes of a request. status: how batches end. looks: how often a batch is looked at before it has ended.
    refusals: for each batch in turn, the errors of its validation, or None. room: requests that may be enqueued.
    faults: (step, fault) in the order in which they are due: `500`, `429`, `401`, `reset` (all instead of doing it),
    `500-done` and `reset-done` (after doing it), `kill` and `kill-done` (SIGKILL to the process `victim`).
    unlisted: how many lists leave the newest batch out. page: batches in one page of a list.
    paid: prompt -> how often. log: the steps, in order.
    """

    fate: Callable[[str], str] = lambda prompt: "ok"
    answer: Callable[[str], str] = "The answer is {}".format
    status: str = "completed"
    looks: int = 0
    refusals: Sequence[list[dict[str, Any]] | None] = ()
    room: int | None = None
    faults: list[tuple[str, str]] = field(default_factory=list)
    victim: int = 0
    unlisted: int = 0
    page: int = 2
    url: str = ""
    paid: Counter[str] = field(default_factory=Counter)
    log: list[str] = field(default_factory=list)
    files: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    batches: dict[str, dict[str, Any]] = field(default_factory=dict)
    keys: set[str] = field(default_factory=set)
    headers: list[dict[str, str]] = field(default_factory=list)

    def app(self) -> web.Application:
        """The routes."""
        app = web.Application(client_max_size=2**30)
        app.add_routes(
            [
                web.post("/v1/files", self._faulty("upload", self.upload)),
                web.get("/v1/files/{id}/content", self._faulty("download", self.download)),
                web.post("/v1/batches", self._faulty("create", self.create)),
                web.get("/v1/batches", self._faulty("list", self.list)),
                web.get("/v1/batches/{id}", self._faulty("look", self.look)),
            ]
        )
        return app

    def _faulty(self, step: str, handle: Any) -> Any:
        async def handler(request: web.Request) -> web.StreamResponse:
            self.log.append(step)
            self.headers.append(dict(request.headers))
            fault = ""
            if self.faults and self.faults[0][0] == step:
                fault = self.faults.pop(0)[1]
            if fault.endswith("-done"):
                await handle(request)
            kind = fault.removesuffix("-done")
            if kind == "kill":
                os.kill(self.victim, signal.SIGKILL)
            if kind in ("kill", "reset"):
                assert request.transport is not None
                request.transport.abort()
                return web.Response()
            if kind:
                error = {"message": f"made to fail: {kind} sk-secret-of-the-test", "type": "test", "code": None}
                return web.json_response({"error": error}, status=int(kind))
            return await handle(request)

        return handler

    async def upload(self, request: web.Request) -> web.Response:
        """POST /files"""
        form = await request.post()
        sent = form["file"]
        assert form["purpose"] == "batch"
        assert isinstance(sent, web.FileField)
        return web.json_response(self._file(sent.filename, sent.file.read(), "batch"))

    def _file(self, name: str, data: bytes, purpose: str) -> dict[str, Any]:
        file_id = f"file-{len(self.files):04d}"
        self.files[file_id] = (name, data)
        reported = {"id": file_id, "object": "file", "bytes": len(data), "created_at": 1, "filename": name}
        return {**reported, "purpose": purpose, "status": "processed"}

    async def create(self, request: web.Request) -> web.Response:
        """POST /batches"""
        requested = await request.json()
        if requested["input_file_id"] not in self.files:
            return web.json_response({"error": {"message": "no such file", "code": "not_found"}}, status=404)
        number = len(self.batches)
        batch_id = f"batch_{number:04d}"
        batch = {
            **{"id": batch_id, "object": "batch", "endpoint": requested["endpoint"], "completion_window": "24h"},
            **{
                "input_file_id": requested["input_file_id"],
                "metadata": requested.get("metadata"),
                "status": "validating",
            },
            **{"created_at": 1_000_000 + number, "looks": 0, "hidden": self.unlisted},
        }
        lines = [json.loads(line) for line in self.files[requested["input_file_id"]][1].splitlines()]
        errors = self.refusals[number] if number < len(self.refusals) else self._validate(lines, requested["endpoint"])
        batch["waiting"] = [] if errors else lines
        if errors:
            batch["refusal"] = {"object": "list", "data": errors}
        else:
            self._carry_out(batch, lines)
        self.batches[batch_id] = batch
        return web.json_response(self._shown(batch))

    def _validate(self, lines: list[dict[str, Any]], endpoint: str) -> list[dict[str, Any]]:
        errors, seen, models = [], set(), {line["body"]["model"] for line in lines}
        for number, line in enumerate(lines, 1):
            if line["custom_id"] in seen or len(line["custom_id"]) > 64:
                errors.append({"code": "duplicate_custom_id", "message": "not unique", "line": number})
            seen.add(line["custom_id"])
            if line["url"] != endpoint or line["method"] != "POST":
                errors.append({"code": "invalid_url", "message": "another endpoint", "line": number})
        if len(models) > 1:
            errors.append({"code": "mismatched_model", "message": "more than one model", "line": None})
        enqueued = sum(len(batch["waiting"]) for batch in self.batches.values() if not self._has_ended(batch))
        if self.room is not None and enqueued + len(lines) > self.room:
            errors.append({"code": "token_limit_exceeded", "message": "Enqueued token limit reached", "line": None})
        return errors

    def _carry_out(self, batch: dict[str, Any], lines: list[dict[str, Any]]) -> None:
        output, errors = [], []
        for line in reversed(lines):
            prompt = _prompt(line["body"])
            fate = self.fate(prompt)
            if fate in ("ok", "twice", "cut", "error"):
                self.paid[prompt] += 1
            head = {"id": f"batch_req_{len(output)}", "custom_id": line["custom_id"]}
            if fate in ("ok", "twice"):
                body = self._answer(line["body"], prompt)
                text = json.dumps(
                    {**head, "response": {"status_code": 200, "request_id": "r", "body": body}, "error": None}
                )
                output += [text] * (2 if fate == "twice" else 1)
            elif fate == "cut":
                output.append(json.dumps(head)[:-5])
            elif fate in REFUSALS:
                status, code = REFUSALS[fate]
                said = {"error": {"message": f"it was {fate}", "code": code}}
                response = {"status_code": status, "request_id": "r", "body": said}
                errors.append(json.dumps({**head, "response": response, "error": None}))
            elif fate == "expired":
                error = {"code": "batch_expired", "message": "the completion window expired"}
                errors.append(json.dumps({**head, "response": None, "error": error}))
        output.append(json.dumps({"id": "x", "custom_id": "somebody else's", "response": None, "error": None}))
        batch["counts"] = {"total": len(lines), "completed": len(output) - 1, "failed": len(errors)}
        batch["output"] = self._file("output.jsonl", "\n".join(output).encode(), "batch_output")["id"]
        batch["errors_file"] = None
        if errors:
            batch["errors_file"] = self._file("errors.jsonl", "\n".join(errors).encode(), "batch_output")["id"]

    def _answer(self, body: dict[str, Any], prompt: str) -> dict[str, Any]:
        text, tools = self.answer(prompt), body.get("tools")
        if "messages" in body:
            message: dict[str, Any] = {"role": "assistant", "content": text}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            usage = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}
            return {"id": "c", "object": "chat.completion", "model": body["model"], "choices": [choice], "usage": usage}
        item: dict[str, Any] = {"type": "message", "id": "m", "role": "assistant", "status": "completed"}
        item["content"] = [{"type": "output_text", "text": text, "annotations": []}]
        if tools:
            item = {"type": "function_call", "call_id": "call_1", "name": tools[0]["name"], "arguments": '{"a": 1}'}
        usage = {"input_tokens": 5, "output_tokens": 3, "total_tokens": 8, "cost": 1e-05}
        reported = {"id": "r", "object": "response", "status": "completed", "model": body["model"], "output": [item]}
        return {**reported, "usage": usage}

    async def list(self, request: web.Request) -> web.Response:
        """GET /batches"""
        shown = []
        for batch in reversed(self.batches.values()):
            if batch["hidden"] > 0:
                batch["hidden"] -= 1
            else:
                shown.append(batch)
        after = request.query.get("after")
        if after:
            shown = shown[[batch["id"] for batch in shown].index(after) + 1 :]
        page = shown[: min(self.page, int(request.query.get("limit", "20")))]
        reported = {
            "object": "list",
            "data": [self._shown(batch) for batch in page],
            "has_more": len(page) < len(shown),
        }
        return web.json_response(reported)

    async def look(self, request: web.Request) -> web.Response:
        """GET /batches/ID"""
        batch = self.batches.get(request.match_info["id"])
        if batch is None:
            return web.json_response({"error": {"message": "no such batch"}}, status=404)
        reported = self._shown(batch)
        batch["looks"] += 1
        return web.json_response(reported)

    async def download(self, request: web.Request) -> web.Response:
        """GET /files/ID/content"""
        if request.match_info["id"] not in self.files:
            return web.json_response({"error": {"message": "no such file"}}, status=404)
        return web.Response(body=self.files[request.match_info["id"]][1])

    def _has_ended(self, batch: dict[str, Any]) -> bool:
        return batch["looks"] >= self.looks

    def _shown(self, batch: dict[str, Any]) -> dict[str, Any]:
        names = ("id", "object", "endpoint", "completion_window", "input_file_id", "metadata", "created_at")
        reported = {name: batch[name] for name in names}
        if not self._has_ended(batch):
            return {**reported, "status": "in_progress", "request_counts": {"total": 1, "completed": 0, "failed": 0}}
        if "refusal" in batch:
            return {**reported, "status": "failed", "errors": batch["refusal"], "failed_at": batch["created_at"] + 5}
        return {
            **reported,
            "status": self.status,
            f"{self.status}_at": batch["created_at"] + 60,
            "request_counts": batch["counts"],
            "output_file_id": batch["output"],
            "error_file_id": batch["errors_file"],
        }


def _prompt(body: dict[str, Any]) -> str:
    last = (body.get("messages") or body["input"])[-1]["content"]
    return last if isinstance(last, str) else last[0]["text"]


@contextmanager
def serving(**reported: Any) -> Iterator[BatchServer]:
    """A BatchServer in a thread of its own, for the length of a `with`. The arguments are its fields."""
    server = BatchServer(**reported)
    loop = asyncio.new_event_loop()
    runner = web.AppRunner(server.app(), access_log=None, shutdown_timeout=0.1)

    async def listen() -> None:
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        server.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"

    loop.run_until_complete(listen())
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()
