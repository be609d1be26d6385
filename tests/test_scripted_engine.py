"""The scripted engine: the same text whatever the order and the attempt, in forms that the environments accept."""

from __future__ import annotations

import asyncio
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from rolloutops.engines.scripted import ScriptedEngine
from rolloutops.environments import exact_match, mcqa, multi_step
from rolloutops.errors import FAILURES, AttemptFailed, InputError, RolloutopsError
from rolloutops.formats.task_rows import answer_of_row
from rolloutops.types import ModelAnswer, ModelCall, Rollout, Task

ROWS: list[dict[str, Any]] = [
    {"question": "6 * 7?", "answer": "42"},
    {"question": "Natalia sold clips.", "answer": "48/2 = 24, 48+24 = 72\n#### 72"},
    {"question": "Who?", "expected_answer": "Michio Sugeno"},
    {"question": "How far?", "expected_answer": "\\frac{1}{2} m"},
    {"question": "Which?", "expected_answer": "B", "options": [{"A": "one"}, {"B": "two"}, {"C": "three"}]},
]


def call(row: dict[str, Any], index: int = 0, turn: int = 0, attempt: int = 1, **more: Any) -> ModelCall:
    prompt = [{"role": "user", "content": row.get("question", "")}]
    return ModelCall(prompt, None, {"temperature": 1.0}, f"d/{row['question']}/{index}", turn, attempt, row, **more)


def asked(engine: Any, *calls: ModelCall) -> list[ModelAnswer | AttemptFailed]:
    async def run() -> list[Any]:
        await engine.start()
        found = await asyncio.gather(*map(engine.answer, calls), return_exceptions=True)
        await engine.stop()
        return found

    return asyncio.run(run())


def texts(engine: Any, *calls: ModelCall) -> list[str]:
    return [answer.message["content"] for answer in asked(engine, *calls) if isinstance(answer, ModelAnswer)]


def reward(row: dict[str, Any], text: str) -> float:
    environment = mcqa.make() if "options" in row else exact_match.make()
    task = Task("d", "t", row, [], answer=answer_of_row(row))
    return environment.verify(task, Rollout([{"role": "assistant", "content": text}], text))["reward"]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["question"])
def test_gold_is_right_as_often_as_told(row: dict[str, Any]) -> None:
    calls = [call(row, index) for index in range(400)]
    for correct in (0.0, 1.0):
        assert {reward(row, text) for text in texts(ScriptedEngine(correct=correct), *calls)} == {correct}
    some = [reward(row, text) for text in texts(ScriptedEngine(correct=0.3), *calls)]
    assert 0.2 < sum(some) / len(some) < 0.4


def test_the_same_text_in_any_order_at_any_attempt_in_any_process() -> None:
    calls = [call(row, index) for row in ROWS for index in range(5)]
    again = [call(row, index, attempt=3) for row in ROWS for index in range(5)]
    first = texts(ScriptedEngine(), *calls)
    assert first == texts(ScriptedEngine(), *again) == texts(ScriptedEngine(), *reversed(calls))[::-1]
    assert first != texts(ScriptedEngine(seed=1), *calls)
    # Literal, because a later version must not change what a half-done run has already written.
    assert first[2] == "First I read the question again.\nThat can be checked in a second way.\nAnswer: 51"


def test_what_an_answer_costs_and_says_of_itself() -> None:
    (answer,) = asked(ScriptedEngine("rehearsal", rule="echo"), call({"question": "one two three"}))
    assert isinstance(answer, ModelAnswer)
    assert answer.message == {"role": "assistant", "content": "one two three"}
    assert (answer.model, answer.finish_reason, answer.input_tokens, answer.output_tokens) == (
        "rehearsal",
        "stop",
        3,
        3,
    )
    assert json.loads(answer.raw or "")["params"] == {"temperature": 1.0}
    assert asked(ScriptedEngine(), call(ROWS[0]))[0].model == "scripted"  # type: ignore[union-attr]


def converse(engine: Any, row: dict[str, Any], environment: Any, index: int) -> tuple[list[dict[str, Any]], list[Any]]:
    """The rollout's messages after the prompt, and the engine's answers."""
    prompt, completion, answers = [{"role": "user", "content": row["question"]}], [], []
    state = environment.begin(Task("d", "t", row, prompt))
    for turn in range(10):
        now = ModelCall([*prompt, *completion], environment.tools, {}, f"d/t/{index}", turn, 1, row)
        (answer,) = asked(engine, now)
        assert isinstance(answer, ModelAnswer)
        answers.append(answer)
        completion.append(answer.message)
        if answer.finish_reason != "tool_calls":
            break
        for made in answer.message["tool_calls"]:
            found = environment.call(made["function"]["name"], json.loads(made["function"]["arguments"]), state)
            completion.append({"role": "tool", "tool_call_id": made["id"], "content": found})
    return completion, answers


def test_facts_are_searched_with_the_tool_before_they_are_told() -> None:
    document = ["The bridge was built in 1932.", "Its builder was Ada Stone.", "It is 503 metres long."]
    row = {
        "question": "When, who, how long?",
        "document": document,
        "expected_answer": ["1932", ["Ada Stone", "A. Stone"], 503],
    }
    environment = multi_step.make()
    rewards = set()
    for index, correct in enumerate((1.0, 0.0)):
        completion, answers = converse(ScriptedEngine(correct=correct, token_ids=True), row, environment, index)
        searches = [m["content"] for m in completion if m["role"] == "tool"]
        assert len(searches) == (3 if correct else 2)
        assert "Ada Stone" in searches[1]
        verdict = environment.verify(Task("d", "t", row, []), Rollout(completion, completion[-1]["content"]))
        rewards.add(round(verdict["reward"], 2))
        for before, after in pairwise(answers):
            seen = [*before.prompt_token_ids, *before.generation_token_ids]
            assert after.prompt_token_ids[: len(seen)] == seen
            assert len(after.generation_log_probs) == len(after.generation_token_ids) == after.output_tokens
    assert rewards == {1.0, 0.33}


def test_answers_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    made = {"id": "call_a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    lines = [
        {"key": "d/a/0", "message": {"role": "assistant", "content": None, "tool_calls": [made]}},
        {"key": "d/a/0", "text": "then this"},
        {"task_id": "a", "text": "any other rollout"},
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    engine = ScriptedEngine(answers=str(path))
    row = {"question": "a"}
    first, second, third, other, unknown = asked(
        engine,
        *(call(row, 0, turn) for turn in range(3)),
        call(row, 1),
        call({"question": "b"}),
    )
    assert first.message == {"role": "assistant", "content": "", "tool_calls": [made]}
    assert first.finish_reason == "tool_calls"
    assert (second.message["content"], third.message["content"]) == ("then this", "then this")
    assert other.message["content"] == "any other rollout"
    assert isinstance(unknown, AttemptFailed)
    assert (unknown.kind, unknown.final) == ("bad_request", True)


@pytest.mark.parametrize(
    ("line", "said"), [("{", "line 2"), ('{"text": "x"}', "neither key"), ('{"key": "k"}', "no 'text'")]
)
def test_a_file_that_holds_no_answers(tmp_path: Path, line: str, said: str) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text(f'{{"key": "k", "text": "fine"}}\n{line}\n')
    with pytest.raises(InputError, match=said):
        ScriptedEngine(answers=str(path))


def shout(now: ModelCall) -> str:
    return now.messages[-1]["content"].upper()


async def wait_and_call(now: ModelCall) -> dict[str, Any]:
    await asyncio.sleep(0)
    return {"role": "assistant", "content": f"turn {now.turn}"}


def test_rules_of_ones_own() -> None:
    row = {"question": "psst"}
    assert texts(ScriptedEngine(rule=f"{__name__}:shout"), call(row)) == ["PSST"]
    assert texts(ScriptedEngine(rule=f"{__name__}:wait_and_call"), call(row, turn=4)) == ["turn 4"]
    picked = set(texts(ScriptedEngine(rule="choice"), *(call(ROWS[4], index) for index in range(50))))
    assert picked == {f"Answer: \\boxed{{{letter}}}" for letter in "ABC"}


def test_a_share_of_calls_fails_and_heals() -> None:
    engine = ScriptedEngine(faults="timeout:0.1,rate_limited:0.2")
    calls = [call(ROWS[0], index) for index in range(2000)]
    found = asked(engine, *calls)
    kinds = [answer.kind if isinstance(answer, AttemptFailed) else None for answer in found]
    assert 150 < kinds.count("timeout") < 250
    assert 330 < kinds.count("rate_limited") < 470
    assert kinds == [
        getattr(answer, "kind", None) for answer in asked(ScriptedEngine(faults="timeout:0.1,rate_limited:0.2"), *calls)
    ]
    failed = [index for index, kind in enumerate(kinds) if kind]
    second = asked(engine, *(call(ROWS[0], index, attempt=2) for index in failed))
    healed = [answer for answer in second if isinstance(answer, ModelAnswer)]
    assert 0.6 < len(healed) / len(failed) < 0.8


def test_every_nth_call_fails() -> None:
    found = asked(
        ScriptedEngine(faults={"server_error": 3, "context_length": 5}), *(call(ROWS[0], index) for index in range(10))
    )
    kinds = [answer.kind if isinstance(answer, AttemptFailed) else "-" for answer in found]
    s, c = "server_error", "context_length"
    assert kinds == ["-", "-", s, "-", c, s, "-", "-", s, c]
    assert [answer.final for answer in found if isinstance(answer, AttemptFailed)] == [
        not FAILURES[kind].retried for kind in kinds if kind != "-"
    ]


def test_a_delay_is_kept() -> None:
    async def run(engine: Any) -> float:
        loop = asyncio.get_running_loop()
        began = loop.time()
        await engine.answer(call(ROWS[0]))
        return loop.time() - began

    assert asyncio.run(run(ScriptedEngine(delay="0.05..0.1"))) >= 0.05
    assert asyncio.run(run(ScriptedEngine(delay=0.02))) >= 0.02


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"faults": "timeuot:0.1"}, "did you mean 'timeout'"),
        ({"faults": "timeout:often"}, "share below 1 or a whole number"),
        ({"faults": "timeout:-1"}, "share below 1 or a whole number"),
        ({"faults": {"timeout": 0.6, "connection": 0.6}}, "add up to 1.2"),
        ({"rule": "glod"}, "did you mean 'gold'"),
        ({"rule": "nowhere:f"}, "cannot be loaded"),
        ({"correct": 2}, "between 0 and 1"),
        ({"delay": "soon"}, "delay must be seconds"),
        ({"delay": "2..1"}, "delay must be seconds"),
        ({"answers": "nowhere.jsonl"}, "cannot read the answers in nowhere.jsonl"),
    ],
)
def test_settings_that_cannot_work(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(RolloutopsError, match=said):
        ScriptedEngine(**settings)
