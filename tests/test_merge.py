"""`merge` and shards: datasets that were split, collected in several workspaces, and put together again."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections import defaultdict
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.helpers import command, environ, query, rolloutops, sums, write_jsonl
from tests.reliability.forked import run

FULL = bool(os.environ.get("ROLLOUTOPS_FULL"))
COLLECT = ("--dataset=d", "--engine=scripted", "--policy=p", "--environment=exact_match", "--num_repeats=2")


def collect(folder: Path, rows: list[dict[str, Any]], data: str, *words: str) -> str:
    """Collect rows into a workspace of a folder."""
    write_jsonl(folder / f"{data}.jsonl", rows)
    return rolloutops("collect", f"--input={data}.jsonl", f"--data={data}", *COLLECT, *words, cwd=folder).stderr


def keys(data: Path) -> list[tuple[Any, ...]]:
    return query(data, "SELECT task_id, rollout_index FROM rollouts ORDER BY ALL")


def wanted(data: Path) -> dict[str, int]:
    return dict(query(data, "SELECT status, count(*) FROM wanted_states GROUP BY status"))


def test_shards_in_workspaces_of_their_own_become_one(tmp_path: Path) -> None:
    for number in range(3):
        collect(tmp_path, sums(50), f"shard{number}", f"--shard={number}/3")
    parts = [keys(tmp_path / f"shard{number}") for number in range(3)]
    assert all(parts)
    rolloutops("merge", "all", "shard0", "shard1", "shard2", cwd=tmp_path)
    assert keys(tmp_path / "all") == sorted(key for part in parts for key in part)
    assert len(set(keys(tmp_path / "all"))) == len(keys(tmp_path / "all")) == 100
    assert wanted(tmp_path / "all") == {"done": 100}
    assert "consistency check passed" in rolloutops("status", "--data=all", cwd=tmp_path).stdout


def test_status_of_a_shard_counts_the_shard(tmp_path: Path) -> None:
    collect(tmp_path, sums(50), "w", "--shard=1/3")
    mine = json.loads(rolloutops("status", "--data=w", "--shard=1/3", "--json", cwd=tmp_path).stdout)["progress"][0]
    other = json.loads(rolloutops("status", "--data=w", "--shard=0/3", "--json", cwd=tmp_path).stdout)["progress"][0]
    assert mine["done"] == mine["wanted"] > 0 == mine["pending"]
    assert other["pending"] == other["wanted"] > 0 == other["done"]


@pytest.mark.parametrize(
    ("shard", "variables", "number"),
    [
        ("slurm", {"SLURM_ARRAY_TASK_ID": "5", "SLURM_ARRAY_TASK_MIN": "3", "SLURM_ARRAY_TASK_COUNT": "4"}, 2),
        (
            "slurm",
            {**dict.fromkeys(["SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_ID"], "1"), "SLURM_ARRAY_TASK_COUNT": "4"},
            0,
        ),
        (
            "slurm",
            {
                "SLURM_ARRAY_TASK_ID": "6",
                "SLURM_ARRAY_TASK_MIN": "0",
                "SLURM_ARRAY_TASK_COUNT": "4",
                "SLURM_ARRAY_TASK_STEP": "2",
            },
            3,
        ),
        ("k8s", {"JOB_COMPLETION_INDEX": "1", "JOB_COMPLETIONS": "4"}, 1),
    ],
)
def test_schedulers_hand_out_shards(tmp_path: Path, shard: str, variables: dict[str, str], number: int) -> None:
    write_jsonl(tmp_path / "t.jsonl", sums(40))
    rolloutops("chunk", "--input=t.jsonl", "--data=w", "--dataset=d", cwd=tmp_path)
    words = ("collect", "--data=w", *COLLECT)
    rolloutops(*words, f"--shard={shard}", cwd=tmp_path, **variables)
    assert "nothing to collect" in rolloutops(*words, f"--shard={number}/4", cwd=tmp_path).stderr
    assert 0 < len(keys(tmp_path / "w")) < 80


@pytest.mark.parametrize(
    ("shard", "variables", "sentence"),
    [
        ("4/4", {}, "there is no shard 4 of 4; the shards of 4 are numbered 0 to 3"),
        ("0/0", {}, "n must be at least 1"),
        ("1", {}, "a shard is i/n"),
        ("²/4", {}, "a shard is i/n"),
        ("k8s", {"JOB_COMPLETION_INDEX": "1"}, "JOB_COMPLETIONS is not set: set it in the pod"),
        ("slurm", {"SLURM_ARRAY_TASK_MIN": "x"}, "SLURM_ARRAY_TASK_MIN is 'x', which is not a number"),
    ],
)
def test_a_shard_that_is_none_is_refused(tmp_path: Path, shard: str, variables: dict[str, str], sentence: str) -> None:
    write_jsonl(tmp_path / "t.jsonl", sums(4))
    words = ("collect", "--input=t.jsonl", "--data=w", *COLLECT, f"--shard={shard}")
    assert sentence in rolloutops(*words, cwd=tmp_path, code=2, **variables).stderr
    assert not (tmp_path / "w").exists()


def test_a_split_dataset_has_all_tasks_and_a_second_merge_adds_nothing(tmp_path: Path) -> None:
    rows = sums(90)
    for number in range(3):
        collect(tmp_path, rows[30 * number : 30 * number + 30], f"m{number}")
    rolloutops("merge", "m0", "m1", "m2", "--link", cwd=tmp_path)
    files = sorted((tmp_path / "m0").rglob("*.parquet"))
    assert wanted(tmp_path / "m0") == {"done": 180}
    again = rolloutops("merge", "m0", "m1", "m2", cwd=tmp_path).stderr
    runs = {path for path in (tmp_path / "m0").rglob("*.parquet") if path.parent.name != "runs"}
    assert runs == {path for path in files if path.parent.name != "runs"}
    assert [line.split()[2:] for line in again.splitlines() if line.startswith("m")] == [
        ["0", "30", "0", "60", "0"]
    ] * 2
    status = rolloutops("status", "--data=m0", cwd=tmp_path).stdout
    assert "consistency check passed" in status
    assert "overwritten" not in status


def test_a_dataset_that_was_collected_twice_counts_once(tmp_path: Path) -> None:
    said = [collect(tmp_path, sums(20), data) for data in ("one", "two")]
    assert all("40 rollouts collected" in one for one in said)
    said_twice = [rolloutops("merge", "one", "two", cwd=tmp_path).stderr for _ in range(2)]
    assert all("40 rollouts collected in both: the attempt that began first counts" in one for one in said_twice)
    assert len(keys(tmp_path / "one")) == 40
    assert query(tmp_path / "one", "SELECT count(*) FROM attempts") == [(80,)]


@pytest.mark.parametrize("compacted", [["m0"], ["m1"], ["m0", "m1"]])
def test_compacted_workspaces_become_one(tmp_path: Path, compacted: list[str]) -> None:
    rows = sums(40)
    for data, some in (("m0", rows[:20]), ("m1", rows[10:])):
        collect(tmp_path, some, data, "--limit=5")
        collect(tmp_path, some, data)
    for data in compacted:
        rolloutops("compact", f"--data={data}", cwd=tmp_path)
    rolloutops("merge", "m0", "m1", cwd=tmp_path)
    attempts = query(tmp_path / "m0", "SELECT count(*), count(DISTINCT attempt_id) FROM attempts")
    rolloutops("compact", "--data=m0", cwd=tmp_path)
    again = rolloutops("merge", "m0", "m1", cwd=tmp_path).stderr
    assert [line.split()[2:] for line in again.splitlines() if line.startswith("m1 ")] == [["0", "30", "0", "60", "0"]]
    assert (
        attempts == query(tmp_path / "m0", "SELECT count(*), count(DISTINCT attempt_id) FROM attempts") == [(100, 100)]
    )
    assert len(keys(tmp_path / "m0")) == 80
    assert "consistency check passed" in rolloutops("status", "--data=m0", cwd=tmp_path).stdout


def test_another_policy_under_one_name_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    collect(tmp_path, sums(5), "one")
    collect(tmp_path, sums(5), "two", "--responses_create_params.temperature=0.5")
    before = sorted((tmp_path / "one").rglob("*.parquet"))
    said = rolloutops("merge", "one", "two", cwd=tmp_path, code=2).stderr
    assert "temperature" in said
    assert "import --policy=NAME" in said
    assert sorted((tmp_path / "one").rglob("*.parquet")) == before
    rolloutops("merge", "one", "two", "--allow_policy_change", cwd=tmp_path)
    assert query(tmp_path / "one", "SELECT count(*) FROM attempts") == [(20,)]


def test_a_copy_taken_in_mid_run_and_its_original_become_one(tmp_path: Path) -> None:
    """The journal's beginning is sealed in the copy, and all of it in the original, under the same name."""
    collect(tmp_path, sums(20), "w")
    shutil.copytree(tmp_path / "w", tmp_path / "copy")
    [part] = (tmp_path / "copy/attempts/d").glob("*.parquet")
    rows = pq.read_table(part)
    pq.write_table(rows.slice(0, 15), part)
    for into, source in (("copy", "w"), ("w", "copy")):
        rolloutops("merge", into, source, cwd=tmp_path)
        assert query(tmp_path / into, "SELECT count(*), count(DISTINCT attempt_id) FROM attempts") == [(40, 40)]
        rolloutops("status", f"--data={into}", cwd=tmp_path)


@pytest.mark.parametrize("passage", range(1, 6))
def test_a_killed_merge_is_run_again(tmp_path: Path, passage: int) -> None:
    rows = sums(40)
    collect(tmp_path, rows[:20], "m0")
    collect(tmp_path, rows[20:], "m1")
    spot = environ(ROLLOUTOPS_FAILPOINT=f"merge-before-rename:{passage}")
    killed = subprocess.run(command("merge", "new", "m0", "m1"), cwd=tmp_path, env=spot, check=False)
    assert killed.returncode == -signal.SIGKILL
    rolloutops("merge", "new", "m0", "m1", cwd=tmp_path)
    assert wanted(tmp_path / "new") == {"done": 80}
    assert not list((tmp_path / "new").rglob("*.tmp"))


def test_what_cannot_be_merged_is_a_sentence(tmp_path: Path) -> None:
    collect(tmp_path, sums(3), "w")
    assert "named twice" in rolloutops("merge", "w", "./w", cwd=tmp_path, code=2).stderr
    assert "there is no workspace at none" in rolloutops("merge", "new", "none", cwd=tmp_path, code=2).stderr
    assert not (tmp_path / "new").exists()


# Any order -----------------------------------------------------------------------------------------------------------

WORKSPACES = ("a", "b", "c")
NUMBERS = st.lists(st.integers(0, 8), min_size=1, max_size=6, unique=True)
CHUNK = st.tuples(st.just("chunk"), st.sampled_from(WORKSPACES), NUMBERS, st.integers(0, 2))
COLLECT_SOME = st.tuples(
    st.just("collect"), st.sampled_from(WORKSPACES), st.integers(1, 2), st.sampled_from(["0/1", "0/2", "1/2"])
)
MERGE = st.tuples(st.just("merge"), st.permutations(WORKSPACES))
STEPS = st.lists(st.one_of(CHUNK, COLLECT_SOME, MERGE), min_size=2, max_size=7)

RECIPE = """
data = "{data}"
[datasets.d]
input = "{data}.jsonl"
id = "n"
environment = "exact_match"
[chunk]
rows_per_part = 3
[collect]
engine = "scripted"
num_repeats = {repeats}
"""


@settings(
    max_examples=200 if FULL else 15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(steps=STEPS, order=st.permutations(WORKSPACES))
@example(steps=[("chunk", "b", [0], 2), ("chunk", "c", [0], 1)], order=["a", "b", "c"])
def test_any_order_of_commands_ends_with_every_task_once(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[Any, ...]], order: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("merge")
    tasks: dict[str, dict[int, set[str]]] = {name: {} for name in WORKSPACES}
    started: set[str] = set()

    def work(name: str, repeats: int, *words: str) -> None:
        (folder / f"{name}.toml").write_text(RECIPE.format(data=name, repeats=repeats))
        run(folder, words[0], f"{name}.toml", *words[1:])

    def put_together(into: str, sources: list[str]) -> None:
        sources = [name for name in sources if name in started and name != into]
        if sources:
            run(folder, "merge", into, *sources)
            started.add(into)
            for name in sources:
                for number, rows in tasks[name].items():
                    tasks[into].setdefault(number, set()).update(rows)

    for step, name, *more in ((step[0], step[1], *step[2:]) for step in [*steps, ("chunk", "a", [0], 0)]):
        if step == "merge":
            put_together(name[0], name[1:])
        elif step == "chunk":
            numbers, edit = more
            rows = [{"n": n, "prompt": f"What is {n} + {edit}?", "answer": str(n + edit)} for n in numbers]
            write_jsonl(folder / f"{name}.jsonl", rows)
            work(name, 1, "chunk")
            started.add(name)
            tasks[name] = {row["n"]: {row["prompt"]} for row in rows}
        elif name in started:
            work(name, more[0], "collect", f"--shard={more[1]}")
    put_together(order[0], order[1:])
    last = order[0]
    if last not in started:
        return
    found: dict[int, list[str]] = defaultdict(list)
    for task_id, prompt in query(folder / last, "SELECT task_id, prompt->>'$[0].content' FROM tasks"):
        found[int(task_id)].append(prompt)
    assert set(found) == set(tasks[last])
    assert all(len(prompts) == 1 and prompts[0] in tasks[last][number] for number, prompts in found.items())
    [[rollouts, distinct]] = query(
        folder / last, "SELECT count(*), count(DISTINCT (task_id, policy, rollout_index)) FROM rollouts"
    )
    assert rollouts == distinct
    run(folder, "status", f"--data={last}")
    files = {path.name for path in (folder / last).rglob("*.parquet") if path.parent.name != "runs"}
    put_together(last, order[1:])
    assert files == {path.name for path in (folder / last).rglob("*.parquet") if path.parent.name != "runs"}
