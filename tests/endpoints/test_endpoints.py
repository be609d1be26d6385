"""Each endpoint of the table: one turn, three turns with tools, reasoning, arguments that are not JSON, refusals."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.endpoints.server import (
    ANSWER,
    BROKEN,
    ENDS,
    HABITS,
    KEY,
    SAME,
    THOUGHT,
    WAITS,
    Endpoint,
    ids_in,
    is_own,
    kind_of,
)
from tests.helpers import query, rolloutops, write_jsonl
from tests.loopback import serving

TALKS = ("single", "tools", "twice", "broken", "stuck")


def collect(folder: Path, server: Endpoint, talks: tuple[str, ...], code: int = 0, **settings: Any) -> str:
    """Collect one rollout of each of these talks; returns what was printed."""
    rows = [
        {"id": kind, "prompt": f"{kind} What is the code?", "document": ["The code is 42."], "expected_answer": ["42"]}
        for kind in talks
    ]
    write_jsonl(folder / "tasks.jsonl", rows)
    settings = {"max_attempts": 1, "num_samples_in_parallel": 1, **settings}
    words = [f"--{name}={value}" for name, value in settings.items()]
    if header := server.habits.get("key_header"):
        words.append(f"--engine_args.api_key_header={header}")
    return rolloutops(
        *("collect", "--input=tasks.jsonl", "--data=w", "--environment=multi_step", "--engine=openai", "--model=m"),
        *(f"--base_url={server.url}", f"--endpoint={server.habits['api']}", "--num_repeats=1", *words),
        cwd=folder,
        code=code,
        OPENAI_API_KEY=KEY,
    ).stderr


def rollouts(folder: Path) -> dict[str, dict[str, Any]]:
    """What was collected, by task."""
    names = ("row->>'id'", "completion", "text", "finish_reason", "reward", "turns", "tool_errors")
    return {
        row[0]: dict(zip(names, row, strict=True))
        for row in query(folder / "w", f"SELECT {', '.join(names)} FROM rollouts")
    }


@pytest.mark.parametrize("name", HABITS)
def test_an_endpoint_is_talked_to_and_each_of_its_refusals_ends_as_documented(name: str, tmp_path: Path) -> None:
    """One run: conversations, refusals of a prompt and such as pass; last, held back till then, what ends it."""
    refusals = HABITS[name]["refusals"]
    ends = tuple(kind for kind in refusals if kind_of(kind) in ENDS)
    own = tuple(kind for kind in refusals if kind not in ends)
    talks = (*TALKS[:1], *own, *TALKS[1:], *(["unread"] if "unread" in HABITS[name] else []))
    with serving(Endpoint, habits=HABITS[name], left=set(talks)) as server:
        settings = {"max_attempts": 2, "retry_seconds": 0.01, "grace_seconds": 60, "max_given_up": 1}
        said = collect(
            tmp_path, server, (*ends, *talks), 2 if ends else 0, num_samples_in_parallel=1 + len(ends), **settings
        )
    found = rollouts(tmp_path)
    conversations_are_whole(name, server, found)
    waited = [kind for kind in own if kind_of(kind) in WAITS]
    assert [found[kind]["text"] for kind in waited] == [ANSWER] * len(waited)
    for kind in waited:  # asked once more, and not before the pause
        asked, again = server.asked[kind]
        assert again - asked >= (refusals[kind][3] if len(refusals[kind]) > 3 else 0) - 0.02
    errors = query(
        tmp_path / "w",
        "SELECT t.row->>'id', error, final, error_message FROM attempts JOIN tasks AS t USING (dataset, task_id) "
        "WHERE error IS NOT NULL",
    )
    assert {kind: (error, final) for kind, error, final, _ in errors} == {
        kind: ("unauthorized" if kind in ends else kind_of(kind), kind in own and kind not in waited)
        for kind in refusals
    }
    for kind, _, _, message in errors:
        assert all(part in message for part in reasons(refusals[kind][1])), (kind, message)
    assert all(len(server.asked[kind]) == 1 for kind in (*ends, *own) if kind not in waited)
    assert {
        row[0] for row in query(tmp_path / "w", "SELECT row->>'id' FROM given_up JOIN tasks USING (dataset, task_id)")
    } == set(own) - set(waited)
    assert {
        row[0] for row in query(tmp_path / "w", "SELECT row->>'id' FROM pending JOIN tasks USING (dataset, task_id)")
    } == set(ends)
    assert not ends or "No rollout was given up; fix the cause and rerun" in said


def conversations_are_whole(name: str, server: Endpoint, found: dict[str, dict[str, Any]]) -> None:
    """Whether the talks were held to their ends, with what the endpoint returned."""
    assert set(TALKS) <= set(found)
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
            thinks = message["role"] == "assistant" and row["finish_reason"] != "generation_refused"
            if thinks and HABITS[name].get("reasoning") not in (None, "parts"):
                assert message["reasoning_content"] == THOUGHT, kind
    assert found["stuck"]["finish_reason"] == "replay_refused"
    assert found["broken"]["tool_errors"] == 1
    stored = json.loads(found["broken"]["completion"])
    assert stored[0]["tool_calls"][0]["function"]["arguments"] == BROKEN
    # What the endpoint refused is known from then on: one refusal for each field, and the one that stands.
    assert server.refused <= 2 + len(HABITS[name].get("refuses", ()))
    if "unread" in HABITS[name]:
        row = found["unread"]
        text = HABITS[name]["unread"][2]
        assert (row["text"], row["finish_reason"], row["reward"], row["turns"]) == (text, "generation_refused", 0.0, 2)
        # Not asked again, neither as another try nor without fields that nobody refused.
        assert sum("unread" in json.dumps(body) for body in server.bodies) <= 2 + server.refused


def reasons(body: str) -> list[str]:
    """The sentences of a refusal: values of the keys that hold one, where they are texts."""
    found = re.findall(r'"(?:message|error|detail|msg|raw)":\s*"((?:[^"\\]|\\.)*)"', body.replace('\\"', '"'))
    return [text for text in found if not text.startswith("{")]


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


def test_several_choices_are_refused_wherever_they_are_asked_for(tmp_path: Path) -> None:
    own: list[dict[str, Any]] = [{"n": 4}, {"extra_body": {"n": 2}}, {"metadata": {"extra_body": '{"n": 3}'}}]
    rows = [{"responses_create_params": {"input": "2+3?", **each}, "expected_answer": "5"} for each in own]
    write_jsonl(tmp_path / "tasks.jsonl", rows)
    with serving(Endpoint, habits=HABITS["vllm"]) as server:
        rolloutops(
            *("collect", "--input=tasks.jsonl", "--data=w", "--environment=exact_match", "--engine=openai"),
            *("--model=m", f"--base_url={server.url}", "--endpoint=chat", "--max_given_up=1", "--num_repeats=1"),
            *("--max_attempts=1", "--retry_seconds=0.01"),
            cwd=tmp_path,
            OPENAI_API_KEY=KEY,
        )
    assert not server.bodies
    failed = query(tmp_path / "w", "SELECT error, error_message FROM failures")
    assert [(error, "n must be 1" in message) for error, message in failed] == [("bad_request", True)] * 3
