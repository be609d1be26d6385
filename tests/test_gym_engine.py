"""The gym engine and the remote verifier, against servers that speak as NeMo Gym's do."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from rolloutops.engines import gym_head
from rolloutops.engines.gym import GymEngine
from rolloutops.errors import AttemptFailed, UsageError
from rolloutops.types import ModelCall, RolloutAnswer
from tests.gym_server import GymServer
from tests.helpers import query, read_jsonl, rolloutops, write_jsonl
from tests.loopback import serving

ROW: dict[str, Any] = {
    "responses_create_params": {"input": [{"role": "user", "content": "say 4"}], "temperature": 0.1, "top_p": 0.9},
    "expected_answer": "4",
    "verifier_metadata": {"deep": [1, None]},
    "agent_ref": {"type": "responses_api_agents", "name": "counter"},
}
MESSAGES = [{"role": "user", "content": "say 4"}]


def call(row: Mapping[str, Any] = ROW, **more: Any) -> ModelCall:
    return ModelCall(
        **{"messages": MESSAGES, "tools": None, "params": {"temperature": 0.7}, "key": "d/t/3", "row": row} | more
    )


def roll(calls: list[ModelCall], **settings: Any) -> list[RolloutAnswer | AttemptFailed]:
    """What becomes of calls, one after the other."""

    async def go() -> list[RolloutAnswer | AttemptFailed]:
        engine = GymEngine(**settings)
        await engine.start()
        ended: list[RolloutAnswer | AttemptFailed] = []
        try:
            for one in calls:
                try:
                    ended.append(await engine.rollout(one))
                except AttemptFailed as failed:
                    ended.append(failed)
        finally:
            await engine.stop()
        return ended

    return asyncio.run(go())


def test_the_row_goes_out_as_gym_materialises_it() -> None:
    with serving(GymServer) as server:
        (answer,) = roll([call()], base_url=server.url)
    assert isinstance(answer, RolloutAnswer)
    sent = server.bodies[0]
    assert sent == {
        **ROW,
        "responses_create_params": {**ROW["responses_create_params"], "temperature": 0.7},
        "_ng_task_index": sent["_ng_task_index"],
        "_ng_rollout_index": 3,
    }
    assert isinstance(sent["_ng_task_index"], int)
    assert answer.completion == [{"role": "assistant", "content": "Answer: say 4"}]
    assert answer.returned == {"expected_answer": "4", "verifier_metadata": {"deep": [1, None]}, "reward": 1.0} | {
        "right": True,
        "length": 13,
    }
    assert (answer.verifier, answer.model, answer.finish_reason, answer.turns) == ("counter", "gym-model", "stop", 1)
    assert (answer.input_tokens, answer.output_tokens, answer.cached_tokens) == (2, 3, 1)
    assert json.loads(answer.raw)["response"]["output"][0]["content"][0]["text"] == "Answer: say 4"


def test_other_rows_other_prompts_and_later_tries() -> None:
    """A chat row becomes Responses items; a system prompt of the policy is sent; a retry says which it is."""
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    system = [{"role": "system", "content": "short"}, *MESSAGES]
    with serving(GymServer) as server:
        calls = [call({"messages": MESSAGES, "_ng_task_index": 5}, tools=[tool]), call(messages=system, attempt=2)]
        roll(calls, base_url=f"{server.url}/run", agent="fallback")
    chat, prompted = server.bodies
    assert chat["responses_create_params"]["input"] == [{"type": "message", "role": "user", "content": "say 4"}]
    assert [tool["name"] for tool in chat["responses_create_params"]["tools"]] == ["f"]
    assert chat["agent_ref"] == {"type": "responses_api_agents", "name": "fallback"}
    assert (chat["_ng_task_index"], "_ng_attempt_index" in chat) == (5, False)
    assert [item["role"] for item in prompted["responses_create_params"]["input"]] == ["system", "user"]
    assert prompted["responses_create_params"]["top_p"] == 0.9
    assert prompted["_ng_attempt_index"] == 1


def test_a_task_set_is_asked_as_an_episode() -> None:
    row = {"task_id": {"taskset": "s", "task_id": "1"}, "task_input": ROW}
    with serving(GymServer) as server:
        (answer,) = roll([call(row, attempt=3)], base_url=server.url)
    assert isinstance(answer, RolloutAnswer)
    assert answer.returned is not None
    assert answer.returned["reward"] == 1.0
    sent = server.bodies[0]
    assert sent["task"] == row
    assert sent["episode_id"]["attempt"] == 2
    assert sent["episode_id"]["rollout_id"].endswith("-r3")


def test_agents_have_their_own_servers() -> None:
    other = {**ROW, "agent_ref": {"name": "other"}}
    with serving(GymServer) as one, serving(GymServer) as rest:
        roll([call(), call(other)], agents={"counter": one.url, "_default": rest.url})
        (unknown,) = roll([call(other)], agents={"counter": one.url})
    assert [body["agent_ref"]["name"] for body in one.bodies] == ["counter"]
    assert [body["agent_ref"]["name"] for body in rest.bodies] == ["other"]
    assert isinstance(unknown, AttemptFailed)
    assert (unknown.kind, unknown.final) == ("bad_request", True)
    assert "no URL for agent 'other'" in unknown.message


def test_cookies_stay_with_their_rollout() -> None:
    """A later try of a rollout brings its cookie back; no other rollout does, nor the same one when it is over."""
    with serving(GymServer, faults=["500", "429"]) as server:
        first, second = call(key="d/t/0"), call(key="d/t/1")
        roll([first, second, first, second, first], base_url=server.url)
    assert [entry["cookie"] for entry in server.log] == [None, None, "1", "2", None]


@pytest.mark.parametrize(
    ("fault", "kind", "final"),
    [
        ("500", "server_error", False),
        ("429-after", "rate_limited", False),
        ("400", "bad_request", True),
        ("404", "bad_request", True),
        ("html", "bad_response", False),
        ("truncated", "bad_response", False),
        ("no-answer", "bad_response", False),
        ("reset", "connection", False),
        ("refuse", "connection", False),
        ("redirect", "bad_request", True),
        ("hang", "timeout", False),
    ],
)
def test_what_goes_wrong_on_the_way(fault: str, kind: str, final: bool) -> None:
    with serving(GymServer, faults=[fault]) as server:
        (failed,) = roll([call()], base_url=server.url, request_timeout=0.5)
    assert isinstance(failed, AttemptFailed)
    assert (failed.kind, failed.final) == (kind, final)
    assert failed.retry_after == (2.0 if fault == "429-after" else None)


LOST = {"reward": 0.0, "mask_sample": True}


@pytest.mark.parametrize(
    ("reply", "kind", "final", "said"),
    [
        ({"_ng_failure_class": "timeout_exceeded", "_ng_failure_message": "600 s"}, "timeout", False, "600 s"),
        ({"_ng_failure_class": "agent_run_error", "_ng_failure_terminal": True}, "server_error", True, "agent_run"),
        ({"_ng_failure_class": "agent_request_failed", "_ng_failure_http_status": 429}, "rate_limited", False, "429"),
        ({**LOST, "failure_kind": "session_lost", "failure_reason": "gone"}, "server_error", False, "gone"),
        ({**LOST, "failure_kind": "transport_timeout"}, "timeout", False, "transport_timeout"),
        ({"failure": {"failure_reason": "no seat", "terminal": False}}, "server_error", False, "no seat"),
        ({"failure": {"failure_reason": "bad", "terminal": True}}, "server_error", True, "bad"),
        ({"detail": "what?"}, "bad_response", False, "neither a reward nor a response"),
    ],
)
def test_replies_that_are_failures(reply: dict[str, Any], kind: str, final: bool, said: str) -> None:
    with serving(GymServer, whole=lambda row: reply) as server:
        (failed,) = roll([call()], base_url=server.url)
    assert isinstance(failed, AttemptFailed)
    assert (failed.kind, failed.final) == (kind, final)
    assert said in failed.message


def test_a_judge_that_failed_leaves_the_rollout() -> None:
    lost = {"mask_sample": True, "failure_kind": "judge_failed", "reward": 0.0}
    with serving(GymServer, more=lambda row: lost) as server:
        (answer,) = roll([call()], base_url=server.url)
    assert isinstance(answer, RolloutAnswer)
    assert answer.returned is not None
    assert answer.returned["mask_sample"] is True


@pytest.mark.parametrize("settings", [{}, {"base_url": "localhost:8000"}, {"agents": {"a": "ftp://x"}}])
def test_a_url_is_needed(settings: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="gym engine"):
        GymEngine(**settings)


def tasks(count: int) -> list[dict[str, Any]]:
    return [
        {
            "responses_create_params": {"input": [{"role": "user", "content": f"say {n}"}]},
            **{"expected_answer": str(n if n % 2 else -1), "n": n, "agent_ref": {"name": "counter"}},
        }
        for n in range(count)
    ]


def test_collect_takes_rollouts_and_rewards_from_a_server(tmp_path: Path) -> None:
    """Rewards and metrics, failures tried again, what is masked left out, what the environment adds kept; and export
    gives back the server's replies."""

    def more(row: dict[str, Any]) -> dict[str, Any]:
        masked = row["n"] == 9
        return {"mask_sample": masked, "failure_kind": "judge_failed" if masked else None}

    write_jsonl(tmp_path / "tasks.jsonl", tasks(10))
    dealt = [{"role": "user", "content": "and hurry", "type": "message"}]
    with serving(GymServer, more=more, added=dealt, faults="500:0.3,reset:7") as server:
        words = ["--input=tasks.jsonl", "--data=w", "--engine=gym", f"--base_url={server.url}", "--num_repeats=2"]
        more_words = ["--responses_create_params.temperature=0.5", "--retry_seconds=0.01", "--max_attempts=9"]
        rolloutops("collect", *words, *more_words, cwd=tmp_path)
        log, bodies = list(server.log), list(server.bodies)
    assert query(tmp_path / "w", "SELECT count(*), count(reward), avg(reward) FROM rollouts") == [(20, 18, 8 / 18)]
    facts = "SELECT DISTINCT engine, model, policy, verifier, verifier_version, turns, request ->> 'temperature' "
    assert query(tmp_path / "w", facts + "FROM rollouts") == [("gym", "gym-model", "gym", "counter", None, 1, "0.5")]
    masked = "SELECT verdict_error, metrics::VARCHAR, count(*) FROM rollouts WHERE reward IS NULL GROUP BY ALL"
    assert query(tmp_path / "w", masked) == [("masked", "{mask_sample=1.0}", 2)]
    prompts = "SELECT DISTINCT json_extract_string(prompt, '$[1].content') FROM rollouts"
    assert query(tmp_path / "w", prompts) == [("and hurry",)]
    delivered = sum(entry["status"] == 200 for entry in log)
    assert delivered >= 20
    failed = query(tmp_path / "w", "SELECT error, count(*) FROM failures WHERE healed GROUP BY error ORDER BY error")
    assert {error for error, _ in failed} == {"connection", "server_error"}
    assert sum(count for _, count in failed) == len(bodies) - 20
    rolloutops("export", "--data=w", "--output=r.jsonl", cwd=tmp_path)
    rows = read_jsonl(tmp_path / "r.jsonl")
    assert sorted((row["_ng_task_index"], row["_ng_rollout_index"]) for row in rows) == [
        (n, r) for n in range(10) for r in (0, 1)
    ]
    assert {row["_ng_task_index"] for row in rows if row["reward"] == 1.0} == {1, 3, 5, 7, 9}
    assert all(row["responses_create_params"]["top_p"] is None and row["right"] == (row["reward"] == 1) for row in rows)


def test_a_resources_server_verifies_later(tmp_path: Path) -> None:
    """Rollouts of any engine go to /verify, each in a session of its own; where the server fails, the verdict has an
    error, and is verified again."""
    write_jsonl(tmp_path / "tasks.jsonl", tasks(6))
    recipe = """
        data = "w"
        [datasets.d]
        input = "tasks.jsonl"
        environment = "remote"
        environment_args = { url = "URL", seed_session = true }
        [collect]
        engine = "scripted"
        verify = "later"
    """
    with serving(GymServer, more=lambda row: {"mask_sample": row["n"] == 5}, faults="500:0.3") as server:
        (tmp_path / "w.toml").write_text(recipe.replace("URL", server.url))
        rolloutops("chunk", "w.toml", cwd=tmp_path)
        rolloutops("collect", "w.toml", cwd=tmp_path)
        assert server.seen == 0
        rolloutops("verify", "w.toml", cwd=tmp_path)
        errors = query(tmp_path / "w", "SELECT count(*) FROM rollouts WHERE verdict_error = 'verifier_error'")[0][0]
        assert 0 < errors < 6
        rolloutops("verify", "w.toml", "--retry_errors", cwd=tmp_path)
        rolloutops("verify", "w.toml", "--retry_errors", cwd=tmp_path)
        reported = {entry["endpoint"]: entry for entry in server.log if entry["status"] == 200}
    found = query(
        tmp_path / "w", "SELECT row ->> 'n', reward, verdict_error, metrics['length'] FROM rollouts ORDER BY 1"
    )
    texts = dict(query(tmp_path / "w", "SELECT row ->> 'n', text FROM rollouts"))
    answers = {str(task["n"]): task["expected_answer"] for task in tasks(6)}
    assert found[:5] == [(n, float(answers[n] in texts[n]), None, float(len(texts[n]))) for n in "01234"]
    assert found[5] == ("5", None, "masked", None)
    assert reported["seed_session"]["cookie"] is None
    assert reported["verify"]["cookie"] is not None
    details = query(
        tmp_path / "w", "SELECT DISTINCT json_keys(details)::VARCHAR FROM rollouts WHERE reward IS NOT NULL"
    )
    assert "response" not in details[0][0]


def test_agent_name_is_the_agent_that_each_row_goes_to(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "tasks.jsonl", tasks(2))
    with serving(GymServer) as server:
        words = ("+agent_name=math_agent", "--engine=gym", f"--base_url={server.url}", "--model=org/qwen")
        rolloutops("collect", "+input_jsonl_fpath=tasks.jsonl", "--data=w", *words, cwd=tmp_path)
        assert [sent["agent_ref"]["name"] for sent in server.bodies] == ["math_agent"] * 2
    assert query(tmp_path / "w", "SELECT DISTINCT policy, verifier FROM rollouts") == [("qwen", "math_agent")]


def test_streams_and_refused_samples_are_read(tmp_path: Path) -> None:
    """A server may stream a rollout after notes; a sample that its model's endpoint refuses is a rollout without a
    reward; an error in place of an output is a failure, whatever reward stands beside it."""
    whole = {**ROW, "response": {"model": "m", "output": [{"type": "message", "role": "assistant", "content": "4"}]}}
    stream = f"event: note\ndata: {{}}\n\ndata: {json.dumps({**whole, 'reward': 1.0})}\n\n".encode()
    refused = {"error": {"message": "Failed to call", "code": "tool_use_failed", "failed_generation": "<f>"}}
    failed = {**ROW, "response": {"output": [], "error": {"code": "invalid_prompt", "message": "flagged"}}, "reward": 0}
    error = b'data: {"error": {"message": "busy", "code": 503}}\n\n'
    plain = {"Content-Type": "application/json"}
    faults: list[Any] = [(200, plain, body) for body in (stream, json.dumps(failed).encode(), error)]
    faults.insert(1, (500, plain, json.dumps({"detail": json.dumps(refused)}).encode()))
    with serving(GymServer, faults=faults) as server:
        read, sample, flagged, busy = roll([call(key=f"d/t/{n}") for n in range(4)], base_url=server.url)
    assert isinstance(read, RolloutAnswer)
    assert (read.completion, read.returned["reward"] if read.returned else None) == (
        [{"role": "assistant", "content": "4"}],
        1.0,
    )
    assert isinstance(sample, RolloutAnswer)
    assert (sample.completion, sample.finish_reason) == (
        [{"role": "assistant", "content": "<f>"}],
        "generation_refused",
    )
    assert sample.refusal
    assert "Failed to call" in sample.refusal
    assert isinstance(flagged, AttemptFailed)
    assert isinstance(busy, AttemptFailed)
    assert (flagged.kind, flagged.final, busy.kind) == ("content_filter", True, "server_error")


CONFIG: dict[str, Any] = {
    "policy_model_name": "Qwen/Qwen3-8B",
    "policy_model": {"responses_api_models": {"vllm_model": {"model": "${policy_model_name}", "port": 1}}},
    "counter": {"responses_api_agents": {"simple_agent": {"host": "127.0.0.1", "port": 2}}},
    "head_server": {"host": "127.0.0.1", "port": 11000},
}


def test_a_policy_is_named_after_the_model_of_the_head_server(tmp_path: Path) -> None:
    """Also where a later command does not ask: `status`, and a collection while the head server is down."""
    write_jsonl(tmp_path / "tasks.jsonl", tasks(2))
    with serving(GymServer, config=CONFIG) as server:
        words = ("--input=tasks.jsonl", "--data=w", "--engine=gym", f"--base_url={server.url}")
        asked = (*words, f"--engine_args.head_server={server.url.removesuffix('/v1')}")
        rolloutops("collect", *asked, cwd=tmp_path)
        rolloutops("collect", *words, "--num_repeats=2", cwd=tmp_path)
        rolloutops("collect", "--data=w", "--num_repeats=3", cwd=tmp_path)
        assert len(server.bodies) == 6
        assert "nothing to collect" in rolloutops("collect", *asked, "--num_repeats=3", cwd=tmp_path).stderr
        assert "Qwen3-8B" in rolloutops("status", "--data=w", cwd=tmp_path).stdout
        server.config = {**CONFIG, "policy_model_name": "other"}
        rolloutops("collect", *asked, cwd=tmp_path)
        rolloutops("collect", *asked, "--policy=mine", cwd=tmp_path)
    found = query(tmp_path / "w", "SELECT policy, count(*) FROM rollouts GROUP BY policy ORDER BY policy")
    assert found == [("Qwen3-8B", 6), ("mine", 2), ("other", 2)]


def test_a_policy_called_gym_keeps_its_name(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "tasks.jsonl", tasks(2))
    with serving(GymServer) as server:
        words = ("--input=tasks.jsonl", "--data=w", "--engine=gym", f"--base_url={server.url}")
        asked = (*words, f"--engine_args.head_server={server.url.removesuffix('/v1')}")
        rolloutops("collect", *asked, cwd=tmp_path)
        server.config = CONFIG
        rolloutops("collect", *asked, "--num_repeats=2", cwd=tmp_path)
    assert query(tmp_path / "w", "SELECT policy, count(*) FROM rollouts GROUP BY policy") == [("gym", 4)]


def test_a_head_server_counts_that_knows_the_servers_port(monkeypatch: pytest.MonkeyPatch) -> None:
    reference = {"policy_model_name": "${served}", "served": "a/b"}
    for config, model in (({**CONFIG, **reference}, "a/b"), ({**CONFIG, "policy_model_name": "${oc.env:M}"}, None)):
        with serving(GymServer, config=config) as server:
            port = int(server.url.removesuffix("/v1").rpartition(":")[2])
            monkeypatch.setattr(gym_head, "PORT", port)
            config["counter"] = {"responses_api_agents": {"simple_agent": {"port": 2}}}
            assert gym_head.served_model({"base_url": "http://127.0.0.1:2/run"}) == model
            assert gym_head.served_model({"engine_args": {"agents": {"x": "http://127.0.0.1:2"}}}) == model
            assert gym_head.served_model({"base_url": "http://127.0.0.1:11000"}) is None
            assert gym_head.served_model({"base_url": "http://127.0.0.1:3"}) is None
