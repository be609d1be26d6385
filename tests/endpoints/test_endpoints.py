"""Each endpoint of the table: one turn, three turns with tools, reasoning, arguments that are not JSON, refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rolloutops.errors import AttemptFailed
from rolloutops.formats.openai_replies import failure, read_chat
from tests.endpoints.server import ANSWER, BROKEN, HABITS, KEY, SAME, THOUGHT, Endpoint, ids_in, is_own
from tests.helpers import query, rolloutops, write_jsonl
from tests.loopback import serving

TALKS = ("single", "tools", "twice", "broken", "stuck")
KINDS = {"out_of_money": "unauthorized"}


def collect(folder: Path, server: Endpoint, talks: tuple[str, ...], code: int = 0, **settings: Any) -> None:
    """Collect one rollout of each of these talks."""
    rows = [
        {"id": kind, "prompt": f"{kind} What is the code?", "document": ["The code is 42."], "expected_answer": ["42"]}
        for kind in talks
    ]
    write_jsonl(folder / "tasks.jsonl", rows)
    words = [f"--{name}={value}" for name, value in {"max_attempts": 1, **settings}.items()]
    if header := server.habits.get("key_header"):
        words.append(f"--engine_args.api_key_header={header}")
    rolloutops(
        *("collect", "--input=tasks.jsonl", "--data=w", "--environment=multi_step", "--engine=openai", "--model=m"),
        *(f"--base_url={server.url}", f"--endpoint={server.habits['api']}", "--num_repeats=1"),
        *("--num_samples_in_parallel=1", *words),
        cwd=folder,
        code=code,
        OPENAI_API_KEY=KEY,
    )


def rollouts(folder: Path) -> dict[str, dict[str, Any]]:
    """What was collected, by task."""
    names = ("row->>'id'", "completion", "text", "finish_reason", "reward", "turns", "tool_errors")
    return {
        row[0]: dict(zip(names, row, strict=True))
        for row in query(folder / "w", f"SELECT {', '.join(names)} FROM rollouts")
    }


@pytest.mark.parametrize("name", HABITS)
def test_conversations_are_held(name: str, tmp_path: Path) -> None:
    with serving(Endpoint, habits=HABITS[name]) as server:
        collect(tmp_path, server, TALKS)
    found = rollouts(tmp_path)
    assert set(found) == set(TALKS)
    assert {found[kind]["text"] for kind in TALKS if kind != "stuck"} == {ANSWER}
    assert [found[kind]["turns"] for kind in TALKS] == [1, 3, 3, 2, 1]
    assert found["tools"]["reward"] == found["twice"]["reward"] == 1.0
    last = max((body for body in server.bodies if "twice" in json.dumps(body)), key=lambda body: len(json.dumps(body)))
    rows = last.get("messages") or last["input"]
    ids = [call_id for row in rows if is_own(row) for call_id in ids_in(row)]
    answers = [
        row.get("tool_call_id") or row["call_id"]
        for row in rows
        if "tool_call_id" in row or (not is_own(row) and "call_id" in row)
    ]
    assert ids == answers
    assert ids[0] == SAME
    assert len({*ids, SAME}) == 2
    assert all(len(call_id) == len(SAME) and call_id.isalnum() for call_id in ids)
    for kind, row in found.items():
        for message in json.loads(row["completion"]):
            if message["role"] == "assistant" and HABITS[name].get("reasoning") not in (None, "parts"):
                assert message["reasoning_content"] == THOUGHT, kind
    assert found["stuck"]["finish_reason"] == "replay_refused"
    assert found["broken"]["tool_errors"] == 1
    stored = json.loads(found["broken"]["completion"])
    assert stored[0]["tool_calls"][0]["function"]["arguments"] == BROKEN
    # What the endpoint refused is known from then on: one refusal for each field, and the one that stands.
    assert server.refused <= 2 + len(HABITS[name].get("refuses", ()))


@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name in HABITS for kind in HABITS[name]["refusals"]])
def test_each_refusal_is_read(name: str, kind: str) -> None:
    status, body, *more = HABITS[name]["refusals"][kind]
    if status == 200:
        with pytest.raises(AttemptFailed) as caught:
            read_chat(body.encode())
        failed = caught.value
    else:
        failed = failure(status, more[0] if more else {}, body.encode())
    assert failed.kind == KINDS.get(kind, kind), failed.message
    if len(more) > 1:
        assert failed.retry_after == more[1]


@pytest.mark.parametrize("name", [name for name in HABITS if "context_length" in HABITS[name]["refusals"]])
def test_a_refusal_is_a_failure_of_its_kind(name: str, tmp_path: Path) -> None:
    kinds = tuple(k for k in ("context_length", "content_filter") if k in HABITS[name]["refusals"])
    with serving(Endpoint, habits=HABITS[name]) as server:
        collect(tmp_path, server, kinds, max_given_up=1)
    assert dict(
        query(tmp_path / "w", "SELECT t.row->>'id', error FROM failures JOIN tasks AS t USING (dataset, task_id)")
    ) == {kind: kind for kind in kinds}


@pytest.mark.parametrize("name", [name for name in HABITS if "unread" in HABITS[name]])
def test_a_sample_that_the_endpoint_cannot_read_is_kept(name: str, tmp_path: Path) -> None:
    with serving(Endpoint, habits=HABITS[name]) as server:
        collect(tmp_path, server, ("unread", "tools"), max_attempts=3)
    found = rollouts(tmp_path)
    assert found["tools"]["text"] == ANSWER
    row = found["unread"]
    assert (row["text"], row["finish_reason"], row["reward"], row["turns"]) == (
        HABITS[name]["unread"][2],
        "generation_refused",
        0.0,
        2,
    )
    # Not asked again, neither as another try nor without fields that nobody refused.
    assert sum("unread" in json.dumps(body) for body in server.bodies) <= 2 + server.refused
    assert query(tmp_path / "w", "SELECT count(*) FROM failures") == [(0,)]


def test_replay_decides_by_hand(tmp_path: Path) -> None:
    with serving(Endpoint, habits=HABITS["gemini"]) as server:
        collect(tmp_path, server, ("tools",), **{"engine_args.replay": "canonical"})
    assert rollouts(tmp_path)["tools"]["finish_reason"] == "replay_refused"
    assert "extra_content" not in json.dumps(server.bodies)


@pytest.mark.parametrize(
    "refusal",
    [
        [422, "Failed to deserialize the JSON body: messages[{place}]: data did not match any variant of MessageBody"],
        [400, '{"error":{"message":"Invalid messages"}}'],
    ],
)
def test_a_refusal_that_names_no_field(refusal: list[Any], tmp_path: Path) -> None:
    habits = {**HABITS["groq"], "refusal": refusal}
    with serving(Endpoint, habits=habits) as server:
        collect(tmp_path, server, ("tools",))
    assert rollouts(tmp_path)["tools"]["text"] == ANSWER
    assert server.refused == 1


def test_a_refused_key_ends_the_run_and_no_rollout_is_given_up(tmp_path: Path) -> None:
    with serving(Endpoint, habits=HABITS["gemini"]) as server:
        server.habits = {**server.habits, "key_header": "x-other"}
        rows = [{"prompt": "single", "document": ["a"], "expected_answer": ["42"]}]
        write_jsonl(tmp_path / "tasks.jsonl", rows)
        done = rolloutops(
            *("collect", "--input=tasks.jsonl", "--data=w", "--environment=multi_step", "--engine=openai", "--model=m"),
            *(f"--base_url={server.url}", "--endpoint=chat"),
            cwd=tmp_path,
            code=2,
            OPENAI_API_KEY=KEY,
        )
    assert "API key not valid" in done.stderr
    assert query(tmp_path / "w", "SELECT count(*) FROM given_up") == [(0,)]


@pytest.mark.parametrize("name", ["gemini", "openrouter", "mistral", "sglang", "openai"])
def test_a_stream_that_nobody_asked_for_is_read(name: str, tmp_path: Path) -> None:
    with serving(Endpoint, habits=HABITS[name], stream="whole") as server:
        collect(tmp_path, server, ("single", "tools", "broken"))
    found = rollouts(tmp_path)
    assert [found[kind]["text"] for kind in ("single", "tools", "broken")] == [ANSWER] * 3
    assert [found[kind]["turns"] for kind in ("single", "tools", "broken")] == [1, 3, 2]
    ((tokens, response),) = query(
        tmp_path / "w", "SELECT output_tokens, response FROM rollouts WHERE text = 'The code is 42.' AND turns = 3"
    )
    assert tokens == 21
    assert len(json.loads(response)) == 3
    if HABITS[name].get("reasoning") not in (None, "parts"):
        assert json.loads(found["single"]["completion"])[0]["reasoning_content"] == THOUGHT


@pytest.mark.parametrize("name", ["openai", "groq"])
def test_half_a_stream_is_no_answer(name: str, tmp_path: Path) -> None:
    with serving(Endpoint, habits=HABITS[name], stream="cut") as server:
        collect(tmp_path, server, ("single",), max_given_up=1)
    ((error, message),) = query(tmp_path / "w", "SELECT error, error_message FROM failures")
    assert (error, "the stream ended before" in message) == ("bad_response", True)


@pytest.mark.parametrize("own", [{"n": 4}, {"extra_body": {"n": 2}}, {"metadata": {"extra_body": '{"n": 3}'}}])
def test_several_choices_are_refused_wherever_they_are_asked_for(own: dict[str, Any], tmp_path: Path) -> None:
    row = {"responses_create_params": {"input": "2+3?", **own}, "expected_answer": "5"}
    write_jsonl(tmp_path / "tasks.jsonl", [row])
    with serving(Endpoint, habits=HABITS["vllm"]) as server:
        rolloutops(
            *("collect", "--input=tasks.jsonl", "--data=w", "--environment=exact_match", "--engine=openai"),
            *("--model=m", f"--base_url={server.url}", "--endpoint=chat", "--max_given_up=1"),
            cwd=tmp_path,
            OPENAI_API_KEY=KEY,
        )
    assert not server.bodies
    ((error, message),) = query(tmp_path / "w", "SELECT DISTINCT error, error_message FROM failures")
    assert (error, "n must be 1" in message) == ("bad_request", True)
