"""The package in Python: polars frames of real workspaces, stages, and the command line's sentences as exceptions."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import rolloutops as ro
from rolloutops.errors import InputError, RunStopped, UsageError, WorkspaceError
from tests.helpers import read_jsonl, rolloutops, sums, write_jsonl

RECIPE = """
data = "elsewhere"
[datasets.sums]
input = "sums.jsonl"
environment = "exact_match"
[collect]
engine = "scripted"
policy = "p"
num_repeats = 2
[collect.engine_args]
correct = 1.0
[metrics]
steps = ["metrics/pass_at_k"]
[metrics.pass_at_k]
success = 0.5
[[steps]]
kind = "filter"
name = "good"
use = "filter/reward"
[[steps]]
kind = "build"
name = "sft"
use = "build/sft_messages"
validation = 0.3
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a recipe and its tasks."""
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "sums.jsonl", sums(20))
    (tmp_path / "recipe.toml").write_text(RECIPE, encoding="utf-8")
    return tmp_path


@pytest.fixture
def workspace(folder: Path) -> ro.Workspace:
    """A workspace in which the recipe was run."""
    made = ro.open(folder / "w", create=True)
    made.run("recipe.toml")
    return made


def test_a_recipe_is_run_in_the_workspace_that_was_opened(folder: Path) -> None:
    done = ro.open("w", create=True).run("recipe.toml", limit=8)
    assert (done.collected.wanted, done.collected.left, done.verified.rest.rollouts) == (16, 0, 16)
    assert list(done.metrics) == ["metrics/pass_at_k"]
    assert [one.step for one in done.built] == ["sft"]
    assert not (folder / "elsewhere").exists()
    again = ro.open("w").run(limit=10)  # the last recipe, and what is missing
    assert (again.collected.wanted, again.collected.done) == (20, 4)


def test_a_query_gives_a_frame_with_the_types_of_its_columns(workspace: ro.Workspace) -> None:
    frame = workspace.sql("""
        SELECT dataset, sum(output_tokens) AS tokens, max(started_at) AS last, any_value(prompt) AS prompt,
            INTERVAL 1 DAY AS day, 10::HUGEINT ** 30 AS large, count(*) AS rollouts
        FROM rollouts GROUP BY dataset;
    """)
    assert frame.schema["tokens"] == pl.Int64
    assert frame.schema["last"] == pl.Datetime("us", "UTC")
    (row,) = frame.to_dicts()
    assert json.loads(row["prompt"])[0]["role"] == "user"
    assert (row["day"], row["rollouts"]) == ("1 day", 40)
    assert workspace.sql("SELECT 10::HUGEINT * 1000000000000000000000 AS n")["n"].dtype == pl.Decimal(38, 0)
    assert workspace.sql("SELECT task_id, reward FROM rollouts WHERE false").schema == {
        "task_id": pl.String,
        "reward": pl.Float64,
    }


def test_rollouts_are_read_when_they_are_collected(workspace: ro.Workspace) -> None:
    good, all_ = workspace.rollouts("reward >= 0.8 -- good"), workspace.rollouts()
    (counted,) = workspace.sql("SELECT count(*) FILTER (reward >= 0.8) AS good, count(*) AS n FROM rollouts").to_dicts()
    assert good.select(pl.len()).collect().item() == counted["good"]
    assert counted["n"] == 40
    whole = all_.collect()
    assert whole.schema == all_.collect_schema()
    assert all_.head(3).collect().height == 3
    assert all_.filter(pl.col("reward") >= 0.8).select("text").collect().height == counted["good"]
    by_task = all_.group_by("task_id").agg(pl.col("reward").mean()).sort("task_id").collect()
    reported = workspace.sql("SELECT task_id, avg(reward) AS reward FROM rollouts GROUP BY task_id ORDER BY task_id")
    assert by_task.equals(reported)
    workspace.collect(num_repeats=3)
    assert all_.select(pl.len()).collect().item() == 60


def test_metrics_are_those_of_the_command(workspace: ro.Workspace, folder: Path) -> None:
    table = workspace.metrics("pass_at_k")
    shown = json.loads(rolloutops("metrics", "--data=w", "--step=pass_at_k", "--json", cwd=folder).stdout)
    assert table.to_dicts() == shown["metrics/pass_at_k"]
    assert workspace.metrics("fields", group_by="finish_reason").height
    with pytest.raises(UsageError, match="no policy 'q'"):
        workspace.metrics("compare", compare=("p", "q"))


@pytest.mark.parametrize("form", ["jsonl", "jsonl.zst", "parquet"])
def test_a_builds_splits_and_lineage_are_read_in_order(workspace: ro.Workspace, folder: Path, form: str) -> None:
    kind, _, packed = form.partition(".")
    shape = {"output": "built", "format": kind, "max_shard_rows": 4, **({"compression": "zstd"} if packed else {})}
    (report,) = workspace.build(build={"sft": shape})
    (plain,) = workspace.build(build={"sft": {"output": "plain", "format": "jsonl", "compression": "none"}})
    for split in ("train", "validation"):
        frame = ro.read_build(report.output, split).collect()
        lines = [row for path in sorted(plain.output.glob(f"{split}*")) for row in read_jsonl(path)]
        assert frame.height == report.files[split][0] == len(lines)
        contents = frame["messages"].list.eval(pl.element().struct.field("content")).to_list()
        assert contents == [[message["content"] for message in line["messages"]] for line in lines]
    lineage = ro.read_build(report.output, "lineage").collect()
    assert set(lineage["split"]) == {"train", "validation"}
    assert lineage.join(workspace.rollouts().collect(), on="attempt_id").height == lineage.height


def test_lines_that_differ_are_read_all_the_same(tmp_path: Path) -> None:
    build = tmp_path / "b"
    write_jsonl(build / "train.jsonl", [*({"a": "x"} for _ in range(200)), {"a": [1, 2], "b": {"c": 1.5}}])
    files = [{"name": "train.jsonl", "split": "train", "rows": 201}]
    (build / "manifest.json").write_text(json.dumps({"rolloutops": "0", "files": files}))
    frame = ro.read_build(build).collect()
    assert frame.tail(1).to_dicts() == [{"a": "[1, 2]", "b": {"c": 1.5}}]
    assert frame.height == 201


def test_mistakes_are_the_command_lines_sentences(workspace: ro.Workspace) -> None:
    with pytest.raises(UsageError, match=r'the query failed: .*"rewad"'):
        workspace.sql("SELECT rewad FROM rollouts")
    with pytest.raises(UsageError, match="the query failed"):
        workspace.rollouts("rewad > 1")
    with pytest.raises(UsageError, match="sql takes one query"):
        workspace.sql("SELECT 1; SELECT 2")
    with pytest.raises(UsageError, match="no step 'metrics/pas_at_k', did you mean"):
        workspace.metrics("pas_at_k")
    with pytest.raises(WorkspaceError, match="there is no workspace at nowhere"):
        ro.open("nowhere")
    with pytest.raises(UsageError, match="no setting 'limt', did you mean 'limit'"):
        workspace.run("recipe.toml", limt=3)
    with pytest.raises(UsageError, match="num_repeats must be"):
        workspace.collect(num_repeats="four")
    wrong: list[tuple[Any, str]] = [
        (lambda: workspace.sql(3), "sql: query must be text, not 3"),
        (lambda: workspace.rollouts(0.8), "rollouts: where must be text, not 0.8"),
        (lambda: workspace.metrics(["pass_at_k"]), "metrics: step must be text, not ['pass_at_k']"),
        (lambda: workspace.metrics("pass_at_k", compare="a,b"), "metrics: compare must be a list of two policies, not"),
        (lambda: workspace.build(only=1), "build: only must be text, not 1"),
        (lambda: workspace.build(build="sft"), "settings: build must be a table of tables, not 'sft'"),
        (lambda: workspace.build(filter={"good": 0.9}), "settings: filter may hold only tables"),
        (lambda: workspace.run("recipe.toml", dataset=["sums"]), "settings: dataset must be text, not ['sums']"),
        (lambda: workspace.collect(unsafe_code="no"), "settings: unsafe_code must be true or false, not 'no'"),
    ]
    for call, sentence in wrong:
        with pytest.raises(UsageError) as caught:
            call()
        assert sentence in str(caught.value)
    with pytest.raises(InputError, match="is not the folder of a build"):
        ro.read_build(workspace.data)
    with pytest.raises(UsageError, match="no split 'trian', did you mean 'train'"):
        ro.read_build(workspace.data / "exports" / "sft", "trian")
    with pytest.raises(AttributeError, match="no attribute 'opne'"):
        _ = ro.opne


def test_a_run_that_cannot_build_says_why(folder: Path) -> None:
    workspace = ro.open("w", create=True)
    with pytest.raises(RunStopped, match=r"rollouts are given up: nothing was built") as stopped:
        workspace.run("recipe.toml", engine_args={"faults": "bad_request:0.5"})
    assert stopped.value.exit_code == 4
    assert not (folder / "w" / "exports").exists()
    with (folder / "sums.jsonl").open("a") as file:
        file.write("{broken\n")
    with pytest.raises(InputError, match=r"sums: 1 line rejected, .*skip_bad_lines=True"):
        workspace.run("recipe.toml")
    assert (
        workspace.collect("recipe.toml", skip_bad_lines=True, allow_policy_change=True, retry=["bad_request"]).left == 0
    )


def test_stages_run_one_by_one(folder: Path) -> None:
    workspace = ro.open("w", create=True)
    collected = workspace.collect("recipe.toml", verify="later")
    assert (collected.done, collected.left) == (40, 0)
    assert workspace.rollouts("reward IS NOT NULL").collect().height == 0
    assert workspace.verify().verified == 40
    (built,) = workspace.build(only="sft", filter={"good": {"min_reward": 0.9}})
    assert ro.read_build(built.output).collect().height == built.files["train"][0]


def test_stages_run_in_a_notebook(folder: Path) -> None:
    """Where an event loop runs in the thread already, and signals are not this thread's."""
    workspace = ro.open("w", create=True)

    async def cell() -> int:
        return workspace.run("recipe.toml", limit=12).collected.done

    assert asyncio.run(cell()) == 24
    done = []
    thread = threading.Thread(target=lambda: done.append(workspace.collect(limit=13).done))
    thread.start()
    thread.join()
    assert done == [2]
