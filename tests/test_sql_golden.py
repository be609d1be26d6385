"""Every shipped step against cases written by hand: tests/sql/KIND/STEP/CASE.txt, as rolloutops/build/golden.py reads
them. Published values: tests/formulas."""

from __future__ import annotations

from pathlib import Path

import pytest

from rolloutops.build.golden import fault, find_cases, outcome, read_case, reasons
from rolloutops.config.build_options import BuildOptions
from rolloutops.config.resources import shipped
from rolloutops.config.validation import keys_of
from rolloutops.steps.step import KINDS, find_step, read_step
from rolloutops.store import sql
from tests import given

HERE = Path(__file__).parent / "sql"
FILE = "filter/decontaminate/benchmark.jsonl"
CASES = find_cases([HERE])
STEPS = sorted(path for kind in KINDS for path in (shipped("sql") / kind).glob("*.sql"))


@pytest.mark.parametrize("path", CASES, ids=lambda path: "/".join(path.with_suffix("").parts[-3:]))
def test_case(path: Path) -> None:
    case = read_case(path)
    assert fault(case, Path()) == ""
    if case.step.startswith("filter/") and "error" not in case.sections:
        _, stats = outcome(case, Path())
        assert stats is not None
        assert sum(rows for _, _, rows in reasons(stats)) == stats.dropped, "rows dropped without a reason"


@pytest.mark.parametrize("path", STEPS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_step_and_parameter_has_a_case(path: Path) -> None:
    step = read_step(f"{path.parent.name}/{path.stem}", path)
    cases = [read_case(case) for case in sorted((HERE / step.name).glob("*.txt"))]
    assert any("error" not in case.sections for case in cases), "no case that shows what it makes"
    given_keys = {key for case in cases for key in case.settings}
    assert set(step.params) - given_keys - set(keys_of(BuildOptions)) == set(), "parameters that no case gives"
    assert step.about
    assert all(param.about for param in step.params.values())


@pytest.mark.parametrize("path", STEPS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_runs_as_it_stands_in_a_plain_shell(path: Path) -> None:
    """A step needs no rolloutops: its text, with its parameters set, runs over the views as one statement."""
    con = given.workspace([{"task_id": "t", "reward": 1.0, "output_tokens": 5}])
    sql.run(
        con, "CREATE VIEW selected AS SELECT *, 0 AS copy, 'a' AS pair, 'chosen' AS role, 1.0 AS margin FROM rollouts"
    )
    step = find_step(f"{path.parent.name}/{path.stem}")
    if "pairs" in step.reads:
        sql.run(con, (shipped("sql") / "pairs.sql").read_text(encoding="utf-8"))
    for param in step.params.values():
        value = param.default or {"VARCHAR[]": f"[{str(HERE / FILE)!r}]"}.get(param.kind, "MAP {'d': 1.0}")
        sql.run(con, f"SET VARIABLE {param.name} = CAST({value} AS {param.kind})")
    sql.run(con, path.read_text(encoding="utf-8"))
