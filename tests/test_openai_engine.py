"""The openai engine against a real loopback endpoint: what goes over the wire, what comes back, and what fails how."""

from __future__ import annotations

import asyncio
import gzip
import json
import shutil
import socket
import ssl
import subprocess
import sys
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from email.utils import formatdate
from pathlib import Path
from time import time
from typing import Any
from urllib.request import urlopen

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rolloutops.collect import event_loop
from rolloutops.engines.openai import OPENAI, OpenAIEngine
from rolloutops.errors import AttemptFailed, UsageError
from rolloutops.formats.openai_replies import KEPT, read_chat, read_responses, retry_after
from rolloutops.types import ModelAnswer, ModelCall
from tests.loopback import Loopback, serving

ENDPOINTS = ("responses", "chat")
KEY = "sk-0123456789abcdef0123456789abcdef"
ASK = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is 6 * 7?"}]
SEARCH = {
    "type": "function",
    "function": {
        "name": "search",
        "description": "Look something up.",
        "parameters": {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]},
    },
}


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


def ask(server: Loopback | str, *calls: ModelCall, **settings: Any) -> list[ModelAnswer]:
    """The calls' answers, one after the other, from one engine."""

    async def run() -> list[ModelAnswer]:
        engine = OpenAIEngine("m", base_url=server if isinstance(server, str) else server.url, **settings)
        await engine.start()
        try:
            return [await engine.answer(call) for call in calls]
        finally:
            await engine.stop()

    return asyncio.run(run())


def fails(server: Loopback | str, **settings: Any) -> AttemptFailed:
    with pytest.raises(AttemptFailed) as caught:
        ask(server, ModelCall(ASK, None, {}), **settings)
    return caught.value


def outcome(read: Callable[..., ModelAnswer], body: bytes) -> tuple[ModelAnswer | None, AttemptFailed | None]:
    try:
        return read(body, token_ids=True), None
    except AttemptFailed as failed:
        return None, failed


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_a_text_answer_and_its_cost(endpoint: str) -> None:
    with serving(reasoning="six times seven") as server:
        (answer,) = ask(server, ModelCall(ASK, None, {}), endpoint=endpoint)
    assert answer.message == {
        "role": "assistant",
        "content": "Answer: What is 6 * 7?",
        "reasoning_content": "six times seven",
    }
    assert (answer.finish_reason, answer.model) == ("stop", "m")
    assert (answer.input_tokens, answer.output_tokens, answer.reasoning_tokens, answer.cached_tokens) == (7, 9, 3, 1)
    assert answer.generation_token_ids is None
    assert json.loads(answer.raw or "")["id"] in ("resp_1", "chatcmpl-1")
    assert server.log == [{"endpoint": endpoint, "key": "What is 6 * 7?", "status": 200, "tool": False}]


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_a_conversation_with_a_tool(endpoint: str) -> None:
    with serving() as server:
        (first,) = ask(server, ModelCall(ASK, [SEARCH], {"tool_choice": "auto"}), endpoint=endpoint)
        assert first.finish_reason == "tool_calls"
        function = {"name": "search", "arguments": '{"query": "a word"}'}
        assert first.message["tool_calls"] == [{"id": "call_1", "type": "function", "function": function}]
        result = {"role": "tool", "tool_call_id": "call_1", "content": "42"}
        (last,) = ask(server, ModelCall([*ASK, first.message, result], [SEARCH], {}, turn=1), endpoint=endpoint)
    assert (last.finish_reason, last.message) == ("stop", {"role": "assistant", "content": "Answer: 42"})
    sent = server.bodies[1]["input" if endpoint == "responses" else "messages"]
    if endpoint == "chat":
        assert sent == [*ASK, first.message, result]
        assert server.bodies[0]["tools"] == [SEARCH]
    else:
        assert [item["type"] for item in sent] == ["message", "message", "function_call", "function_call_output"]
        assert sent[2]["call_id"] == sent[3]["call_id"] == "call_1"
        assert sent[3]["output"] == "42"
        assert server.bodies[0]["tools"] == [{"type": "function", "strict": False, **SEARCH["function"]}]


PARAMS = {
    "temperature": 0.7,
    "top_p": None,
    "max_output_tokens": 256,
    "seed": 3,
    "service_tier": "flex",
    "reasoning": {"effort": "low", "summary": None},
    "text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": True}},
    "tool_choice": {"type": "function", "name": "search"},
    "parallel_tool_calls": False,
    "stream": True,
    "model": "another",
    "input": "ignored",
    "metadata": {"topic": "sums", "extra_body": '{"min_p": 0.1}', "chat_template_kwargs": '{"enable_thinking": true}'},
}


def test_parameters_on_the_wire() -> None:
    call = ModelCall([{"role": "user", "content": "Hi"}], [SEARCH], PARAMS)
    with serving() as server:
        ask(server, call, endpoint="responses", extra_body={"top_k": 20, "temperature": 0.1})
        ask(server, call, endpoint="chat", token_ids=True)
        ask(server, ModelCall(call.messages, None, PARAMS | {"instructions": "Be brief."}), endpoint="chat")
    responses, chat, bare = server.bodies
    extra = {"min_p": 0.1, "chat_template_kwargs": {"enable_thinking": True}}
    assert responses == {
        "model": "m",
        "input": [{"type": "message", "role": "user", "content": "Hi"}],
        "tools": [{"type": "function", "strict": False, **SEARCH["function"]}],
        "temperature": 0.1,
        "top_k": 20,
        "metadata": {"topic": "sums"},
        **extra,
        **{
            name: PARAMS[name]
            for name in (
                "max_output_tokens",
                "seed",
                "service_tier",
                "reasoning",
                "text",
                "tool_choice",
                "parallel_tool_calls",
            )
        },
    }
    schema = {"name": "n", "schema": {"type": "object"}, "strict": True}
    common = {
        "model": "m",
        "temperature": 0.7,
        "max_tokens": 256,
        "seed": 3,
        "service_tier": "flex",
        "reasoning_effort": "low",
        "response_format": {"type": "json_schema", "json_schema": schema},
        "metadata": {"topic": "sums"},
        **extra,
    }
    assert chat == common | {
        "messages": [{"role": "user", "content": "Hi"}],
        "tools": [SEARCH],
        "tool_choice": {"type": "function", "function": {"name": "search"}},
        "parallel_tool_calls": False,
        "return_token_ids": True,
        "logprobs": True,
    }
    system = {"role": "system", "content": "Be brief."}
    assert bare == common | {"messages": [system, {"role": "user", "content": "Hi"}]}


def test_what_openai_itself_wants_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    reported = {"role": "assistant", "content": "Hm.", "reasoning_content": "secret thoughts"}
    call = ModelCall([*ASK, reported], None, {"max_output_tokens": 9})
    chat, responses = (
        json.loads(OpenAIEngine("m", endpoint=endpoint).body(call)) for endpoint in ("chat", "responses")
    )
    assert chat == {
        "model": "m",
        "messages": [*ASK, {"role": "assistant", "content": "Hm."}],
        "max_completion_tokens": 9,
    }
    assert [item["role"] for item in responses["input"]] == ["system", "user", "assistant"]
    assert not any("id" in item for item in responses["input"])


def test_chat_refuses_what_it_cannot_express() -> None:
    with pytest.raises(AttemptFailed, match="previous_response_id") as caught:
        OpenAIEngine("m", base_url="http://localhost/v1", endpoint="chat").body(
            ModelCall(ASK, None, {"previous_response_id": "resp_1"})
        )
    assert (caught.value.kind, caught.value.final) == ("bad_request", True)


@pytest.mark.parametrize("endpoint", ENDPOINTS)
@pytest.mark.parametrize(("finish", "text"), [("length", "Answer: 4"), ("content_filter", "Answ"), ("stop", "")])
def test_a_cut_filtered_or_empty_answer_is_an_answer(endpoint: str, finish: str, text: str) -> None:
    with serving(finish=finish, answer=lambda _: text) as server:
        (answer,) = ask(server, ModelCall(ASK, None, {}), endpoint=endpoint)
    assert (answer.finish_reason, answer.message) == (finish, {"role": "assistant", "content": text})


@pytest.mark.parametrize("endpoint", ENDPOINTS)
@pytest.mark.parametrize(
    ("fault", "kind", "final", "wait", "said"),
    [
        ("429", "rate_limited", False, None, "429 rate_limit_exceeded: slow down"),
        ("429-after", "rate_limited", False, 2.0, "slow down"),
        ("429-after-ms", "rate_limited", False, 1.5, "slow down"),
        ("quota", "unauthorized", True, None, "exceeded your current quota"),
        ("401", "unauthorized", True, None, "the key is wrong"),
        ("400", "bad_request", True, None, "no such parameter"),
        ("404", "bad_request", True, None, "is base_url right"),
        ("context", "context_length", True, None, "maximum context length is 8"),
        ("redirect", "bad_request", True, None, "elsewhere.example"),
        ("408", "timeout", False, None, "too slow"),
        ("500", "server_error", False, None, "it broke"),
        ("500-final", "server_error", True, None, "for good"),
        ("503", "server_error", False, None, "overloaded"),
        ("html-502", "server_error", False, None, "Bad gateway"),
        ("error-200", "server_error", False, None, "it broke"),
        ("hang", "timeout", False, None, "no answer from"),
        ("refuse", "connection", False, None, "closed the connection"),
        ("reset", "connection", False, None, "http://127.0.0.1"),
        ("truncated", "bad_response", False, None, "not JSON"),
        ("html", "bad_response", False, None, "not JSON"),
        ("empty", "bad_response", False, None, "the answer is empty"),
        ("no-answer", "bad_response", False, None, "the answer has no"),
    ],
)
def test_failures(endpoint: str, fault: str, kind: str, final: bool, wait: float | None, said: str) -> None:
    with serving(faults=[fault, None]) as server:
        failed = fails(server, endpoint=endpoint, request_timeout=0.3 if fault == "hang" else 30)
        assert (failed.kind, failed.final, failed.retry_after) == (kind, final, wait)
        assert said in failed.message
        if kind == "bad_response" and fault != "empty":
            assert failed.raw
        assert ask(server, ModelCall(ASK, None, {}), endpoint=endpoint)[0].finish_reason == "stop"


def test_a_failed_answer_of_the_responses_api() -> None:
    reply = {"object": "response", "status": "failed", "error": {"code": "rate_limit_exceeded", "message": "slow"}}
    with pytest.raises(AttemptFailed, match="slow") as caught:
        read_responses(orjson.dumps(reply | {"output": []}))
    assert caught.value.kind == "rate_limited"
    assert caught.value.raw


def test_nobody_listens() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    failed = fails(f"http://127.0.0.1:{port}/v1")
    assert (failed.kind, failed.final) == ("unreachable", False)
    assert str(port) in failed.message


def test_what_listens_does_not_speak_http() -> None:
    async def run() -> None:
        async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"220 mail.example ESMTP\r\n\r\n")
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(greet, "127.0.0.1", 0)
        engine = OpenAIEngine("m", base_url=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1")
        await engine.start()
        with pytest.raises(AttemptFailed, match="does not speak HTTP") as caught:
            await engine.answer(ModelCall(ASK, None, {}))
        assert caught.value.kind == "bad_response"
        await engine.stop()
        server.close()
        await server.wait_closed()

    asyncio.run(run())


def test_how_long_to_wait() -> None:
    assert retry_after({"retry-after": "0.5"}) == 0.5
    assert retry_after({"retry-after-ms": "250", "retry-after": "9"}) == 0.25
    assert 27 < (retry_after({"retry-after": formatdate(time() + 30, usegmt=True)}) or 0) <= 30
    assert retry_after({"retry-after": formatdate(time() - 30, usegmt=True)}) == 0
    assert retry_after({"retry-after": "soon"}) is None
    assert retry_after({"retry-after": "inf"}) is None
    assert retry_after({}) is None


def test_a_key_is_needed_for_openai_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="OPENAI_API_KEY is not set: export it, or name another"):
        OpenAIEngine("m")
    with pytest.raises(UsageError, match="MY_KEY is not set"):
        OpenAIEngine("m", base_url="http://localhost:8000/v1", api_key_env="MY_KEY", api_key_required=True)
    assert OpenAIEngine("m", base_url="http://localhost:8000/v1").url == "http://localhost:8000/v1/responses"
    monkeypatch.setenv("OPENAI_BASE_URL", "http://localhost:9000/v1/")
    assert OpenAIEngine("m", endpoint="chat").url == "http://localhost:9000/v1/chat/completions"
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    assert OpenAIEngine("m", base_url=OPENAI).url == "https://api.openai.com/v1/responses"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"endpoint": "completions"}, "not 'completions'"),
        ({"base_url": "localhost:8000"}, "is not the URL of an API"),
        ({"base_url": f"https://user:{KEY}@host/v1"}, "user name or password"),
    ],
)
def test_settings_that_cannot_work(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        OpenAIEngine("m", **{"base_url": "http://localhost:8000/v1", **settings})
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_the_key_is_sent_and_never_comes_back(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    other = "another-secret-value"
    echo = f'{{"error": {{"message": "bad key Bearer {KEY} / {other}", "code": "invalid_api_key"}}}}'.encode()
    page = f"<html>Authorization: Bearer {KEY}</html>".encode()
    settings = {"endpoint": endpoint, "api_key_env": "MY_KEY", "headers": {"X-Api-Key": other}}
    reported = [{"role": "user", "content": f"my key is {KEY}"}]
    with serving(faults=[(401, {}, echo), (200, {}, page), None]) as server:
        refused, unreadable = fails(server, **settings), fails(server, **settings)
        (answer,) = ask(server, ModelCall(reported, None, {}), **settings)
        engine = OpenAIEngine("m", base_url=server.url, **settings)
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"
    assert server.headers[0]["X-Api-Key"] == other
    assert answer.message["content"] == "Answer: my key is [key]"
    for text in (refused.message, unreadable.message, unreadable.raw, answer.raw, repr(engine), repr(answer)):
        assert text
        assert KEY not in text
        assert other not in text


def test_a_placeholder_is_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "EMPTY")
    with serving(answer=lambda _: "the set is EMPTY") as server:
        assert ask(server, ModelCall(ASK, None, {}))[0].message["content"] == "the set is EMPTY"


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_token_ids(endpoint: str) -> None:
    with serving(token_ids=True, answer=lambda _: "forty two") as server:
        (answer,) = ask(server, ModelCall(ASK, None, {}), endpoint=endpoint, token_ids=True)
        (without,) = ask(server, ModelCall(ASK, None, {}), endpoint=endpoint)
    assert len(answer.prompt_token_ids or ()) == answer.input_tokens == 7
    assert len(answer.generation_token_ids or ()) == answer.output_tokens == 2
    assert answer.generation_log_probs == [-0.5, -0.625]
    assert without.generation_token_ids is None


def test_token_ids_that_are_not_there() -> None:
    item = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "x"}]}
    empty = item | {"prompt_token_ids": [], "generation_token_ids": [], "generation_log_probs": []}
    answer = read_responses(orjson.dumps({"output": [empty]}), token_ids=True)
    assert (answer.prompt_token_ids, answer.generation_token_ids, answer.generation_log_probs) == (None, None, None)
    short = item | {"prompt_token_ids": [1], "generation_token_ids": [2, 3], "generation_log_probs": [-0.5]}
    answer = read_responses(orjson.dumps({"output": [short]}), token_ids=True)
    assert (answer.generation_token_ids, answer.generation_log_probs) == ([2, 3], None)
    with pytest.raises(AttemptFailed, match="structure"):
        read_responses(orjson.dumps({"output": [item | {"generation_token_ids": ["2"]}]}), token_ids=True)


def test_a_prompt_of_several_megabytes_and_odd_characters() -> None:
    prompt = "x" * 3_000_000 + " \ud83d \u2028 é"
    with serving(answer=lambda text: text[-3:]) as server:
        (answer,) = ask(server, ModelCall([{"role": "user", "content": prompt}], None, {}))
    assert server.bodies[0]["input"][0]["content"] == "x" * 3_000_000 + " \ufffd \u2028 é"
    assert answer.message["content"] == "\u2028 é"


def test_an_answer_that_only_lenient_parsers_read() -> None:
    half = b'{"choices": [{"message": {"content": "a \\ud83d b"}, "logprobs": NaN}], "usage": {"prompt_tokens": "4"}}'
    answer = read_chat(half, model="m")
    assert answer.message["content"] == "a \ufffd b"
    assert (answer.model, answer.input_tokens) == ("m", None)


def test_many_calls_at_once_each_get_their_own_answer() -> None:
    async def run(url: str) -> list[Any]:
        engine = OpenAIEngine("m", base_url=url, max_connections=32)
        await engine.start()
        calls = [ModelCall([{"role": "user", "content": f"question {n}"}], None, {}) for n in range(300)]
        found = await asyncio.gather(*map(engine.answer, calls), return_exceptions=True)
        await engine.stop()
        return found

    with serving(faults="reset:25,429:10", latency=0.001) as server:
        found = asyncio.run(run(server.url))
    kinds = [found[n].kind for n in range(300) if isinstance(found[n], AttemptFailed)]
    assert (kinds.count("connection"), kinds.count("rate_limited")) == (12, 24)
    for n, answer in enumerate(found):
        if isinstance(answer, ModelAnswer):
            assert answer.message["content"] == f"Answer: question {n}"
    delivered = [entry["key"] for entry in server.log if entry["status"] == 200]
    assert len(delivered) == len(set(delivered)) == 300 - len(kinds)


def test_a_proxy_is_used_but_not_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving() as proxy, serving() as server:
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.setenv("no_proxy", "")
        ask("http://model.example/v1", ModelCall(ASK, None, {}))
        ask(server, ModelCall(ASK, None, {}))
    assert (proxy.seen, proxy.headers[0]["Host"], server.seen) == (1, "model.example", 1)


Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def request(reader: asyncio.StreamReader) -> bytes:
    """The body of the next request."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    length = next(line for line in head.split("\r\n") if line.lower().startswith("content-length:"))
    return await reader.readexactly(int(length.split(":")[1]))


def http(body: bytes, head: bytes = b"") -> bytes:
    """A whole reply."""
    return b"HTTP/1.1 200 OK\r\n%bContent-Length: %d\r\n\r\n%b" % (head, len(body), body)


def says(text: str) -> bytes:
    """The body of an answer."""
    return orjson.dumps({"choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}]})


@asynccontextmanager
async def listening(talk: Talk) -> AsyncIterator[tuple[str, list[int]]]:
    """A server that has this talk on each connection, then hangs up: its base_url, and an entry for each connection."""
    connections: list[int] = []

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(len(connections))
        try:
            await talk(reader, writer)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    listener = await asyncio.start_server(connected, "127.0.0.1", 0)
    async with listener:
        yield f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/v1", connections


@asynccontextmanager
async def asking(base_url: str, **settings: Any) -> AsyncIterator[Callable[[str], Awaitable[str]]]:
    """An engine that was started, as a function from a question to the answer's text."""
    engine = OpenAIEngine("m", base_url=base_url, endpoint="chat", **settings)
    await engine.start()

    async def answer(text: str) -> str:
        return (await engine.answer(ModelCall([{"role": "user", "content": text}], None, {}))).message["content"]

    try:
        yield answer
    finally:
        await engine.stop()


def on_each_loop(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a test in asyncio's own loop, and in the one that `collect` takes."""
    asyncio.run(main())
    event_loop.run(main())


def test_a_kept_connection_that_closes_under_a_request_costs_no_attempt() -> None:
    requests: list[bytes] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(await request(reader))
        writer.write(http(says(f"answer {len(requests)}")))
        requests.append(await request(reader))  # and hang up silently

    async def run() -> None:
        requests.clear()
        async with listening(talk) as (url, connections), asking(url) as answer:
            for n in range(4):
                assert (await answer(f"question {n}")).startswith("answer")
            assert len(connections) == 4
            assert len(requests) == 4 + 3

    on_each_loop(run)


def test_a_new_connection_that_closes_without_a_word_is_a_failure() -> None:
    requests: list[bytes] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(await request(reader))

    async def run() -> None:
        requests.clear()
        async with listening(talk) as (url, _), asking(url) as answer:
            with pytest.raises(AttemptFailed, match="closed the connection before the answer was complete") as caught:
                await answer("x")
            assert caught.value.kind == "connection"
            assert len(requests) == 1

    on_each_loop(run)


def test_a_reply_that_had_begun_is_not_asked_for_again() -> None:
    bodies = [http(says("fine")), b"HTTP/1.1 200 OK\r\nContent-", http(says("cut"))[:-9]]

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(bodies[0])
        await request(reader)
        writer.write(bodies[place])

    async def run() -> None:
        async with listening(talk) as (url, connections), asking(url) as answer:
            assert await answer("1") == "fine"
            with pytest.raises(AttemptFailed) as caught:
                await answer("2")
            assert caught.value.kind == "connection"
            assert len(connections) == 1

    for place in (1, 2):  # noqa: B007
        on_each_loop(run)


def test_an_answer_that_nobody_waits_for_is_not_the_next_requests() -> None:
    late: asyncio.Event

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            body = orjson.loads(await request(reader))["messages"][0]["content"]
            if body.startswith("beside"):
                writer.write(http(says(body)) + http(says("unasked")))
            else:
                writer.write(http(says(body)))
                await writer.drain()
                await asyncio.sleep(0.05)
                writer.write(http(says("unasked")))
                await writer.drain()
                late.set()

    async def run() -> None:
        nonlocal late
        late = asyncio.Event()
        async with listening(talk) as (url, connections), asking(url) as answer:
            for n in range(3):
                assert await answer(f"beside {n}") == f"beside {n}"
            assert len(connections) == 3
            assert await answer("alone") == "alone"
            await asyncio.wait_for(late.wait(), 10)
            await asyncio.sleep(0.05)
            assert await answer("beside last") == "beside last"
            assert len(connections) == 5

    on_each_loop(run)


def test_who_was_cancelled_leaves_no_answer_to_the_next() -> None:
    received: asyncio.Event

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        body = orjson.loads(await request(reader))["messages"][0]["content"]
        received.set()
        if body == "first":
            await asyncio.sleep(0.05)
        writer.write(http(says(body)))

    async def run() -> None:
        nonlocal received
        received = asyncio.Event()
        async with listening(talk) as (url, connections), asking(url) as answer:
            first = asyncio.ensure_future(answer("first"))
            await received.wait()
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
            assert await answer("second") == "second"
            assert len(connections) == 2

    on_each_loop(run)


def test_many_at_once_over_as_many_connections_as_allowed() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(http(says(orjson.loads(await request(reader))["messages"][0]["content"])))
            await writer.drain()

    async def run() -> None:
        texts = [f"{n} " * 10_000 for n in range(60)]  # more than a socket holds
        async with listening(talk) as (url, connections), asking(url, max_connections=7) as answer:
            assert await asyncio.gather(*map(answer, texts)) == texts
            assert len(connections) == 7

    on_each_loop(run)


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_compressed_reply_is_read(encoding: str) -> None:
    body = gzip.compress(says("small")) if encoding == "gzip" else zlib.compress(says("small"))
    head = {"Content-Type": "application/json", "Content-Encoding": encoding}
    with serving(faults=[(200, head, body), (200, head, b"no " + body)]) as server:
        assert ask(server, ModelCall(ASK, None, {}), endpoint="chat")[0].message["content"] == "small"
        failed = fails(server, endpoint="chat")
    assert failed.kind == "bad_response"
    assert f"cannot be read: Can not decode content-encoding: {encoding}" in failed.message
    assert encoding in server.headers[0]["Accept-Encoding"]


def test_a_reply_that_is_too_long_is_refused_in_bounded_memory() -> None:
    bomb = gzip.compress(bytes(300_000_000), 1)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        kind = orjson.loads(await request(reader))["messages"][0]["content"]
        if kind == "bomb":
            writer.write(http(bomb, b"Content-Encoding: gzip\r\n"))
        elif kind == "fits":
            writer.write(http(says("x").ljust(1_000_000)))
        else:
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            while True:
                writer.write(b"10000\r\n%b\r\n" % bytes(0x10000))
                await writer.drain()

    async def run() -> None:
        async with listening(talk) as (url, _), asking(url, max_reply_bytes=1_000_000) as answer:
            for kind in ("bomb", "endless"):
                with pytest.raises(AttemptFailed, match="more than 1,000,000 bytes: raise max_reply_bytes") as caught:
                    await answer(kind)
                assert caught.value.kind == "bad_response"
            assert await answer("fits") == "x"

    tracemalloc.start()
    try:
        on_each_loop(run)
        assert tracemalloc.get_traced_memory()[1] < 30_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "said",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 banana\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\n" + b"X-Long: %b\r\n" % (b"x" * 1000) * 300 + b"Content-Length: 0\r\n\r\n",
    ],
)
def test_what_is_not_http_is_a_bad_response(said: bytes) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(said)

    async def run() -> None:
        async with listening(talk) as (url, _), asking(url) as answer:
            with pytest.raises(AttemptFailed, match="does not speak HTTP") as caught:
                await answer("x")
            assert caught.value.kind == "bad_response"

    on_each_loop(run)


def test_time_limits() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            kind = orjson.loads(await request(reader))["messages"][0]["content"]
            body = says(kind)
            if kind == "hang":
                await asyncio.sleep(60)
            elif kind == "slow":
                writer.write(http(body)[: -len(body)])
                for place in range(4):
                    await asyncio.sleep(0.1)
                    writer.write(body[place * len(body) // 4 : (place + 1) * len(body) // 4])
            else:
                writer.write(http(body))

    async def failed(answer: Callable[[str], Awaitable[str]], kind: str) -> str:
        with pytest.raises(AttemptFailed) as caught:
            await answer(kind)
        return f"{caught.value.kind}: {caught.value.message}"

    async def run() -> None:
        async with listening(talk) as (url, _):
            async with asking(url, request_timeout=0.3) as answer:
                assert await answer("quick") == "quick"
                assert "timeout: no answer from http" in await failed(answer, "hang")
                assert await answer("quick") == "quick"
                assert "within 0.3 s" in await failed(answer, "slow")
            async with asking(url, first_byte_timeout=0.3) as answer:
                assert await answer("slow") == "slow"
                assert "timeout: no data from http" in await failed(answer, "hang")
        async with asking("http://no.such.host.invalid/v1") as answer:
            assert "unreachable: http://no.such" in await failed(answer, "x")

    on_each_loop(run)


def test_headers_that_cannot_be_sent_are_refused() -> None:
    async def start(headers: dict[str, str]) -> None:
        await OpenAIEngine("m", base_url="http://localhost/v1", headers=headers).start()

    for name, value in (("X-A", "a\r\nX-B: b"), ("X A", "a"), ("", "a"), ("content-length", "7")):
        with pytest.raises(UsageError, match="cannot be"):
            asyncio.run(start({name: value}))


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_a_certificate_that_is_not_trusted_is_named(tmp_path: Path) -> None:
    files = ["-keyout", "key.pem", "-out", "cert.pem", "-days", "2", "-subj", "/CN=localhost"]
    options = ["-newkey", "rsa:2048", "-nodes", "-addext", "subjectAltName=DNS:localhost"]
    subprocess.run(["openssl", "req", "-x509", *options, *files], cwd=tmp_path, check=True, capture_output=True)

    async def run() -> None:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
        listener = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=tls)
        async with listener, asking(f"https://localhost:{listener.sockets[0].getsockname()[1]}/v1") as answer:
            with pytest.raises(AttemptFailed, match=r"certificate is refused.*set SSL_CERT_FILE") as caught:
                await answer("x")
        assert caught.value.kind == "unreachable"

    on_each_loop(run)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["type", "text", "content", "role", "reason", "code", "message", "function", "name", "logprob"]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)


@given(a=json_values, b=json_values, c=json_values, d=json_values)
def test_no_answer_ends_a_run(a: Any, b: Any, c: Any, d: Any) -> None:
    """Whatever a server sends, it is an answer with columns of the right types, or an AttemptFailed."""
    chat = {"choices": [{"message": {"content": a, "tool_calls": b}, "logprobs": c}], "usage": d, "model": c}
    item = {"type": "message", "content": a, "role": b, "generation_token_ids": c}
    responses = {"output": [item, a], "usage": b, "incomplete_details": d, "status": c, "model": a}
    for read, sent in ((read_chat, chat), (read_chat, a), (read_responses, responses), (read_responses, b)):
        body = json.dumps(sent).encode()
        answer, failed = outcome(read, body)
        if failed:
            assert failed.raw == body[:KEPT].decode()
        if answer:
            assert isinstance(answer.model, str)
            assert answer.message["role"] == "assistant"
            assert {type(answer.input_tokens), type(answer.output_tokens)} <= {int, type(None)}


def test_real_answers() -> None:
    folder = Path(__file__).parents[1].parent / "shared" / "data" / "gym"
    if not folder.is_dir():
        pytest.skip("the real rollouts of NeMo Gym are not beside this checkout")
    responses = [
        orjson.loads(line).get("response")
        for path in sorted(folder.rglob("example_rollouts*.jsonl"))
        for line in path.read_bytes().splitlines()
        if line.startswith(b"{")
    ]
    read = [(sent, read_responses(orjson.dumps(sent), token_ids=True)) for sent in responses if isinstance(sent, dict)]
    assert len(read) > 400
    assert sum(bool(answer.generation_token_ids) for _, answer in read) == 10
    for sent, answer in read:
        items = [item for item in sent["output"] if isinstance(item, dict)]
        contents = [item["content"] for item in items if item.get("role") == "assistant"]
        texts = [part.get("text") or "" for parts in contents if isinstance(parts, list) for part in parts]
        assert all(text in answer.message["content"] for text in texts)
        assert len(answer.message.get("tool_calls", ())) == sum(item["type"] == "function_call" for item in items)
        assert answer.output_tokens == (sent.get("usage") or {}).get("output_tokens")


def test_the_loopback_is_an_openai_endpoint_to_openais_own_client() -> None:
    import openai

    with serving() as server, openai.OpenAI(base_url=server.url, api_key="EMPTY", max_retries=0) as client:
        response = client.responses.create(model="m", input="Hi")
        assert (response.output_text, response.usage and response.usage.output_tokens) == ("Answer: Hi", 2)
        tool: Any = SEARCH
        chat = client.chat.completions.create(model="m", messages=[{"role": "user", "content": "Hi"}], tools=[tool])
        assert chat.choices[0].finish_reason == "tool_calls"
        assert chat.model_validate(chat.model_dump(), strict=True)
        assert response.model_validate(response.model_dump())


def test_the_loopback_as_a_process() -> None:
    command = [sys.executable, str(Path(__file__).with_name("loopback.py")), "--faults", "500:2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            url = process.stdout.readline().strip()
            ask(url, ModelCall(ASK, None, {}))
            assert fails(url, endpoint="chat").kind == "server_error"
            with urlopen(f"{url}/log".replace("/v1", "")) as reply:
                log = json.load(reply)
        finally:
            process.kill()
    assert [(entry["endpoint"], entry["status"]) for entry in log] == [("responses", 200), ("chat", 500)]
