"""What holds of every selection and every training file, whatever was collected and whichever steps a recipe chains.

Hypothesis makes workspaces (any_rollouts.py) and chains of the shipped steps (any_chain.py). Every chain either ends
with a sentence and no file, or keeps all of it: no pair without its margin, no prompt on two sides, no row that leads
nowhere, nothing dropped that is not counted, and the same bytes however the rows lie and however many threads read.
ROLLOUTOPS_EXAMPLES=1000 looks further, and elsewhere each time.
"""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings

from rolloutops.build import manifest
from rolloutops.build.build import BuildReport, build
from rolloutops.build.lint import lint_files
from rolloutops.build.trace import trace
from rolloutops.config.recipe import StepUse
from rolloutops.config.resources import shipped
from rolloutops.errors import StepError
from rolloutops.steps.selection import StepStats, select
from rolloutops.steps.step import find_step
from rolloutops.store import sql
from rolloutops.store.workspace import Workspace, connect
from tests.any_chain import BUILDS, CHAINS, PAIR_BUILDS, STEPS
from tests.any_rollouts import PLAN, TASKS, Tables, Task, lay_out, tables_of

EXAMPLES = int(os.environ.get("ROLLOUTOPS_EXAMPLES", "25"))
KEY = ("dataset", "task_id", "policy", "rollout_index")
COMPARED = (*KEY, "prompt_hash", "context_hash", "attempt_id", "agent", "output_tokens")

SENTENCES = re.compile(
    r"has no rows: leave it out|has \d+ (rows|tokens) of the|cannot each be|no rollout of this policy"
    r"|no rollout has this field|leaves pairs that are none|no row is left|left (train|validation|test)\b.* empty"
    r"|have errors|a check failed for|a Parquet column cannot hold"
)
"""How a chain may end: each of these says what to do. Anything else is a fault."""


def test_every_shipped_step_is_drawn() -> None:
    there = {
        f"{path.parent.name}/{path.stem}"
        for kind in ("filter", "reward", "mix", "pair", "build")
        for path in (shipped("sql") / kind).glob("*.sql")
    }
    assert {*STEPS, *BUILDS} == there
    pairs = {name for name in BUILDS if "pairs" in find_step(name).reads}
    assert pairs == set(PAIR_BUILDS)


def test_whatever_is_chained(tmp_path_factory: Any) -> None:
    built: Counter[str] = Counter()

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize="ROLLOUTOPS_EXAMPLES" not in os.environ,
        suppress_health_check=list(HealthCheck),
        database=None,
        print_blob=False,
    )
    @given(TASKS, CHAINS)
    def holds(tasks: list[Task], chain: Any) -> None:
        place = tmp_path_factory.mktemp("any")
        built[play(tasks, chain, place)] += 1

    holds()
    assert built["pairs"], f"no example made pairs: {built}"
    assert built["lines"], f"no example made lines: {built}"


def play(tasks: list[Task], chain: Any, place: Path) -> str:
    """Run a chain over a workspace, twice as it lies differently, and check all that holds. Returns how it ended."""
    tables = tables_of(tasks)
    one = ended(lay_out(place / "one", tables, 1, 1), chain, 1, tables)
    many = ended(lay_out(place / "many", tables, 3, 2), chain, 8, None)
    assert str(one) == str(many).replace(str(place / "many"), str(place / "one"))
    if isinstance(one, StepError):
        return "refused"
    assert tree(place / "one" / "out") == tree(place / "many" / "out")
    lines = sum(rows for rows, _ in one.files.values())
    return ("pairs" if chain[2] in PAIR_BUILDS else "lines") if lines else "nothing"


def ended(workspace: Workspace, chain: Any, threads: int, tables: Tables | None) -> BuildReport | StepError:
    """What a chain ends with. tables: what the workspace holds, to check against; None where that was done."""
    before, after, use, requested = chain
    output = workspace.root / "out"
    con = connect(workspace, PLAN, threads)
    try:
        stats: list[StepStats] = []
        uses: list[StepUse] = []
        for name, values in [*before, *after]:
            uses.append(StepUse(name.partition("/")[0], f"s{len(uses)}", name, values))
        stats = select(con, uses, Path())
        if tables is not None:
            check_funnels(con, uses, stats, tables)
        own = {"drop_unfit": True, "drop_unfinished": True, "agent_name": "a", "min_reward": -1.0}
        own = {name: value for name, value in own.items() if name in find_step(use).params}
        if any(step.use == "filter/near_duplicates" for step in uses):
            own["split_by"] = "cluster"
        report = build(con, StepUse("build", "it", use, {**own, **requested}), Path(), output, stats)
        if tables is not None:
            check_build(con, report, use, tables)
            if "split_by" in own:
                check_clusters(con, report, f'selection."step {uses[-1].name}"')
        return report
    except StepError as error:
        if not SENTENCES.search(str(error)):
            raise
        assert not output.exists()
        assert not list(workspace.root.glob(".*")), "something was left behind"
        return error
    finally:
        con.close()


def check_funnels(con: sql.Connection, uses: list[StepUse], step_stats: list[StepStats], tables: Tables) -> None:
    """Kept and dropped make up what came in, for each step and dataset, and what each kind promises."""
    table = "selection.rollouts"
    rows = selected(con, table)
    for use, stats in zip(uses, step_stats, strict=True):
        given_rows, table = rows, f'selection."step {use.name}"'
        rows = selected(con, table)
        requested, made = Counter(row["dataset"] for row in given_rows), Counter(row["dataset"] for row in rows)
        names = [tuple(row[k] for k in (*KEY, "copy")) for row in rows]
        assert len(set(names)) == len(names)
        before = {(*(row[k] for k in KEY), row["copy"]): row for row in given_rows}
        if use.kind == "pair":
            keys = {name[:4] for name in names}
            stayed = Counter(row["dataset"] for row in given_rows if tuple(row[k] for k in KEY) in keys)
        else:
            stayed = Counter(name[0] for name in names if name in before)
        assert {name[:4] for name in names} <= {name[:4] for name in before}
        assert {one.dataset: one.rows_in for one in stats.datasets} == dict(requested)
        for one in stats.datasets:
            assert (one.kept, one.rows) == (stayed[one.dataset], made[one.dataset]), one
            assert one.kept + one.dropped == one.rows_in
            if use.kind == "filter":
                assert sum(one.reasons.values()) == one.dropped, "dropped without a reason"
        if use.kind == "reward":
            assert made == requested
        if use.kind in ("filter", "mix"):
            for row in rows:
                same = [one for one in given_rows if all(one[k] == row[k] for k in KEY)]
                assert row["reward"] in [one["reward"] for one in same]
        if use.kind == "mix":
            check_mix(use, given_rows, rows)
        if use.kind == "pair":
            check_pairs(use, rows, tables)


def selected(con: sql.Connection, table: str) -> list[dict[str, Any]]:
    """The rows of a selection with what the checks compare, whatever the step stored of it."""
    own = sql.columns(con, f"FROM {table}")
    extra = [f"k.{name}" for name in ("pair", "role", "margin", "cluster", "advantage") if name in own]
    reward = "k.reward" if "reward" in own else "s.reward"
    copy = "k.copy" if "copy" in own else "0 AS copy"
    columns = ", ".join([*(f"s.{name}" for name in COMPARED), reward, copy, *extra])
    return sql.records(con, f"SELECT {columns} FROM {table} AS k JOIN selection.rollouts AS s USING ({', '.join(KEY)})")


def check_mix(use: StepUse, given_rows: list[dict[str, Any]], rows: list[dict[str, Any]]) -> None:
    """What each mix promises of its numbers, reckoned anew."""
    requested = use.settings
    there, made = Counter(row["dataset"] for row in given_rows), Counter(row["dataset"] for row in rows)
    short = requested.get("on_shortage")
    if use.use == "mix/counts":
        wanted = {name: n if short == "repeat" else min(n, there[name]) for name, n in requested["counts"].items()}
        assert made == Counter(wanted)
    elif use.use == "mix/shares":
        most = min(math.floor(there[name] / share + 1e-9) for name, share in requested["shares"].items())
        total = (
            most
            if "rows" not in requested
            else requested["rows"]
            if short == "repeat"
            else min(requested["rows"], most)
        )
        assert len(rows) == total
        assert all(abs(made[name] - share * total) < 1 for name, share in requested["shares"].items())
    elif use.use == "mix/temperature":
        total = requested.get("rows", len(rows)) if there else 0
        assert len(rows) == total if short == "repeat" else len(rows) <= total
    elif use.use == "mix/copies":
        assert made == Counter({name: math.floor(n * there[name] + 0.5) for name, n in requested["copies"].items()})
    elif use.use == "mix/tokens":
        for name, budget in requested["tokens"].items():
            taken = sum(row["output_tokens"] for row in rows if row["dataset"] == name)
            largest = max((row["output_tokens"] for row in given_rows if row["dataset"] == name), default=0)
            everything = sum(row["output_tokens"] for row in given_rows if row["dataset"] == name)
            assert taken <= budget
            assert taken > budget - largest or (short == "shrink" and taken == everything)
    elif use.use == "mix/unimax":
        epochs = requested.get("max_epochs", 4.0)
        most = {name: math.floor(epochs * n) for name, n in there.items()}
        assert all(made[name] <= most[name] for name in most)
        assert len(rows) == min(requested.get("rows", len(given_rows)), sum(most.values()))
    elif use.use == "mix/max_share":
        assert all(n <= requested.get("max_share", 0.5) * len(rows) + 1e-6 for n in made.values())
    elif use.use == "mix/cells":
        names = ("dataset", *requested.get("cells", ["task_id"]))
        cells = Counter(tuple(row[name] for name in names) for row in given_rows)
        taken_of = Counter(tuple(row[name] for name in names) for row in rows)
        assert taken_of == Counter({cell: min(n, requested.get("per_cell", 1)) for cell, n in cells.items()})


def check_pairs(use: StepUse, rows: list[dict[str, Any]], tables: Tables) -> None:
    """Each pair has two sides that were asked the same and said different things, and the margin between them."""
    attempts = by_id(tables)
    pairs: dict[str, dict[str, Any]] = {}
    for row in rows:
        assert row["role"] not in pairs.setdefault(row["pair"], {})
        pairs[row["pair"]][row["role"]] = row
    for sides in pairs.values():
        chosen, rejected = sides["chosen"], sides["rejected"]
        for name in ("dataset", "task_id", "prompt_hash", "context_hash"):
            assert chosen[name] == rejected[name]
        said = [attempts[side["dataset"], side["attempt_id"]]["completion"] for side in (chosen, rejected)]
        assert said[0] != said[1]
        if use.use == "pair/by_policy" and "min_margin" not in use.settings:
            assert chosen["margin"] is None
            continue
        assert chosen["margin"] == rejected["margin"] == round(chosen["reward"] - rejected["reward"], 12)
        assert chosen["reward"] > rejected["reward"]
        assert chosen["margin"] >= use.settings.get("min_margin", 0)


def check_build(con: sql.Connection, report: BuildReport, use: str, tables: Tables) -> None:
    """Each line leads to attempts that count and to tasks that are there, lies on one side, and passes its linter."""
    lineage = lineage_of(con, report)
    content = manifest.read(report.output)
    rows = {split: sum(of_file.values()) for split, of_file in content["splits"].items()}
    assert rows == {split: number for split, (number, _) in report.files.items()}
    assert {(one["split"], one["row"]) for one in lineage} == {
        (split, row) for split, number in rows.items() for row in range(1, number + 1)
    }
    newest = {(one["dataset"], one["task_id"]): one for one in sorted(tables["tasks"], key=lambda one: one["version"])}
    attempts = by_id(tables)
    sides: dict[str, set[str]] = {}
    asked_of: dict[tuple[str, int], set[str]] = {}
    for one in lineage:
        attempt, task = attempts[one["dataset"], one["attempt_id"]], newest[one["dataset"], one["task_id"]]
        assert all(attempt[name] == one[name] for name in KEY)
        assert attempt.get("error") is None
        assert attempt["row_hash"] == task["row_hash"]
        assert not task["removed"]
        sides.setdefault(task["prompt_hash"], set()).add(one["split"])
        asked_of.setdefault((one["split"], one["row"]), set()).add(attempt["prompt"] or task["prompt"])
    assert all(len(splits) == 1 for splits in sides.values()), "a prompt on two sides"
    if use in PAIR_BUILDS:
        assert all(len(prompts) == 1 for prompts in asked_of.values())
        roles = sorted((one["split"], one["row"], one["role"]) for one in lineage)
        assert roles == sorted((*line, role) for line in asked_of for role in ("chosen", "rejected"))
    target = find_step(use).notes["target"]
    files = [report.output / one["name"] for one in content["files"] if "split" in one and one["rows"]]
    if files:
        assert lint_files([str(file) for file in files], target).of("error") == []
        found = trace(files[-1], 1)
        assert found["rollouts"]
        for origin in found["rollouts"]:
            assert not origin["attempt_lost"]
            assert not origin["task_changed"]
            assert origin["file"] == "in.jsonl"
            assert origin["run"]["command"] == "collect"


def check_clusters(con: sql.Connection, report: BuildReport, table: str) -> None:
    """No two prompts that are nearly the same lie on two sides."""
    clusters = {tuple(row[name] for name in KEY): row["cluster"] for row in sql.records(con, f"FROM {table}")}
    sides: dict[str, set[str]] = {}
    for one in lineage_of(con, report):
        sides.setdefault(clusters[tuple(one[name] for name in KEY)], set()).add(one["split"])
    assert all(len(splits) == 1 for splits in sides.values()), "near duplicates on two sides"


def lineage_of(con: sql.Connection, report: BuildReport) -> list[dict[str, Any]]:
    return sql.records(con, f"FROM read_parquet({sql.literal(str(report.output / 'lineage.parquet'))})")


def by_id(tables: Tables) -> dict[tuple[str, str], dict[str, Any]]:
    return {(one["dataset"], one["attempt_id"]): one for one in tables["attempts"]}


def tree(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
