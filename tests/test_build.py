"""Builds: whole or not at all, the same bytes every time, no prompt on two sides, every line traceable."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rolloutops.build import manifest
from rolloutops.build.build import BuildReport, build
from rolloutops.cli.commands.build import sentences
from rolloutops.config.recipe import StepUse
from rolloutops.errors import StepError, UsageError
from rolloutops.steps.selection import select
from rolloutops.steps.step import measure
from rolloutops.store import sql
from tests.given import dump, workspace

ODD = [
    "\u2028\u2029",
    "😀\U0010ffff",
    "\x7f\x85",
    '"\\/',
    "</script>",
    "line\nline\r\n\ttab\x00",
    "é" * 5000,
    " [ ] ",
    "",
]


def rollouts(tasks: int = 40, repeats: int = 4) -> list[dict[str, Any]]:
    """Tasks whose rollouts have 0 to `repeats` successes, with odd text in them."""
    return [
        {
            "dataset": "de"[task % 2],
            "task_id": f"t{task}",
            "rollout_index": index,
            "reward": float(index < task % (repeats + 1)),
            "text": f"{task}.{index} {ODD[(task + index) % len(ODD)]}",
        }
        for task in range(tasks)
        for index in range(repeats)
    ]


def run(con: Any, use: str, output: Path, *before: StepUse, **keys: Any) -> BuildReport:
    stats = select(con, before, Path())
    return build(con, StepUse("build", "it", use, keys), Path(), output, stats)


def lines(folder: Path, split: str = "train") -> list[Any]:
    return [json.loads(line) for line in (folder / f"{split}.jsonl").read_bytes().split(b"\n")[:-1]]


def tree(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def lineage(con: Any, folder: Path) -> list[dict[str, Any]]:
    return sql.records(con, f"FROM read_parquet('{folder / 'lineage.parquet'}')")


COMPANIONS = {"manifest.json", "README.md", "croissant.json", "report.html"}
SOLVABLE = StepUse("filter", "solvable", "filter/solve_rate", {})
MIXED = StepUse("mix", "mixed", "mix/shares", {"shares": {"d": 0.75, "e": 0.25}, "on_shortage": "repeat", "rows": 120})


BEST = StepUse("pair", "best", "pair/best_worst", {})


@pytest.mark.parametrize(
    ("use", "steps"),
    [("build/sft_messages", [MIXED]), ("build/dpo_messages", [MIXED, BEST]), ("build/rl_prompts", [MIXED])],
)
def test_the_same_bytes_every_time(use: str, steps: list[StepUse], tmp_path: Path) -> None:
    """At any thread count, and however the rows lie on disk: data, lineage and manifest are the same bytes."""
    made = []
    for number, how in enumerate(({"threads": 1}, {"threads": 8}, {"shuffle": 1}, {"shuffle": 2, "threads": 8})):
        output = tmp_path / str(number) / "out"
        run(workspace(rollouts(), **how), use, output, SOLVABLE, *steps, validation=0.3)
        made.append(tree(output))
    assert all(one == made[0] for one in made)
    assert {"train.jsonl", "validation.jsonl", "lineage.parquet", *COMPANIONS} == set(made[0])


def test_lines_hold_the_texts_as_they_were(tmp_path: Path) -> None:
    rows = rollouts()
    run(workspace(rows), "build/sft_messages", tmp_path / "out", min_reward=-math.inf)
    assert manifest.read(tmp_path / "out")["build"]["parameters"]["min_reward"] == "-inf"
    found = Counter(row["messages"][-1]["content"] for row in lines(tmp_path / "out"))
    assert found == Counter(row["text"] for row in rows)
    assert "\u2028".encode() in (tmp_path / "out" / "train.jsonl").read_bytes()


def test_lineage_leads_from_each_line_to_its_rollouts(tmp_path: Path) -> None:
    rows = {(row["task_id"], row["rollout_index"]): row for row in rollouts()}
    con = workspace(rows.values())
    run(con, "build/dpo_messages", tmp_path / "out", BEST, validation=0.3)
    sides: dict[str, set[str]] = {}
    traced = lineage(con, tmp_path / "out")
    made = {split: lines(tmp_path / "out", split) for split in ("train", "validation")}
    for origin in traced:
        line = made[origin["split"]][origin["row"] - 1]
        rollout = rows[origin["task_id"], origin["rollout_index"]]
        assert line[origin["role"]][0]["content"] == rollout["text"]
        assert origin["reward"] == rollout["reward"] == float(origin["role"] == "chosen")
        assert origin["attempt_id"]
        sides.setdefault(origin["task_id"], set()).add(origin["split"])
    assert len(traced) == 2 * sum(map(len, made.values())) == 2 * len(sides)
    assert all(len(splits) == 1 for splits in sides.values()), "a prompt on both sides"


def test_manifest_says_where_the_files_came_from(tmp_path: Path) -> None:
    con = workspace(rollouts())
    report = run(con, "build/sft_messages", tmp_path / "out", SOLVABLE, MIXED, validation=0.3, seed=7, min_reward=0.5)
    content = manifest.read(tmp_path / "out")
    assert [
        (step["step"], step["rows_in"], step["kept"], step["dropped"], step["rows"]) for step in content["steps"]
    ] == [
        ("solvable", 160, 96, 64, 96),
        ("mixed", 96, 78, 18, 120),
    ]
    assert content["steps"][0]["parameters"].items() >= {"low": 0.1, "high": 0.9}.items()
    assert content["steps"][0]["sql"].startswith("-- Keep the tasks")
    assert content["build"]["parameters"].items() >= {"min_reward": 0.5, "drop_unfinished": False}.items()
    assert (content["build"]["seed"], content["build"]["validation"]) == (7, 0.3)
    assert content["rollouts"] == {"in": 78, "used": report.rollouts_used}
    assert [(p["policy"], p["model"], p["verifier"], p["verifier_version"]) for p in content["policies"]] == [
        ("p", "m", "exact", "1"),
        ("p", "m", "exact", "1"),
    ]
    for file in content["files"]:
        data = (tmp_path / "out" / file["name"]).read_bytes()
        assert (file["bytes"], file["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
    assert [output["path"].rsplit("/")[-1] for output in report.outputs][-1] == "manifest.json"
    assert report.files["train"] == (len(lines(tmp_path / "out")), tmp_path / "out" / "train.jsonl")
    assert {split: sum(rows.values()) for split, rows in content["splits"].items()} == {
        split: rows for split, (rows, _) in report.files.items()
    }


def test_manifest_is_strict_json_and_names_the_steps_of_its_own_branch(tmp_path: Path) -> None:
    con = workspace(rollouts())
    other = StepUse("filter", "other", "filter/reward", {})
    best = StepUse("pair", "best", "pair/best_worst", {}, "solvable")
    stats = select(con, [SOLVABLE, other, best], Path())
    build(con, StepUse("build", "it", "build/dpo_messages"), Path(), tmp_path / "out", stats)
    text = (tmp_path / "out" / "manifest.json").read_text(encoding="utf-8")
    content = json.loads(text, parse_constant=pytest.fail)
    assert [step["step"] for step in content["steps"]] == ["solvable", "best"]
    assert content["steps"][1]["parameters"]["min_chosen_reward"] == "-inf"


def test_a_refused_build_leaves_the_earlier_one_as_it_was(tmp_path: Path) -> None:
    run(workspace(rollouts()), "build/sft_messages", tmp_path / "out")
    before = tree(tmp_path / "out")
    bad = [{"task_id": "x", "reward": 1.0, "completion": '[{"role":"tool","content":""}]'}]
    with pytest.raises(StepError, match="1 line: the last turn is not the assistant's"):
        run(workspace(bad), "build/sft_messages", tmp_path / "out")
    assert tree(tmp_path / "out") == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"], "something was left behind"
    run(workspace(rollouts(10)), "build/sft_messages", tmp_path / "out")
    assert tree(tmp_path / "out") != before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_line_names_rollouts_that_are_there(tmp_path: Path) -> None:
    """A key that was misspelt would otherwise be missing in the lineage."""
    step = tmp_path / "sql" / "build" / "mine.sql"
    step.parent.mkdir(parents=True)
    step.write_text("""
        SELECT '{}' AS json, [line_key(dataset, 'T' || task_id, policy, rollout_index, 'completion')] AS keys,
            prompt_hash AS split_key, attempt_id AS sort_key
        FROM selected
    """)
    with pytest.raises(StepError, match=r"mine.sql has \d+ keys of rollouts that are not in the workspace"):
        build(workspace(rollouts()), StepUse("build", "it", "build/mine"), tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_no_build_wrote_is_never_replaced(tmp_path: Path) -> None:
    con = workspace(rollouts())
    run(con, "build/sft_messages", tmp_path / "out")
    (tmp_path / "out" / "notes.md").write_text("mine")
    with pytest.raises(UsageError, match=r"contains files not written by a build \(notes.md\); choose another folder"):
        run(con, "build/sft_messages", tmp_path / "out")
    with pytest.raises(UsageError, match=r"contains files not written by a build"):
        run(con, "build/sft_messages", tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"is a file; name a folder"):
        run(con, "build/sft_messages", tmp_path / "file")
    with pytest.raises(UsageError, match=r"cannot write .*: (Not a directory|File exists); choose another output"):
        run(con, "build/sft_messages", tmp_path / "file" / "out")
    with pytest.raises(UsageError, match=r"\[build.it\] output is missing"):
        build(con, StepUse("build", "it", "build/sft_messages"), Path())
    assert (tmp_path / "out" / "notes.md").read_text() == "mine"


def test_an_empty_build_tells_which_step_dropped_what(tmp_path: Path) -> None:
    con = workspace(rollouts())
    high = StepUse("filter", "high", "filter/reward", {"min_reward": 2.0})
    with pytest.raises(StepError) as caught:
        run(con, "build/sft_messages", tmp_path / "out", SOLVABLE, high)
    assert str(caught.value) == (
        "[build.it] no rows left to write: 160 rollouts; solvable kept 96 of 160; high kept 0 of 96; "
        "build/sft_messages used 0 of 0; relax a step, or set allow_empty = true"
    )
    assert not (tmp_path / "out").exists()
    unverified = workspace([row | {"reward": None, "metrics": None} for row in rollouts()])
    with pytest.raises(StepError, match=r"no rows left to write: 160 rollouts, 160 of them unverified \(run verify\);"):
        run(unverified, "build/sft_messages", tmp_path / "out")
    assert run(con, "build/sft_messages", tmp_path / "out", SOLVABLE, high, allow_empty=True).files["train"][0] == 0
    assert tree(tmp_path / "out")["train.jsonl"] == b""
    with pytest.raises(StepError, match=r"validation = 0.001 of 80 rows left validation empty"):
        run(con, "build/sft_messages", tmp_path / "tiny", validation=0.001)
    with pytest.raises(UsageError, match=r"validation must be from 0 to below 1, not 1.0"):
        run(con, "build/sft_messages", tmp_path / "tiny", validation=1.0)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ("'{}' AS json, 1 AS keys", "must return the columns json, keys, split_key, sort_key, not json, keys"),
        ("'{\"a\":}' AS json, {keys}, 'k' AS split_key, task_id || rollout_index AS sort_key", "whose json is not one"),
        ("'{{\n}}' AS json, {keys}, 'k' AS split_key, task_id || rollout_index AS sort_key", "whose json is not one"),
        (
            "'{{\"a\":[1, ]}}' AS json, {keys}, 'k' AS split_key, task_id || rollout_index AS sort_key",
            "whose json is not",
        ),
        (
            "'{{\"\":' || 'nan'::FLOAT || '}}' AS json, {keys}, 'k' AS split_key, task_id || rollout_index AS sort_key",
            "whose json is not one",
        ),
        (
            "'[]' AS json, {keys}, 'k' AS split_key, task_id || rollout_index AS sort_key",
            "made 160 of 160 rows whose json",
        ),
        (
            "'{{}}' AS json, {keys}, 'k' AS split_key, task_id AS sort_key",
            "made 120 of 160 rows whose sort_key another",
        ),
        (
            "'{{}}' AS json, {keys}, NULL AS split_key, task_id || rollout_index AS sort_key",
            "with a NULL in json, keys",
        ),
    ],
)
def test_a_step_that_makes_no_lines(columns: str, message: str, tmp_path: Path) -> None:
    names = ", ".join(f"'{name}': {name}" for name in ("dataset", "task_id", "policy", "rollout_index"))
    keys = f"[{{{names}, 'role': 'x'}}] AS keys"
    (tmp_path / "mine.sql").write_text(
        f"SELECT {columns.replace('{keys}', keys)} FROM selected".replace("{{", "{").replace("}}", "}")
    )
    with pytest.raises(StepError) as caught:
        build(workspace(rollouts()), StepUse("build", "it", "mine.sql"), tmp_path, tmp_path / "out")
    assert message in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_texts_may_hold_what_is_no_json_outside_them(tmp_path: Path) -> None:
    """A step of one's own is read more strictly than DuckDB reads JSON, but not its texts."""
    text = json.dumps({"a": ':NaN, "[-inf', "b": ["x,}\\", ",]"], "c": '\\",}'})
    key = "{'dataset': dataset, 'task_id': task_id, 'policy': policy, 'rollout_index': rollout_index, 'role': 'x'}"
    (tmp_path / "mine.sql").write_text(
        f"SELECT {sql.literal(text)} AS json, [{key}] AS keys, 'k' AS split_key, task_id || rollout_index AS sort_key "
        "FROM selected"
    )
    build(workspace(rollouts()), StepUse("build", "it", "mine.sql"), tmp_path, tmp_path / "out")
    assert set((tmp_path / "out" / "train.jsonl").read_text().splitlines()) == {text}


REWARDS = st.sampled_from([None, 0.0, 0.1, 0.25, 0.3, 0.7, 1.0])
GROUPS = st.lists(st.lists(REWARDS, min_size=1, max_size=6), min_size=1, max_size=6)
SLOW = settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))


def rows_of(groups: list[list[float | None]]) -> list[dict[str, Any]]:
    return [
        {"task_id": f"t{task}", "rollout_index": index, "reward": reward, "text": f"{task}.{index}"}
        for task, group in enumerate(groups)
        for index, reward in enumerate(group)
    ]


@SLOW
@given(GROUPS, st.floats(0, 1), st.floats(0, 1))
def test_solve_rate_keeps_what_plain_python_keeps(groups: list[list[float | None]], one: float, two: float) -> None:
    low, high = sorted((one, two))
    con = workspace(rows_of(groups))
    stats = select(con, [StepUse("filter", "f", "filter/solve_rate", {"low": low, "high": high})], Path())[0]
    kept = 0
    for group in groups:
        verified = [reward for reward in group if reward is not None]
        kept += len(verified) if verified and low <= round(math.fsum(verified) / len(verified), 12) <= high else 0
    assert stats.kept == kept
    assert stats.kept + stats.dropped == stats.rows_in == sum(map(len, groups))


@SLOW
@given(GROUPS, st.integers(1, 3), st.sampled_from([0.0, 0.2, 0.6]))
def test_pairs_have_a_margin_and_no_rollout_twice(
    tmp_path_factory: pytest.TempPathFactory, groups: list[list[float | None]], most: int, margin: float
) -> None:
    output, con = tmp_path_factory.mktemp("dpo") / "out", workspace(rows_of(groups))
    best = StepUse("pair", "best", "pair/best_worst", {"pairs_per_task": most, "min_margin": margin})
    run(con, "build/dpo_messages", output, best, allow_empty=True)
    pairs: dict[int, dict[str, Any]] = {}
    for origin in lineage(con, output):
        pairs.setdefault(origin["row"], {})[origin["role"]] = origin
    used = Counter()
    for pair in pairs.values():
        chosen, rejected = pair["chosen"], pair["rejected"]
        assert chosen["task_id"] == rejected["task_id"]
        assert chosen["reward"] > rejected["reward"]
        assert round(chosen["reward"] - rejected["reward"], 9) >= margin
        used.update((one["task_id"], one["rollout_index"]) for one in (chosen, rejected))
    assert not used or max(used.values()) == 1
    found = Counter(pair["chosen"]["task_id"] for pair in pairs.values())
    for task, group in enumerate(groups):
        verified = sorted(reward for reward in group if reward is not None)
        gaps = [round(high - low, 9) for low, high in zip(verified, verified[::-1], strict=True)][:most]
        assert found[f"t{task}"] == sum(gap > 0 and gap >= margin for gap in gaps)


@SLOW
@given(GROUPS, st.integers(1, 4))
def test_pass_and_max_at_k_are_means_over_all_draws(groups: list[list[float | None]], k: int) -> None:
    con = workspace(rows_of(groups))
    _, rows = measure(con, "metrics/pass_at_k", settings={"k": [k], "success": 0.3})
    verified = [[reward for reward in group if reward is not None] for group in groups]
    draws = [[max(draw) for draw in combinations(group, k)] for group in verified if len(group) >= k]
    if not draws:
        assert rows == []
        return
    passed = math.fsum(sum(best >= 0.3 for best in of) / len(of) for of in draws) / len(draws)
    mean_best = math.fsum(math.fsum(of) / len(of) for of in draws) / len(draws)
    assert rows[0][:4] == ("d", "p", k, len(draws))
    assert rows[0][4:] == pytest.approx((passed, mean_best), abs=1e-12)


@SLOW
@given(
    st.dictionaries(st.sampled_from("xyz"), st.integers(1, 9), min_size=1),
    st.lists(st.integers(1, 10), min_size=3, max_size=3),
    st.integers(1, 40),
)
def test_shares_are_exact(sources: dict[str, int], weights: list[int], total: int) -> None:
    con = workspace([{"dataset": d, "task_id": f"{d}{i}"} for d, size in sources.items() for i in range(size)])
    requested = dict(zip(sources, weights, strict=False))
    shares = {name: weight / sum(requested.values()) for name, weight in requested.items()}
    keys = {"shares": shares, "rows": total, "on_shortage": "repeat", "max_copies": 1000}
    select(con, [StepUse("mix", "m", "mix/shares", keys)], Path())
    rows = sql.rows(con, "SELECT dataset, task_id, copy FROM selected")
    counts = Counter(dataset for dataset, _, _ in rows)
    assert len(set(rows)) == len(rows) == total
    assert all(abs(counts[name] - share * total) < 1 for name, share in shares.items())
    for name, size in sources.items():
        times = Counter(task for dataset, task, _ in rows if dataset == name)
        assert len(times) == min(size, counts[name])
        assert not times or max(times.values()) - min(times[f"{name}{i}"] for i in range(size)) <= 1
    fewer = {**keys, "on_shortage": "shrink"}
    shrunk = select(con, [StepUse("mix", "m", "mix/shares", fewer)], Path())[0]
    assert all(kept.rows <= kept.rows_in for kept in shrunk.datasets)
    assert shrunk.rows == min(total, *(math.floor(sources[name] / share + 1e-9) for name, share in shares.items()))


def test_text_that_is_long_and_rows_that_are_many(tmp_path: Path) -> None:
    """A line of a megabyte passes whole, beside more rows than one batch holds."""
    rows = [{"task_id": str(i), "reward": 1.0, "text": "é" * 500_000 if i == 700 else str(i)} for i in range(1000)]
    run(workspace(rows), "build/sft_messages", tmp_path / "out")
    found = {row["messages"][0]["content"]: row["messages"][1]["content"] for row in lines(tmp_path / "out")}
    assert found == {f"{row['task_id']}?": row["text"] for row in rows}
    assert dump(found)


def test_build_says_what_became_of_the_rollouts_and_of_the_mix(tmp_path: Path) -> None:
    """In, used, dropped by which step and why; the mix of the lines beside the one that was asked for."""
    tool = dump([{"type": "function", "function": {"name": "f", "parameters": {}}}])
    made = [
        {"dataset": name, "task_id": f"{name}{n}", "reward": [0.2, 0.6, 1.0][n % 3], "tools": tool if n == 2 else None}
        for name in ("even", "odd")
        for n in range(30)
    ]
    con = workspace(made)
    steps = [
        StepUse("filter", "good", "filter/reward", {"min_reward": 0.5}),
        StepUse("mix", "half", "mix/shares", {"shares": {"even": 0.5, "odd": 0.5}, "rows": 40}),
    ]
    use = StepUse("build", "sft", "build/sharegpt", {"min_reward": 0.9})
    report = build(con, use, Path(), tmp_path / "out", select(con, steps, Path()))
    used = report.rollouts_used
    even = sum("even" in line for line in (tmp_path / "out" / "train.jsonl").read_text().splitlines()) / used
    assert list(sentences([report]))[1:] == [
        f"sft: 60 rollouts in, {used} used; dropped: good 20; {40 - used}: reward below min_reward",
        f"sft: mix written (requested): even {even:.1%} (50.0%), odd {1 - even:.1%} (50.0%)",
    ]
    use = StepUse("build", "plain", "build/alpaca", {"drop_unfit": True})
    report = build(con, use, Path(), tmp_path / "plain", select(con, [], Path()))
    assert list(sentences([report]))[1:] == [
        "plain: 60 rollouts in, 18 used; dropped: 40: reward below min_reward; 2: no place in the format"
    ]
