"""From every row of a training file back to its task, and what the manifest knows of the way."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from rolloutops.build import manifest
from rolloutops.build.trace import trace
from rolloutops.errors import InputError, UsageError
from rolloutops.store import sql
from tests.helpers import read_jsonl, rolloutops, write_jsonl

RECIPE = """
data = "w"

[datasets.sums]
input = "sums.jsonl"
environment = "exact_match"
id = "id"

[collect]
engine = "scripted"
num_repeats = 4
[collect.responses_create_params]
temperature = 0.6
[collect.engine_args]
correct = 0.5

[[steps]]
kind = "filter"
name = "finished"
use = "filter/finished"

[[steps]]
kind = "pair"
name = "best"
use = "pair/best_worst"

[[steps]]
kind = "build"
name = "dpo"
use = "build/dpo_messages"

[[steps]]
kind = "build"
name = "sft"
use = "build/sft_messages"
from = "finished"
min_reward = 0.0
validation = 0.3
max_shard_rows = 20
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a recipe was run: 30 sums, four rollouts of each, pairs, and conversations in shards."""
    folder = tmp_path_factory.mktemp("lineage")
    sums = [{"id": f"s{n}", "prompt": f"{n} + 7?", "answer": str(n + 7)} for n in range(30)]
    write_jsonl(folder / "sums.jsonl", sums)
    (folder / "r.toml").write_text(RECIPE, encoding="utf-8")
    rolloutops("run", "r.toml", cwd=folder)
    return folder


def exports(folder: Path, build: str) -> Path:
    return folder / "w" / "exports" / build


def test_a_row_of_any_shard_leads_to_its_own_rollout(made: Path) -> None:
    content = manifest.read(exports(made, "sft"))
    shards = [file for file in content["files"] if file.get("split") == "train"]
    assert len(shards) > 2
    for shard in (shards[0], shards[-1]):
        file = exports(made, "sft") / shard["name"]
        for row in (1, shard["rows"]):
            found = trace(file, row)
            line = read_jsonl(file)[row - 1]
            assert found["line"] == line
            (one,) = found["rollouts"]
            assert line["messages"][-1]["content"] == one["text"]
            assert line["messages"][0]["content"] == one["task"]["prompt"]
            assert (one["file"], one["task"]["id"]) == ("sums.jsonl", one["task_id"])
            assert one["line"] == int(one["task_id"][1:]) + 1
            assert one["verdict"]["reward"] == one["reward"] == float(one["text"] == one["task"]["answer"])
            assert one["run"]["command"] == "collect"
            assert one["request"]["temperature"] == 0.6
            assert [step["step"] for step in found["steps"]] == ["finished"]


def test_a_pair_leads_to_both_of_its_rollouts(made: Path) -> None:
    file = exports(made, "dpo") / "train.jsonl"
    found = trace(file, 2)
    sides = {one["role"]: one for one in found["rollouts"]}
    assert list(sides) == ["chosen", "rejected"]
    for role, one in sides.items():
        assert found["line"][role][-1]["content"] == one["text"]
    assert sides["chosen"]["reward"] > sides["rejected"]["reward"]
    assert [step["step"] for step in found["steps"]] == ["finished", "best"]


def test_every_line_has_its_rollouts(made: Path) -> None:
    """No row of any file is untraceable: the lineage has each number of each split, and each attempt is there."""
    con = sql.connect()
    for build, of_one in (("sft", 1), ("dpo", 2)):
        folder = exports(made, build)
        content = manifest.read(folder)
        lineage = f"read_parquet('{folder / 'lineage.parquet'}')"
        known = dict(sql.rows(con, f"SELECT split, list_sort(list(DISTINCT row)) FROM {lineage} GROUP BY split"))
        for split, rows in content["splits"].items():
            assert known[split] == list(range(1, sum(rows.values()) + 1))
        counts = f"SELECT count(*) AS n FROM {lineage} GROUP BY split, row"
        assert sql.rows(con, f"SELECT DISTINCT n FROM ({counts})") == [(of_one,)]
        attempts = f"read_parquet('{made}/w/attempts/*/*.parquet')"
        lost = f"SELECT count(*) FROM {lineage} ANTI JOIN {attempts} USING (dataset, attempt_id)"
        assert sql.rows(con, lost) == [(0,)]


def test_the_command_prints_it(made: Path) -> None:
    said = rolloutops("trace", "w/exports/dpo/train.jsonl", "--row=1", cwd=made).stdout.splitlines()
    assert said[0] == "w/exports/dpo/train.jsonl row 1: line 1 of train"
    assert "  finished (filter/finished): kept 120 of 120 rows; finish_reasons = ['stop']" in said
    starts = ("chosen: rollout ", "rejected: rollout ", "  task     sums.jsonl line ", "  policy   scripted: scripted")
    for start in starts:
        assert any(line.startswith(start) for line in said), (start, said)
    assert any(line.startswith("  verdict  exact_match ") and ": reward 1" in line for line in said)
    found = json.loads(rolloutops("trace", "w/exports/dpo/train.jsonl", "--json", cwd=made).stdout)
    assert found["row"] == 1
    assert len(found["rollouts"]) == 2


def test_what_nobody_told_is_said_so(tmp_path: Path) -> None:
    """A rollout of a chat log: neither model nor tokens, and it ends with a tool's answer."""
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    reported = [{"role": "assistant", "content": "", "tool_calls": [call]}, {"role": "tool", "tool_call_id": "c"}]
    log = [{"messages": [{"role": "user", "content": "q"}, reported[0], reported[1] | {"content": "a"}], "reward": 1}]
    rolloutops("import", str(write_jsonl(tmp_path / "d.jsonl", log)), "--data=w", cwd=tmp_path)
    (tmp_path / "r.toml").write_text(
        'data = "w"\n[datasets.d]\n[[steps]]\nkind = "build"\nname = "rl"\nuse = "build/rl_prompts"\n'
    )
    rolloutops("build", "r.toml", cwd=tmp_path)
    said = rolloutops("trace", "w/exports/rl/train.jsonl", cwd=tmp_path).stdout.splitlines()
    assert "  policy   imported: import:chat" in said
    assert any(line.endswith(": no finish reason, tokens not counted, 1 turn") for line in said), said


def test_what_cannot_be_traced_is_a_sentence(made: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(exports(made, "dpo"), copy)
    with pytest.raises(UsageError, match=r"--row=1000: .*train\.jsonl has \d+ rows; rows are numbered from 1"):
        trace(copy / "train.jsonl", 1000, made / "w")
    with pytest.raises(UsageError, match=r"pass it with --data"):
        trace(copy / "train.jsonl", 1)
    assert trace(copy / "train.jsonl", 1, made / "w")["rollouts"]
    with pytest.raises(InputError, match=r"is not a data file of this build; its data files: train\.jsonl"):
        trace(copy / "lineage.parquet", 1)
    with pytest.raises(InputError, match="there is no file"):
        trace(copy / "test.jsonl", 1)
    (copy / "train.jsonl").write_bytes((copy / "train.jsonl").read_bytes() + b"{}\n")
    with pytest.raises(InputError, match="was changed since it was built"):
        trace(copy / "train.jsonl", 1)
    alone = write_jsonl(tmp_path / "alone" / "train.jsonl", [{}])
    with pytest.raises(InputError, match="is not part of a build"):
        trace(alone, 1)


def test_an_attempt_that_was_deleted_is_told(made: Path, tmp_path: Path) -> None:
    data = tmp_path / "w"
    shutil.copytree(made / "w", data)
    shutil.rmtree(data / "attempts" / "sums")
    file = data / "exports" / "dpo" / "train.jsonl"
    assert [one["attempt_lost"] for one in trace(file, 1)["rollouts"]] == [True, True]
    done = rolloutops("trace", str(file), cwd=tmp_path)
    assert "which the workspace no longer holds" in done.stdout


def test_the_manifest_knows_recipe_inputs_and_runs(made: Path) -> None:
    content = manifest.read(exports(made, "sft"))
    assert content["recipe"]["datasets"]["sums"]["input"] == ["sums.jsonl"]
    assert content["recipe"]["data"] == "w"
    assert len(content["recipe_hash"]) >= 32
    assert {"rolloutops", "duckdb", "pyarrow", "python"} <= set(content["versions"])
    (dataset,) = content["inputs"]
    assert (dataset["dataset"], dataset["rollouts"]) == ("sums", 120)
    assert [(file["file"], file["tasks"]) for file in dataset["files"]] == [("sums.jsonl", 30)]
    (policy,) = content["policies"]
    assert (policy["policy"], policy["verifier"], policy["rollouts"]) == ("scripted", "exact_match", 120)
    assert policy["requests"] == [{"parameters": {"temperature": 0.6}, "rollouts": 120}]
    (run,) = content["runs"]
    assert (run["command"], run["rollouts"], run["recipe_hash"]) == ("collect", 120, content["recipe_hash"])
    assert content["roles"] == ["completion"]
    for file in content["files"]:
        data = (exports(made, "sft") / file["name"]).read_bytes()
        assert (file["bytes"], file["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())


def test_building_again_writes_the_same_bytes(made: Path) -> None:
    before = tree(exports(made, "sft"))
    rolloutops("build", "r.toml", "--only=sft", cwd=made)
    assert tree(exports(made, "sft")) == before


def test_the_order_of_an_input_does_not_change_what_is_said_of_it(made: Path, tmp_path: Path) -> None:
    """The same rows in another order are the same tasks: nothing is pending, and the hash stays."""
    folder = tmp_path / "again"
    shutil.copytree(made, folder)
    rows = (folder / "sums.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (folder / "sums.jsonl").write_text("".join(reversed(rows)), encoding="utf-8")
    rolloutops("run", "r.toml", cwd=folder)
    assert manifest.read(exports(folder, "sft"))["inputs"] == manifest.read(exports(made, "sft"))["inputs"]
    assert tree(exports(folder, "sft")) == tree(exports(made, "sft"))


def tree(folder: Path) -> dict[str, Any]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_a_policy_that_the_recipe_does_not_ask_for_is_named(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"prompt": "What is 1 + 1?", "answer": "2"}\n')
    (tmp_path / "r.toml").write_text(
        'data = "w"\n[datasets.d]\ninput = "t.jsonl"\nenvironment = "exact_match"\n'
        '[collect]\nengine = "scripted"\npolicy = "old"\n'
        '[[steps]]\nkind = "build"\nname = "sft"\nuse = "build/sft_messages"\nmin_reward = 0\n'
    )
    assert "warning" not in rolloutops("run", "r.toml", cwd=tmp_path).stdout
    recipe = tmp_path / "r.toml"
    recipe.write_text(recipe.read_text().replace('policy = "old"', 'policy = "new"'))
    done = rolloutops("run", "r.toml", cwd=tmp_path)
    assert "sft: warning, the recipe does not name the policy old (filter/only excludes it)" in done.stdout
    folder = tmp_path / "w/exports/sft"
    assert json.loads((folder / "manifest.json").read_text())["unasked_policies"] == ["old"]
    assert "add filter/only to exclude old" in (folder / "report.html").read_text()
