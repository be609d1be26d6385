"""Import and export: rows come back value for value, rollouts belong to their task, and nothing is imported twice."""

from __future__ import annotations

import json
import operator
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rolloutops.config.plan import make_plan
from rolloutops.config.recipe import Recipe
from rolloutops.config.settings import Dataset
from rolloutops.errors import InputError
from rolloutops.formats.rollouts import gym
from rolloutops.ingest.export import export
from rolloutops.ingest.import_rollouts import ImportReport, import_rollouts
from rolloutops.steps.step import measure
from rolloutops.store import sql
from rolloutops.store.workspace import Workspace, connect, open_workspace
from tests.helpers import SHARED, query, read_jsonl, rolloutops, sums, write_jsonl

GYM = SHARED / "data" / "gym"
needs_gym = pytest.mark.skipif(not GYM.is_dir(), reason="NeMo Gym's example data are not next to the checkout")
NO_ROLLOUTS = ("_materialized_inputs", "_reward_profiling", "_failures")


def rollout_files() -> list[Path]:
    """Every file of rollouts among NeMo Gym's examples."""
    named = [path for path in sorted(GYM.rglob("*.jsonl")) if "rollout" in path.name or path.stem.endswith("_output")]
    return [path for path in named if not path.stem.endswith(NO_ROLLOUTS)]


def values(rows: Sequence[Mapping[str, Any]]) -> Counter[str]:
    """Rows as texts that are equal for equal values: 1 and 1.0 differ, the order of keys does not count."""
    return Counter(json.dumps(row, sort_keys=True) for row in rows)


def imported(folder: Path, *files: Path | str, dataset: str = "d", run: str = "run1", **more: Any) -> ImportReport:
    return import_rollouts(open_workspace(folder, create=True), dataset, [str(file) for file in files], run, **more)


def exported(folder: Path, dataset: str = "d", sidecars: bool = False) -> list[dict[str, Any]]:
    output = folder.parent / "out" / "rollouts.jsonl"
    count = export(Workspace(folder), make_plan(Recipe(folder, {dataset: Dataset()})), output, sidecars)
    rows = read_jsonl(output)
    assert len(rows) == count
    return rows


def look(folder: Path, text: str) -> list[tuple[Any, ...]]:
    return sql.rows(connect(Workspace(folder)), text)


def gym_row(prompt: str, text: str, reward: float = 1.0, **more: Any) -> dict[str, Any]:
    """A rollout row as NeMo Gym writes it."""
    part = {"type": "output_text", "text": text, "annotations": []}
    said = {"type": "message", "role": "assistant", "status": "completed", "content": [part]}
    usage = {"input_tokens": 3, "output_tokens": 5, "total_tokens": 8}
    return {
        "responses_create_params": {"input": [{"role": "user", "content": prompt}], "temperature": 0.5, "top_p": None},
        "response": {
            "id": f"resp_{text}",
            "model": "org/policy",
            "object": "response",
            "output": [said],
            "usage": usage,
        },
        "reward": reward,
        "right": reward > 0.5,
        **more,
    }


@needs_gym
def test_every_rollout_file_comes_back_value_for_value(tmp_path: Path) -> None:
    files = rollout_files()
    assert len(files) > 90
    lines = [
        (file, n, line) for file in files for n, line in enumerate(file.read_text().split("\n"), 1) if line.strip()
    ]
    rows = [json.loads(line) for _, _, line in lines if line.startswith("{")]
    bad = [f"{file}:{n}" for file, n, line in lines if not line.startswith("{")]
    done = imported(tmp_path / "w", *files)
    assert done.rollouts + done.duplicates == len(rows)
    assert done.duplicates == len(rows) - len(values(rows))
    assert done.read == done.prompts + done.rollouts + done.duplicates + done.rejected
    assert done.rejected == len(bad)
    rejected = read_jsonl(tmp_path / "w" / "rejected" / "d.import.jsonl")
    assert [f"{row['origin']}:{row['line']}" for row in rejected] == bad
    assert values(exported(tmp_path / "w")) == values(rows)
    assert look(tmp_path / "w", "SELECT count(*) FROM rollouts") == [(done.rollouts,)]
    again = imported(tmp_path / "w", *files, run="run2")
    assert (again.rollouts, again.duplicates, again.tasks, again.verdicts) == (0, 0, 0, 0)
    assert again.already_present == len(rows)


@needs_gym
def test_averages_are_the_published_ones(tmp_path: Path) -> None:
    kinds = {"mean": "mean", "max": "max", "min": "min", "median": "median", "std": "std"}
    total, missed = 0, []
    for published in sorted(GYM.rglob("*_aggregate_metrics.json")):
        folder = tmp_path / published.parent.parent.name
        imported(folder, published.with_name(published.name.replace("_aggregate_metrics.json", ".jsonl")))
        con = connect(Workspace(folder))
        columns, rows = measure(con, "metrics/rewards")
        found = {row["metric"]: row for row in (dict(zip(columns, row, strict=True)) for row in rows)}
        for name, tokens in (
            ("input", "input_tokens"),
            ("output", "output_tokens"),
            ("total", "input_tokens + output_tokens"),
        ):
            statistics = "avg(n) AS mean, max(n) AS max, min(n) AS min, median(n) AS median, stddev_samp(n) AS std"
            row = sql.records(con, f"SELECT {statistics} FROM (SELECT {tokens} AS n FROM rollouts)")[0]
            found[f"{name}_tokens"] = row
        (agent,) = json.loads(published.read_text())
        for key, value in agent["agent_metrics"].items():
            kind, _, metric = key.partition("/")
            if kind in kinds and isinstance(value, int | float):
                total += 1
                ours = found.get(metric, {}).get(kinds[kind])
                if ours is None or abs(ours - value) > 1e-9 * max(1.0, abs(value)):
                    missed.append((published.parent.parent.name, key, value, ours))
    assert missed == []
    assert total > 250


def test_a_task_is_what_was_asked_and_never_a_place_in_the_file(tmp_path: Path) -> None:
    rows = [gym_row(f"question {n}", f"answer {n}.{repeat}") for n in range(20) for repeat in range(4)]
    random.Random(5).shuffle(rows)
    done = imported(tmp_path / "w", write_jsonl(tmp_path / "rollouts.jsonl", rows))
    assert (done.rollouts, done.tasks) == (80, 20)
    by_task = (
        "SELECT count(*), count(DISTINCT rollout_index), max(rollout_index), bool_and(contains(text, answers)) FROM "
    )
    by_task += (
        "(SELECT *, replace(json_extract_string(prompt, '$[0].content'), 'question', 'answer') || '.' AS answers "
    )
    assert set(look(tmp_path / "w", by_task + "FROM rollouts) GROUP BY task_id")) == {(4, 4, 3, True)}


@pytest.mark.parametrize("joined", [False, True])
def test_shards_that_count_from_0_again_are_not_mixed_up(tmp_path: Path, joined: bool) -> None:
    """Two shards with the same ids for other tasks, as two files and as one that was made with cat."""
    shards = [
        [
            gym_row(f"{shard} {n}", f"{shard} {n}.{r}", _ng_task_index=n, _ng_rollout_index=r)
            for n in (0, 1)
            for r in (1, 0)
        ]
        for shard in ("a", "b")
    ]
    if joined:
        write_jsonl(tmp_path / "all.jsonl", [*shards[0], *shards[1]])
    else:
        for number, rows in enumerate(shards):
            write_jsonl(tmp_path / f"shard-{number}.jsonl", rows)
    done = imported(tmp_path / "w", tmp_path / "*.jsonl")
    assert (done.rollouts, done.tasks, done.renumbered) == (8, 4, 0)
    texts = look(
        tmp_path / "w", "SELECT json_extract_string(prompt, '$[0].content'), rollout_index, text FROM rollouts"
    )
    assert {f"{prompt}.{index}" for prompt, index, _ in texts} == {text for _, _, text in texts}
    assert values(exported(tmp_path / "w")) == values([*shards[0], *shards[1]])


def test_an_index_that_is_taken_becomes_the_next_free_one(tmp_path: Path) -> None:
    ids = {"_ng_task_index": 0, "_ng_rollout_index": 0}
    first = write_jsonl(
        tmp_path / "a.jsonl", [gym_row("q", "one", **ids), gym_row("q", "two", **ids | {"_ng_rollout_index": 1})]
    )
    second = write_jsonl(tmp_path / "b.jsonl", [gym_row("q", "three", **ids)])
    imported(tmp_path / "w", first)
    done = imported(tmp_path / "w", second, run="run2")
    assert (done.rollouts, done.tasks, done.renumbered) == (1, 0, 1)
    assert look(tmp_path / "w", "SELECT rollout_index, text FROM rollouts ORDER BY 1") == [
        (0, "one"),
        (1, "two"),
        (2, "three"),
    ]


def test_materialized_inputs_and_failures_beside_the_file(tmp_path: Path) -> None:
    """A verifier's input that no rollout repeats, a task without a rollout that came, and tries that failed."""
    inputs = [
        {
            "responses_create_params": {
                "input": [{"role": "user", "content": f"q{n}"}],
                "metadata": {"seed": str(repeat)},
            },
            **{"options": [{"A": n}], "expected_answer": "A", "_ng_task_index": n, "_ng_rollout_index": repeat},
        }
        for n in range(2)
        for repeat in range(2)
    ]
    rows = [gym_row("q0", f"a{r}", expected_answer="A", _ng_task_index=0, _ng_rollout_index=r) for r in (1, 0)]
    failed: dict[str, Any] = {"_ng_task_index": 1, "_ng_rollout_index": 0, "agent_ref": {"name": "a"}}
    failed |= {"_ng_failure_class": "agent_run_error", "_ng_failure_type": "ClientResponseError"}
    failures = [
        failed | {"_ng_failure_message": "boom", "_ng_failure_http_status": 500, "_ng_failure_response_body": "{}"},
        failed
        | {"_ng_failure_class": "timeout_exceeded", "_ng_failure_message": "slow", "_ng_failure_terminal": True}
        | {"_ng_attempt_index": 1},
    ]
    write_jsonl(tmp_path / "r_materialized_inputs.jsonl", inputs)
    write_jsonl(tmp_path / "r_failures.jsonl", failures)
    (tmp_path / "other_failures.jsonl").touch()
    done = imported(tmp_path / "w", write_jsonl(tmp_path / "r.jsonl", rows), tmp_path / "other*.jsonl")
    assert (done.prompts, done.rollouts, done.failures, done.tasks) == (4, 2, 2, 2)
    rollouts = look(
        tmp_path / "w",
        "SELECT rollout_index, text, json_extract_string(row, '$.options[0].A') FROM rollouts ORDER BY 1",
    )
    assert rollouts == [(0, "a0", "0"), (1, "a1", "0")]
    reported = "SELECT t.row ->> 'expected_answer', policy, rollout_index, attempt, error, final FROM attempts "
    reported += "JOIN tasks AS t USING (task_id) WHERE error IS NOT NULL ORDER BY attempt"
    assert look(tmp_path / "w", reported) == [
        ("A", "policy", 0, 1, "server_error", False),
        ("A", "policy", 0, 2, "timeout", True),
    ]
    assert values(exported(tmp_path / "w", sidecars=True)) == values(rows)
    assert values(read_jsonl(tmp_path / "out" / "rollouts_failures.jsonl")) == values(failures)


def test_a_failure_without_its_task_is_named(tmp_path: Path) -> None:
    failure = {"_ng_failure_class": "judge_failed", "_ng_task_index": 7, "_ng_rollout_index": 0}
    rows = [gym_row("q", "a"), failure]
    done = imported(tmp_path / "w", write_jsonl(tmp_path / "r.jsonl", rows))
    assert (done.rollouts, done.failures, done.rejected) == (1, 0, 1)
    assert done.examples == [
        f"{tmp_path / 'r.jsonl'}:2: its task is in none of the files: import the materialized inputs or requests too"
    ]


def test_tokens_are_counted_under_either_name(tmp_path: Path) -> None:
    rows = [gym_row("q", "a"), gym_row("q", "b"), gym_row("q", "c")]
    rows[1]["response"]["usage"] = {"prompt_tokens": 4, "completion_tokens": 6, "total_tokens": 10}
    rows[2]["response"]["usage"] = {}
    imported(tmp_path / "w", write_jsonl(tmp_path / "r.jsonl", rows))
    counts = look(tmp_path / "w", "SELECT text, input_tokens, output_tokens FROM rollouts ORDER BY text")
    assert counts == [("a", 3, 5), ("b", 4, 6), ("c", None, None)]


def test_import_again_adds_nothing_and_mends_what_a_crash_left(tmp_path: Path) -> None:
    rows = [gym_row(f"q{n % 7}", f"a{n}", reward=n % 2) for n in range(50)]
    file = write_jsonl(tmp_path / "r.jsonl", rows)
    imported(tmp_path / "w", file)
    before = look(tmp_path / "w", "SELECT task_id, rollout_index, text, reward FROM rollouts ORDER BY ALL")
    turned = [{key: row[key] for key in reversed(row)} for row in reversed(rows)]
    done = imported(tmp_path / "w", write_jsonl(tmp_path / "s.jsonl", turned), run="run2")
    assert (done.already_present, done.rollouts, done.tasks) == (50, 0, 0)
    for part in (tmp_path / "w" / "attempts" / "d").glob("*.parquet"):
        part.unlink()
    done = imported(tmp_path / "w", file, run="run3")
    assert (done.rollouts, done.tasks) == (50, 0)
    assert look(tmp_path / "w", "SELECT task_id, rollout_index, text, reward FROM rollouts ORDER BY ALL") == before


def test_the_same_rows_in_two_datasets_are_rollouts_of_each(tmp_path: Path) -> None:
    """Attempts are named after their row, so both datasets have the same names."""
    rows = [gym_row("q", "a", 1.0), gym_row("q", "b", 0.0)]
    for row in rows:
        tokens = {"prompt_token_ids": [1], "generation_token_ids": [2], "generation_log_probs": [-0.1]}
        row["response"]["output"] = [row["response"]["output"][0] | tokens, row["response"]["output"][0] | tokens]
    for name in ("c", "d"):
        imported(tmp_path / "w", write_jsonl(tmp_path / "r.jsonl", rows), dataset=name, run=f"run-{name}")
    mean = "SELECT dataset, count(*), count(DISTINCT text), avg(reward) FROM rollouts GROUP BY ALL ORDER BY ALL"
    assert look(tmp_path / "w", mean) == [("c", 2, 2, 0.5), ("d", 2, 2, 0.5)]
    con = connect(Workspace(tmp_path / "w"))
    for step in ("metrics/token_truth", "metrics/bottleneck"):
        columns, found = measure(con, step)
        assert [(row[0], row[columns.index("rollouts")]) for row in found] == [("c", 2), ("d", 2)]


def test_equal_rows_are_one_rollout_and_come_back_as_often_as_they_were(tmp_path: Path) -> None:
    rows = [gym_row("q", "a"), gym_row("q", "b"), gym_row("q", "a"), gym_row("q", "a")]
    done = imported(tmp_path / "w", write_jsonl(tmp_path / "r.jsonl", rows))
    assert (done.rollouts, done.duplicates) == (2, 2)
    assert look(tmp_path / "w", "SELECT text FROM rollouts ORDER BY 1") == [("a",), ("b",)]
    assert values(exported(tmp_path / "w")) == values(rows)


def test_masked_rollouts_count_nowhere_and_are_counted(tmp_path: Path) -> None:
    lost = {"mask_sample": True, "failure_kind": "session_lost", "failure_reason": "the pod is gone"}
    rows = [
        gym_row("q", "a", 1.0, mask_sample=False),
        gym_row("q", "b", 0.0, **lost),
        gym_row("q", "c", 0.0, mask_sample=False),
    ]
    done = imported(tmp_path / "w", write_jsonl(tmp_path / "r.jsonl", rows))
    assert (done.rollouts, done.verdicts, done.masked) == (3, 3, 1)
    columns, found = measure(connect(Workspace(tmp_path / "w")), "metrics/rewards")
    means = {row[2]: (row[columns.index("mean")], row[columns.index("coverage")]) for row in found}
    assert means["reward"] == means["right"] == (0.5, 0.6667)
    assert means["mask_sample"][0] == pytest.approx(1 / 3)
    reward = "SELECT reward, verdict_error, details ->> '$.reward' FROM rollouts WHERE text = 'b'"
    assert look(tmp_path / "w", reward) == [(None, "masked", "0.0")]
    assert values(exported(tmp_path / "w")) == values(rows)


def test_what_an_environment_adds_to_the_prompt_stays_with_the_rollout(tmp_path: Path) -> None:
    row = gym_row("deal", "hit", _ng_task_index=0, _ng_rollout_index=1)
    row["responses_create_params"]["input"].append({"role": "user", "content": "your hand: 8 and 5"})
    requested = {"responses_create_params": {"input": [{"role": "user", "content": "deal"}]}, "_ng_task_index": 0}
    write_jsonl(tmp_path / "r_materialized_inputs.jsonl", [requested | {"_ng_rollout_index": 1}])
    imported(tmp_path / "w", write_jsonl(tmp_path / "r.jsonl", [row]))
    prompts = (
        "SELECT len(from_json(t.prompt, '[\"JSON\"]')), len(from_json(r.prompt, '[\"JSON\"]')) FROM rollouts AS r "
    )
    assert look(tmp_path / "w", prompts + "JOIN tasks AS t USING (task_id)") == [(1, 2)]


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
KEYS = (
    "reward",
    "response",
    "responses_create_params",
    "_ng_task_index",
    "_ng_rollout_index",
    "agent_ref",
    "mask_sample",
)
ROWS = st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=4), JSON_VALUES, max_size=6)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(ROWS, min_size=1, max_size=30))
def test_any_object_comes_back(tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]) -> None:
    folder = tmp_path_factory.mktemp("any")
    known = [row for row in rows if any(key in row for key in gym.OWN)]
    file = write_jsonl(folder / "r.jsonl", [gym_row("q", "a"), *rows])
    done = imported(folder / "w", file)
    assert (done.rejected, done.rollouts + done.duplicates) == (len(rows) - len(known), len(known) + 1)
    assert values(exported(folder / "w")) == values([gym_row("q", "a"), *known])


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of each value inside of an object."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, below in inner:
        yield (*path, key)
        yield from places(below, (*path, key))


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_rollout_with_a_value_of_another_kind_comes_back(tmp_path_factory: Any, data: st.DataObject) -> None:
    """A name that is a number, a count that no column can hold, a message that is none: none of them ends an import."""
    folder, rows = tmp_path_factory.mktemp("odd"), []
    agent = {"type": "responses_api_agents", "name": "solver"}
    for number in range(30):
        row = gym_row(f"q{number}", f"a{number}", agent_ref=agent | {}, _ng_task_index=number, _ng_rollout_index=0)
        *path, last = data.draw(st.sampled_from(list(places(row))))
        reduce(operator.getitem, path, row)[last] = data.draw(JSON_VALUES | st.sampled_from([2**64, 10**40, 1e300]))
        rows.append(row)
    done = imported(folder / "w", write_jsonl(folder / "r.jsonl", rows))
    assert (done.rejected, done.rollouts + done.duplicates) == (0, len(rows))
    assert values(exported(folder / "w")) == values(rows)


def test_chat_logs(tmp_path: Path) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    rows: list[dict[str, Any]] = [
        {
            "messages": [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2"}],
            "reward": 1,
            "model": "x/m",
        },
        {
            "messages": [
                {"role": "user", "content": "hi"},
                {"role": "assistant", "content": "hello"},
                {"role": "user", "content": "1+1?"},
                {"role": "assistant", "content": "", "tool_calls": [call]},
                {"role": "tool", "tool_call_id": "c1", "content": "2"},
                {"role": "assistant", "content": "two"},
            ]
        },
        {"conversations": [{"from": "human", "value": "1+1?"}, {"from": "gpt", "value": "II"}]},
        {"messages": [{"role": "user", "content": "unanswered"}]},
    ]
    done = imported(tmp_path / "w", write_jsonl(tmp_path / "chats.jsonl", rows), policy="p")
    assert (done.rollouts, done.tasks, done.rejected, done.verdicts) == (3, 2, 1, 1)
    assert "does not end with an answer" in done.examples[0]
    found = "SELECT len(from_json(prompt, '[\"JSON\"]')), text, turns, tool_names, finish_reason, reward FROM rollouts "
    assert look(tmp_path / "w", found + "ORDER BY text") == [
        (1, "2", 1, [], "stop", 1.0),
        (1, "II", 1, [], "stop", None),
        (3, "two", 2, ["add"], "stop", None),
    ]
    (row,) = [row for row in exported(tmp_path / "w") if row["response"]["output"][0]["type"] == "function_call"]
    assert row["responses_create_params"]["input"][0]["content"] == "hi"


def test_openai_batch_files(tmp_path: Path) -> None:
    def asked(name: str, prompt: str, **more: Any) -> dict[str, Any]:
        body = {"model": "gpt-x", "messages": [{"role": "user", "content": prompt}], "temperature": 0.3, **more}
        return {"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": body}

    def answered(name: str, text: str) -> dict[str, Any]:
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "length"}
        usage = {"prompt_tokens": 7, "completion_tokens": 2}
        body = {"id": f"chatcmpl-{name}", "model": "gpt-x-1", "choices": [choice], "usage": usage}
        body["service_tier"] = "flex"
        return {
            "id": f"batch_req_{name}",
            "custom_id": name,
            "response": {"status_code": 200, "body": body},
            "error": None,
        }

    broken = {"custom_id": "r4", "response": {"status_code": 400, "body": {"error": {"message": "no", "code": "x"}}}}
    write_jsonl(tmp_path / "in.jsonl", [asked("r1", "a"), asked("r2", "a"), asked("r3", "b"), asked("r4", "b")])
    write_jsonl(
        tmp_path / "out.jsonl", [answered("r3", "3"), answered("r1", "1"), answered("r2", "2"), answered("r9", "?")]
    )
    write_jsonl(tmp_path / "errors.jsonl", [broken])
    done = imported(tmp_path / "w", tmp_path / "*.jsonl")
    assert (done.prompts, done.rollouts, done.failures, done.tasks, done.rejected) == (4, 3, 1, 2, 1)
    assert "its task is in none of the files" in done.examples[0]
    found = "SELECT json_extract_string(rollouts.prompt, '$[0].content'), text, rollout_index, finish_reason, "
    found += (
        "input_tokens, a.request ->> 'temperature', a.model, a.policy, a.service_tier FROM rollouts JOIN attempts AS a "
    )
    found += "USING (attempt_id, text, rollout_index, finish_reason, input_tokens) ORDER BY text"
    same = ("length", 7, "0.3", "gpt-x-1", "gpt-x-1", "flex")
    assert look(tmp_path / "w", found) == [("a", "1", 0, *same), ("a", "2", 1, *same), ("b", "3", 1, *same)]
    failed = "SELECT policy, rollout_index, error, final FROM attempts WHERE error IS NOT NULL"
    assert look(tmp_path / "w", failed) == [("gpt-x-1", 0, "bad_request", True)]


def test_imported_rollouts_are_continued_by_collect(tmp_path: Path) -> None:
    """A dataset that was chunked takes imported rollouts as its own; collect owes the rest, and verify verifies
    them."""
    tasks = sums(10)
    write_jsonl(tmp_path / "tasks.jsonl", tasks)
    rows = [gym_row(task["prompt"], f"Answer: {task['answer']}", 0.0, _ng_task_index=n) for n, task in enumerate(tasks)]
    write_jsonl(tmp_path / "r.jsonl", rows[::-1])
    recipe = '[datasets.sums]\ninput = "tasks.jsonl"\nenvironment = "exact_match"\n[collect]\nengine = "scripted"\n'
    (tmp_path / "w.toml").write_text('data = "w"\n' + recipe + 'policy = "policy"\nnum_repeats = 3\n')
    rolloutops("chunk", "w.toml", cwd=tmp_path)
    rolloutops("import", "r.jsonl", "--recipe=w.toml", cwd=tmp_path)
    assert query(tmp_path / "w", "SELECT count(*), count(DISTINCT task_id) FROM rollouts") == [(10, 10)]
    rolloutops("collect", "w.toml", cwd=tmp_path)
    found = (
        "SELECT engine, count(*), count(DISTINCT rollout_index), count(reward) FROM rollouts GROUP BY engine ORDER BY 1"
    )
    assert query(tmp_path / "w", found) == [("import:gym", 10, 1, 10), ("scripted", 20, 2, 20)]
    assert query(tmp_path / "w", "SELECT DISTINCT reward, verifier FROM rollouts WHERE engine = 'import:gym'") == [
        (1.0, "exact_match")
    ]


def test_imported_tasks_stay_where_the_recipe_names_no_input_for_them(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "r.jsonl", [gym_row("q", "a")])
    write_jsonl(tmp_path / "tasks.jsonl", sums(2))
    (tmp_path / "w.toml").write_text('data = "w"\n[datasets.old]\n[datasets.new]\ninput = "tasks.jsonl"\n')
    assert "'old' has no input" in rolloutops("chunk", "w.toml", cwd=tmp_path, code=2).stderr
    rolloutops("import", "r.jsonl", "--recipe=w.toml", "--dataset=old", cwd=tmp_path)
    rolloutops("chunk", "w.toml", cwd=tmp_path)
    assert query(tmp_path / "w", "SELECT dataset, count(*) FROM tasks GROUP BY ALL ORDER BY ALL") == [
        ("new", 2),
        ("old", 1),
    ]
    alone = rolloutops("chunk", "--data=w", "--dataset=old", cwd=tmp_path).stderr
    assert "imported stay" in alone


def test_what_rolloutops_collected_goes_out_in_gyms_shape_and_comes_back(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "tasks.jsonl", sums(6))
    words = ["--input=tasks.jsonl", "--environment=exact_match", "--engine=scripted", "--num_repeats=2", "--data=w"]
    rolloutops("collect", *words, "--responses_create_params.temperature=0.7", cwd=tmp_path)
    rolloutops("export", "--data=w", "--output=out/r.jsonl", "--companions", cwd=tmp_path)
    rows = read_jsonl(tmp_path / "out" / "r.jsonl")
    assert sorted((row["_ng_task_index"], row["_ng_rollout_index"]) for row in rows) == [
        (n, r) for n in range(6) for r in (0, 1)
    ]
    for row in rows:
        assert row["responses_create_params"]["input"][0]["content"].startswith("What is")
        assert row["responses_create_params"]["temperature"] == 0.7
        assert row["response"]["output"][0]["content"][0]["type"] == "output_text"
        assert row["response"]["usage"]["total_tokens"] == sum(
            row["response"]["usage"][f"{n}_tokens"] for n in ("input", "output")
        )
        assert row["agent_ref"] == {"name": "exact_match"}
    inputs = {
        (row["_ng_task_index"], row["_ng_rollout_index"]): row
        for row in read_jsonl(tmp_path / "out" / "r_materialized_inputs.jsonl")
    }
    assert all(inputs[row["_ng_task_index"], row["_ng_rollout_index"]]["answer"] == row["answer"] for row in rows)
    done = rolloutops("import", "out/r.jsonl", "--data=v", "--dataset=back", cwd=tmp_path)
    assert "12" in done.stderr
    facts = (
        "SELECT text, reward, output_tokens, finish_reason, rollout_index, row ->> 'answer' FROM rollouts ORDER BY ALL"
    )
    assert query(tmp_path / "v", facts) == query(tmp_path / "w", facts)


def test_mistakes_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"d: none of 2 lines can be imported; the first: .*bad.jsonl:1: not JSON"):
        imported(tmp_path / "w", write_lines(tmp_path / "bad.jsonl", "<PLACEHOLDER ROW>", "[1]"))
    assert look(tmp_path / "w", "SELECT count(*) FROM task_log") == [(0,)]
    write_lines(tmp_path / "some.jsonl", json.dumps(gym_row("q", "a")), "<PLACEHOLDER ROW>")
    done = rolloutops("import", "some.jsonl", "--data=v", cwd=tmp_path, code=2)
    assert "some.jsonl:2: not JSON" in done.stderr
    rolloutops("import", "some.jsonl", "--data=v", "--skip_bad_lines", cwd=tmp_path)
    assert query(tmp_path / "v", "SELECT dataset, policy, reward FROM rollouts") == [("some", "policy", 1.0)]
    done = rolloutops("import", "none.jsonl", "--data=u", cwd=tmp_path, code=2)
    assert "no such file: none.jsonl" in done.stderr
    assert not (tmp_path / "u").exists()
    write_lines(tmp_path / "r_reward_profiling.jsonl", "{}")
    done = rolloutops("import", "r_reward_profiling.jsonl", "--data=u", cwd=tmp_path, code=2)
    assert done.stderr == "rolloutops: there is no rollout in r_reward_profiling.jsonl\n"
    write_lines(tmp_path / "tasks.jsonl", '{"prompt": "2 + 2?"}', '{"prompt": "3 + 3?"}')
    done = rolloutops("import", "tasks.jsonl", "--data=u", cwd=tmp_path, code=2)
    assert "tasks.jsonl:1: no answer: if these are tasks, read them with chunk; its keys: prompt" in done.stderr


def write_lines(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_an_imported_dataset_is_not_asked_of_the_policy_of_an_earlier_command(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "sums.jsonl", sums(4))
    rolloutops("collect", "--data=w", "--input=sums.jsonl", "--engine=scripted", "--model=m", cwd=tmp_path)
    rolloutops("export", "--data=w", "--output=out.jsonl", cwd=tmp_path)
    rolloutops("import", "out.jsonl", "--data=w", "--dataset=other", "--policy=p", cwd=tmp_path)
    for words in (("collect", "--data=w"), ("collect", "--data=w", "--dataset=sums"), ("verify", "--data=w")):
        rolloutops(*words, cwd=tmp_path, code=2 if words[0] == "verify" else 0)
        reported = json.loads(rolloutops("status", "--data=w", "--json", cwd=tmp_path).stdout)
        assert [row["dataset"] for row in reported["progress"]] == ["sums"]
    assert query(tmp_path / "w", "SELECT dataset, policy, count(*) FROM rollouts GROUP BY ALL ORDER BY ALL") == [
        ("other", "p", 4),
        ("sums", "m", 4),
    ]
    rolloutops("collect", "--data=w", "--dataset=other", cwd=tmp_path)
    assert query(tmp_path / "w", "SELECT count(*) FROM rollouts WHERE dataset = 'other' AND policy = 'm'") == [(4,)]
