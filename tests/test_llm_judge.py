"""A model as the judge: asked over HTTP, read robustly, counted; and the ways in which it fails to judge."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from rolloutops.config.plugins import find
from rolloutops.environments.llm_judge import make, verdict_in
from rolloutops.environments.verdict import Verdict
from rolloutops.environments.verification import VerifierRunner
from rolloutops.errors import EngineError, UsageError
from rolloutops.types import Rollout, Task
from tests.helpers import query, rolloutops, sums, write_jsonl
from tests.loopback import serving

TASK = Task("d", "t", {}, [{"role": "user", "content": "What is {answer} in braces?"}], None, "42")


def judged(texts: list[str], **settings: Any) -> list[Verdict]:
    async def run() -> list[Verdict]:
        plugin = find("environment", "llm_judge")
        judge = VerifierRunner(plugin.make(settings), plugin, settings)
        try:
            return await asyncio.gather(*(judge.verify(TASK, Rollout([], text)) for text in texts))
        finally:
            await judge.close()

    return asyncio.run(run())


def at(server: Any, **more: Any) -> dict[str, Any]:
    return {"engine": "openai", "model": "judge", "engine_args": {"base_url": server.url}, **more}


def says(reward: Any) -> Any:
    return lambda _: f"Let me think {{about}} it.\n```json\n{json.dumps({'reason': 'so', 'reward': reward})}\n```"


def test_a_verdict_and_what_it_cost() -> None:
    prompt = 'Q: {prompt} A: {response} R: {answer} {{other}} \\text{kg} {"reward": 1}'
    with serving(answer=says(0.75)) as server:
        (verdict,) = judged(
            ["<think>no</think> it is {prompt}"], **at(server, prompt=prompt, params={"temperature": 0})
        )
        body = server.bodies[0]
    requested = 'Q: What is {answer} in braces? A: it is {prompt} R: 42 {other} \\text{kg} {"reward": 1}'
    assert body["input"][0]["content"] == requested, "places are filled once: what fills them is not read again"
    assert (body["model"], body["temperature"]) == ("judge", 0)
    assert (verdict.reward, verdict.error, verdict.details["reason"]) == (0.75, None, "so")
    assert verdict.details["judge_model"] == "judge"
    spent = {"judge_calls": 1.0, "judge_input_tokens": len(requested.split()), "judge_output_tokens": 11.0}
    assert {name: verdict.metrics[name] for name in spent} == spent


def test_failed_calls_are_made_again_and_counted() -> None:
    with serving(answer=says(1), faults=["500", "empty", None]) as server:
        (verdict,) = judged(["x"], **at(server))
    assert (verdict.reward, verdict.metrics["judge_calls"]) == (1.0, 3.0)


@pytest.mark.parametrize(
    ("answer", "told", "calls"),
    [
        (lambda _: "It is fine.", "gave no JSON object with a 'reward'", 2),
        (says(7), "not from 0 to 1: 7", 2),
        (says("good"), "is not a number: 'good'", 2),
    ],
)
def test_no_verdict_is_an_error_that_says_why_and_what_it_cost(answer: Any, told: str, calls: int) -> None:
    with serving(answer=answer) as server:
        (verdict,) = judged(["x"], **at(server, max_attempts=2))
    assert (verdict.reward, verdict.error) == (None, "verifier_error")
    assert told in (verdict.error_message or "")
    assert verdict.metrics["judge_calls"] == calls
    assert verdict.metrics["judge_output_tokens"] > 0


def test_a_call_that_cannot_succeed_is_not_made_again() -> None:
    with serving(faults=["400", "400"]) as server:
        (verdict,) = judged(["x"], **at(server))
    assert (verdict.error, verdict.metrics["judge_calls"]) == ("verifier_error", 1.0)
    assert "bad_request" in (verdict.error_message or "")


def test_a_refused_key_ends_the_run() -> None:
    with serving(faults=["401"] * 50) as server, pytest.raises(EngineError, match="cannot reach the judge"):
        judged(["x", "y"], **at(server))


def test_waiting_for_a_turn_is_not_part_of_a_verdicts_time() -> None:
    """Twelve verdicts of 0.2 s, one at a time, take longer than the two seconds that each may."""
    with serving(answer=says(1), latency=0.2) as server:
        verdicts = judged([str(n) for n in range(12)], **at(server, parallel=1, seconds=2.0))
    assert [verdict.reward for verdict in verdicts] == [1.0] * 12


@pytest.mark.parametrize(
    ("text", "reward"),
    [
        ('{"reward": 1}', 1.0),
        ('{"reward": true, "reason": "a } b"}', 1.0),
        ('{"reward": "0.5"}', 0.5),
        ('first {"reward": 0} then {"reward": 1} and so on', 1.0),
        ('```json\n{"reason": "two\nlines", "reward": 0.25}\n```', 0.25),
        ('<think>{"reward": 0}</think>{"scores": {"a": 1}, "reward": 0.5}', 0.5),
    ],
)
def test_verdicts_are_read_robustly(text: str, reward: float) -> None:
    assert verdict_in(text)["reward"] == reward


@pytest.mark.parametrize("text", ["", "{}", "reward: 1", '{"reward": null}', '{"reward": -0.1}', '{"reward": NaN}'])
def test_what_is_no_verdict(text: str) -> None:
    with pytest.raises(ValueError, match="the judge"):
        verdict_in(text)


@pytest.mark.parametrize(
    ("place", "hint"),
    [("Response", "response"), ("reponse", "response"), ("row", ""), ("row.", ""), ("task.answer", ""), ("rubric", "")],
)
def test_a_place_that_nothing_fills_is_refused(place: str, hint: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as refused:
        make("scripted", prompt=f"{{response}} and {{{place}}}")
    assert f"an unknown placeholder {{{place}}}" in str(refused.value)
    assert f"{{{{{place}}}}}" in str(refused.value)
    assert hint in str(refused.value)


def test_the_row_and_the_whole_transcript_are_shown_to_the_judge() -> None:
    row = {"rubric": "Is it {prompt}?", "about": {"level": 3, "tags": ["a", "ü"]}, "a.b": "dotted", "two words": "2"}
    call = {"id": "c", "type": "function", "function": {"name": "look", "arguments": '{"for": "Oslo"}'}}
    completion = [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "It rained."},
        {"role": "assistant", "content": "<think>hm</think>In Oslo."},
    ]
    environment = make(
        "scripted", prompt="{row.rubric}|{row.about.level}|{row.about.tags}|{row.a.b}|{row.two words}|{transcript}"
    )
    task = Task("d", "t", row, [{"role": "user", "content": "Where?"}], None, "Oslo")
    shown = environment._filled(task, Rollout(completion, "In Oslo."))
    reported = '[assistant]\ncalls look({"for": "Oslo"})\n\n[tool]\nIt rained.\n\n[assistant]\nIn Oslo.'
    assert shown == f'Is it {{prompt}}?|3|["a", "ü"]|dotted|2|{reported}'
    (verdict,) = judged(["x"], engine="scripted", prompt="{response} {row.gone}")
    assert "asks for {row.gone}, and the task's row has no such field" in (verdict.error_message or "")


def test_of_several_samples_the_median_counts() -> None:
    said = iter([says(0.9), says(0.1), lambda _: "no verdict", lambda _: "none again", says(0.5)])
    with serving(answer=lambda body: next(said)(body)) as server:
        (verdict,) = judged(["x"], **at(server, samples=4, max_attempts=1, params={"seed": 7}))
        seeds = sorted(body.get("seed", -1) for body in server.bodies)
    assert verdict.reward == pytest.approx(0.5)
    assert sorted(verdict.details["judge_rewards"]) == [0.1, 0.9]
    assert (verdict.metrics["judge_calls"], verdict.metrics["judge_spread"]) == (4.0, pytest.approx(0.8))
    assert seeds in ([7, 8, 9, 10], [-1] * 4), "samples of one seed would be one sample"
    with serving(answer=lambda _: "none") as server:
        (verdict,) = judged(["x"], **at(server, samples=3, max_attempts=1))
    assert (verdict.reward, verdict.error, verdict.metrics["judge_calls"]) == (None, "verifier_error", 3.0)


def test_settings() -> None:
    with pytest.raises(UsageError, match=r"must hold \{response\} or \{transcript\}"):
        make("scripted", prompt="Good?")
    with pytest.raises(UsageError, match="samples must be at least 1"):
        make("scripted", samples=0)
    with pytest.raises(UsageError, match="at least 1"):
        make("scripted", parallel=0)


def test_through_the_command_line_with_any_engine(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "sums.jsonl", sums(5))
    (tmp_path / "rule.py").write_text("def say(call): return '{\"reward\": 0.5}'")
    (tmp_path / "judged.toml").write_text(
        """
        data = "w"
        [datasets.sums]
        input = "sums.jsonl"
        environment = "llm_judge"
        [datasets.sums.environment_args]
        engine = "scripted"
        engine_args = { rule = "rule.py:say" }
        [collect]
        engine = "scripted"
        """
    )
    rolloutops("chunk", "judged.toml", cwd=tmp_path)
    rolloutops("collect", "judged.toml", cwd=tmp_path)
    found = query(tmp_path / "w", "SELECT count(*), avg(reward), sum(metrics['judge_calls']) FROM rollouts")
    assert found == [(5, 0.5, 5.0)]


def test_what_judging_costs_is_told_and_counts(tmp_path: Path) -> None:
    """Each rollout takes some 20 tokens, and each verdict over 100."""
    write_jsonl(tmp_path / "sums.jsonl", sums(60))
    (tmp_path / "prices.toml").write_text('["m"]\ninput = 0\noutput = 0\n["judge"]\ninput = 1e6\noutput = 1e6\n')
    with serving(answer=says(0.5), latency=0.01) as server:
        (tmp_path / "judged.toml").write_text(
            f"""
            data = "w"
            [datasets.sums]
            input = "sums.jsonl"
            environment = "llm_judge"
            environment_args = {{ engine = "openai", model = "judge", engine_args = {{ base_url = "{server.url}" }} }}
            [collect]
            engine = "openai"
            model = "m"
            base_url = "{server.url}"
            num_samples_in_parallel = 2
            prices = "prices.toml"
            max_cost = 2000
            """
        )
        rolloutops("chunk", "judged.toml", cwd=tmp_path)
        said = rolloutops("collect", "judged.toml", cwd=tmp_path, code=2).stderr
        again = rolloutops("collect", "judged.toml", cwd=tmp_path, code=2).stderr
    taken = "SELECT count(*), sum(metrics['judge_input_tokens'] + metrics['judge_output_tokens'])::INT FROM rollouts"
    ((rollouts, tokens),) = query(tmp_path / "w", taken)
    assert 0 < rollouts < 40
    assert 1000 < tokens < 3000
    for reported in (said, again):
        assert "the budget is spent" in reported
    lines = rolloutops("status", "judged.toml", cwd=tmp_path, COLUMNS="200").stdout.splitlines()
    (line,) = (line.split() for line in lines if " verdicts " in line)
    assert line[:6] == ["sums", "m", "verdicts", "judge", "–", str(rollouts)]
    assert float(line[-3].replace(",", "")) == tokens
