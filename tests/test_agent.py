"""The agent loop against a real endpoint on this machine: tool calls, their results, the final answer, the tokens."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rolloutops.collect.agent import attempt
from rolloutops.collect.attempt import Attempt, PendingRollout
from rolloutops.config.settings import Collect
from rolloutops.limits.concurrency import ConcurrencyLimit
from rolloutops.limits.rate_limit import Permit, RateLimit
from rolloutops.types import ModelAnswer, ModelCall, Task
from tests.helpers import query, read_jsonl, rolloutops, write_jsonl
from tests.loopback import serving
from tests.virtual_time import run

DOCUMENT = [
    "The lighthouse of Varn was built in 1874 by the engineer Ada Holm.",
    "Its lamp was lit with whale oil until the year 1903.",
    "The keeper's daughter later became a botanist.",
]
TASK = {
    "responses_create_params": {
        "input": [{"role": "user", "content": "Who built the lighthouse of Varn?"}],
        "tools": [
            {
                "type": "function",
                "name": "search_document",
                "description": "Search the document.",
                "parameters": {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]},
                "strict": True,
            }
        ],
        "temperature": 0.3,
    },
    "document": DOCUMENT,
    "expected_answer": ["Ada Holm"],
}


@pytest.mark.parametrize("endpoint", ["responses", "chat"])
def test_a_rollout_with_tools_is_whole(tmp_path: Path, endpoint: str) -> None:
    write_jsonl(tmp_path / "tasks.jsonl", [TASK])
    with serving() as server:
        done = rolloutops(
            *("collect", "--input=tasks.jsonl", "--data=w", "--environment=multi_step", "--engine=openai"),
            *("--model=tiny", f"--base_url={server.url}", f"--endpoint={endpoint}", "--output=rollouts.jsonl"),
            *("+responses_create_params.temperature=0.9", "+num_repeats=2"),
            cwd=tmp_path,
        )
    requested = server.bodies
    assert json.loads(done.stdout)["tool_calls"] == 1
    assert len(requested) == 4, "two turns for each of two rollouts"
    assert {body["temperature"] for body in requested} == {0.9}, "the command line comes last"
    completion, response, turns, tool_names, tool_errors, sent, reported, reward = query(
        tmp_path / "w",
        "SELECT completion::VARCHAR, response, turns, tool_names, tool_errors, input_tokens, output_tokens, reward "
        "FROM rollouts",
    )[0]
    call, result, answer = json.loads(completion)
    assert [call["role"], result["role"], answer["role"]] == ["assistant", "tool", "assistant"]
    assert call["tool_calls"][0]["function"]["name"] == "search_document"
    assert result["tool_call_id"] == call["tool_calls"][0]["id"]
    assert any(passage in result["content"] for passage in DOCUMENT)
    assert answer["content"].startswith("Answer:")
    assert (turns, tool_names, tool_errors) == (2, ["search_document"], 0)
    usage = [answer["usage"] for answer in json.loads(response)]
    names = ("input_tokens", "output_tokens") if endpoint == "responses" else ("prompt_tokens", "completion_tokens")
    assert (sent, reported) == tuple(sum(one[name] for one in usage) for name in names)
    assert sent > reported > 0
    assert reward is not None
    rows = read_jsonl(tmp_path / "rollouts.jsonl")
    assert [item["type"] for item in rows[0]["response"]["output"]] == [
        "function_call",
        "function_call_output",
        "message",
    ]
    assert rows[0]["document"] == DOCUMENT
    assert [(row["_ng_task_index"], row["_ng_rollout_index"]) for row in rows] == [(0, 0), (0, 1)]


def test_what_goes_wrong_in_a_tool_is_told_to_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "tasks.jsonl", [{"prompt": "use the tool"}])
    (tmp_path / "broken.py").write_text(
        "class Broken:\n"
        '    tools = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]\n'
        "    def call(self, name, arguments, state):\n"
        '        raise KeyError("nothing there")\n'
        "    def verify(self, task, rollout):\n"
        '        return {"reward": 0.5, "long": len(rollout.text) > 3}\n'
        "def make():\n"
        "    return Broken()\n"
    )
    with serving() as server:
        rolloutops(
            *("collect", "--input=tasks.jsonl", "--data=w", "--environment=broken.py:make", "--engine=openai"),
            *("--model=tiny", f"--base_url={server.url}"),
            cwd=tmp_path,
        )
    completion, errors, reward, metrics, tools = query(
        tmp_path / "w",
        "SELECT completion::VARCHAR, tool_errors, reward, metrics['long'], tools->>'$[0].function.name' FROM rollouts",
    )[0]
    assert json.loads(completion)[1]["content"] == "Error: KeyError: 'nothing there'"
    assert (errors, reward, metrics, tools) == (1, 0.5, 1.0, "look")


def test_a_rollout_ends_at_max_steps_and_at_its_token_budget(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "tasks.jsonl", [TASK])
    with serving() as server:
        for flag, reason in (("--max_steps=1", "max_steps"), ("--token_budget=1", "token_budget")):
            rolloutops(
                *("collect", "--input=tasks.jsonl", f"--data={reason}", "--environment=multi_step", "--engine=openai"),
                *("--model=tiny", f"--base_url={server.url}", flag),
                cwd=tmp_path,
            )
            found = query(tmp_path / reason, "SELECT finish_reason, turns, json_array_length(completion) FROM rollouts")
            assert found == [(reason, 1, 2)]


class TenSecondsApart(RateLimit):
    """Each request waits ten seconds."""

    def at_once(self, call: ModelCall | None = None) -> Permit | None:
        return None

    async def admit(self, call: ModelCall | None = None) -> Permit:
        await asyncio.sleep(10)
        return self._let_through(0.0)


class TwoTurns:
    """A model that calls a tool, and then answers."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def answer(self, call: ModelCall) -> ModelAnswer:
        await asyncio.sleep(self.seconds)
        tool_call = {"id": "1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
        calls = {} if call.turn else {"tool_calls": [tool_call]}
        return ModelAnswer({"role": "assistant", "content": "", **calls}, "stop" if call.turn else "tool_calls", "m")


class Stubborn:
    """An environment whose tool does not let itself be cancelled."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    async def call(self, name: str, arguments: Any, state: Any) -> str:
        try:
            await asyncio.sleep(self.seconds)
        except asyncio.CancelledError:
            return "cancelled"
        return "seen"


def tried(model: float, tool: float) -> Attempt:
    """An attempt of two turns that may take five seconds. model, tool: seconds that each call takes."""

    async def main() -> Attempt:
        task = Task("d", "t", {}, [{"role": "user", "content": "?"}])
        settings = Collect(request_timeout=5.0, max_steps=3)
        pending = PendingRollout(task, "h", 0, "p", 0, 1, settings, {}, "{}")
        return await attempt(pending, TwoTurns(model), Stubborn(tool), TenSecondsApart(ConcurrencyLimit(1)))

    done: Attempt = run(main())
    return done


@pytest.fixture
def _virtual(monkeypatch: pytest.MonkeyPatch) -> None:
    """An attempt reads the event loop's clock, which is virtual here."""
    clock = SimpleNamespace(monotonic=lambda: asyncio.get_running_loop().time(), time=time.time)
    monkeypatch.setattr("rolloutops.collect.agent.time", clock)


@pytest.mark.usefixtures("_virtual")
def test_to_wait_for_the_endpoint_is_no_part_of_the_time_limit() -> None:
    done = tried(model=2.0, tool=0.5)
    assert done.kind is None
    assert done.trace.waited == pytest.approx(20)
    done = tried(model=3.0, tool=0.5)
    assert done.kind == "timeout"


@pytest.mark.usefixtures("_virtual")
def test_a_tool_that_catches_its_cancellation_does_not_outlive_the_time_limit() -> None:
    done = tried(model=2.0, tool=60.0)
    assert done.kind == "timeout"
    assert [one["role"] for one in done.trace.completion] == ["assistant", "tool"]
    assert done.trace.waited == pytest.approx(10)
