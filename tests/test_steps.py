"""Steps: where they are found, what their headers say, and every mistake before anything runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rolloutops.build.build import build
from rolloutops.config.recipe import StepUse
from rolloutops.config.resources import shipped
from rolloutops.errors import RolloutopsError, StepError, UsageError
from rolloutops.steps.selected import payload_of
from rolloutops.steps.selection import chain, select
from rolloutops.steps.step import available, check_step, find_step, lint, measure, read_step, variables
from rolloutops.store import sql
from tests import given

HEADER = """-- Keep long answers.
-- Of any policy.
-- param least BIGINT = 10      shortest length kept
-- param kinds MAP(VARCHAR, DOUBLE) = MAP {'a': 0.5, 'b': 1}   weights -- by kind
-- param word  VARCHAR = 'it''s -- fine'
-- param must  DOUBLE           has no default
-- check: SELECT 1 AS fault
--     WHERE getvariable('must') < 0
-- An ordinary comment with getvariable('nothing').
SELECT s.* /* getvariable('nothing') */ FROM selected AS s -- and getvariable('nothing')
WHERE length(s.text) >= getvariable('least') AND s.text <> getvariable('word') || '--' || getvariable('must')
    AND getvariable('kinds') IS NOT NULL;  -- the end
"""


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / f"{name}.sql"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_header(tmp_path: Path) -> None:
    step = read_step("filter/long", write(tmp_path, "filter/long", HEADER))
    assert step.about == "Keep long answers. Of any policy."
    assert [(p.name, p.kind, p.default, p.about) for p in step.params.values()] == [
        ("least", "BIGINT", "10", "shortest length kept"),
        ("kinds", "MAP(VARCHAR, DOUBLE)", "MAP {'a': 0.5, 'b': 1}", "weights -- by kind"),
        ("word", "VARCHAR", "'it''s -- fine'", ""),
        ("must", "DOUBLE", None, "has no default"),
    ]
    assert step.checks == ("SELECT 1 AS fault WHERE getvariable('must') < 0",)
    assert step.query.startswith("SELECT s.*")
    assert step.query.endswith("IS NOT NULL")
    assert payload_of(step, "filter") == ["text"]
    lint(sql.connect(), step)
    assert "SET VARIABLE must = CAST('inf'::DOUBLE AS DOUBLE);" in variables(step, {"must": float("inf")})


def test_the_recipes_own_step_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_step("filter/reward").path == shipped("sql") / "filter" / "reward.sql"
    here = write(tmp_path, "sql/filter/reward", "-- Mine, in ./sql.\nSELECT s.* FROM selected AS s")
    assert find_step("filter/reward", tmp_path / "recipes").path.resolve() == here
    beside = write(tmp_path, "recipes/filter/reward", "-- Mine, beside the recipe.\nSELECT s.* FROM selected AS s")
    assert find_step("filter/reward", tmp_path / "recipes").path == beside
    assert find_step(str(here)).path == here
    assert available(tmp_path / "recipes")["filter/reward"] == ("Mine, beside the recipe.", beside)
    assert set(available()) == {
        path.relative_to(shipped("sql")).with_suffix("").as_posix()
        for kind in ("metrics", "filter", "mix", "reward", "pair", "build")
        for path in (shipped("sql") / kind).glob("*.sql")
    }


@pytest.mark.parametrize(
    ("use", "settings", "message"),
    [
        (
            "filter/solve_rat",
            {},
            "[filter.f] no step 'filter/solve_rat', did you mean 'filter/solve_rate'",
        ),
        (
            "filter/solve_rate",
            {"lo": 0.1},
            "[filter.f] no key 'lo', did you mean 'low'?; filter/solve_rate takes: low, high",
        ),
        ("filter/solve_rate", {"low": "0.1"}, "[filter.f] low must be a number, not '0.1'"),
        ("filter/solve_rate", {"low": True}, "[filter.f] low must be a number, not True"),
        ("filter/finished", {"finish_reasons": "stop"}, "must be a list of texts, not 'stop'"),
        ("filter/finished", {"finish_reasons": [1]}, "must be a list of texts, not [1]"),
        ("mix/shares", {}, "[mix.f] shares is missing: share of each dataset; the sum must be 1"),
        (
            "mix/shares",
            {"shares": {"a": "1"}},
            "[mix.f] shares may hold only numbers; found a = '1'",
        ),
        ("mix/shares", {"shares": {"a": 1}, "rows": 10.5}, "[mix.f] rows must be a whole number, not 10.5"),
        (
            "mix/shares",
            {"shares": {"a": 1}, "max_copies": 2**40},
            "max_copies must be 2147483647 at most, not 10",
        ),
        ("mix/shares", {"shares": {"a": 1}, "on_shortage": 1}, "[mix.f] on_shortage must be text, not 1"),
        ("pair/best_worst", {"same_policy": "yes"}, "[pair.f] same_policy must be true or false, not 'yes'"),
        ("build/sft_messages", {"validaton": 0.1}, "no key 'validaton', did you mean 'validation'?"),
        ("build/sft_messages", {"seed": 1.5}, "[build.f] seed must be a whole number, not 1.5"),
    ],
)
def test_a_recipes_mistakes(use: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_step(StepUse(use.split("/")[0], "f", use, settings), Path())
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "SELECT getvariable('lwo'), getvariable('low')\n",
            "uses the parameter 'lwo', which its header does not declare",
        ),
        ("SELECT s.* FROM selected AS s", "declares the parameter 'low', which it does not use"),
        ("SELECT getvariable('low'); SELECT 2", "must hold one SELECT"),
        ("DROP TABLE x -- getvariable('low')", "must hold one SELECT"),
        ("SELEC getvariable('low')", "is not SQL: "),
        ("-- param high\nSELECT getvariable('low')", "line 2: write `-- param NAME TYPE = DEFAULT   meaning`"),
        (
            "-- param h DOUBLE = 'x'  y\nSELECT getvariable('low'), getvariable('h')",
            "the default 'x' of h is not a DOUBLE",
        ),
    ],
)
def test_a_files_mistakes(text: str, message: str, tmp_path: Path) -> None:
    path = write(tmp_path, "broken", f"-- param low DOUBLE = 0   x\n{text}")
    with pytest.raises(StepError) as caught:
        check_step(StepUse("filter", "f", str(path), {}), tmp_path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("SELECT task_id FROM selected", "does not return dataset, policy, rollout_index: begin it with SELECT s.*"),
        (
            "SELECT s.* REPLACE ('x' AS task_id) FROM selected AS s",
            "returns rollouts that are not in its input, as dataset d",
        ),
        ("SELECT s.* FROM selected AS s, range(2)", "returns a rollout more than once; give each repeat its own"),
        (
            "SELECT s.* REPLACE (s.reward / 0.0 AS reward) FROM selected AS s",
            "returns NaN or infinity, e.g. reward inf, dataset d, task_id",
        ),
        ("SELECT s.nothing FROM selected AS s", "[filter.f] "),
        ("SELECT s.* EXCLUDE (half) FROM selected AS s", "leaves out half, which an earlier step made"),
        (
            "-- check: SELECT task_id FROM result\nSELECT s.* FROM selected AS s",
            "4 rows: task_id a; task_id b; task_id c; …",
        ),
        ("SELECT s.* FROM selected AS s WHERE error('no') IS NULL", "failed: no"),
    ],
)
def test_a_steps_mistakes_when_it_runs(text: str, message: str, tmp_path: Path) -> None:
    con = given.workspace([{"task_id": name, "reward": 1.0} for name in "abce"])
    write(tmp_path, "half", "SELECT s.*, s.reward / 2 AS half FROM selected AS s")
    write(tmp_path, "step", text)
    steps = [StepUse("reward", "h", "half", {}), StepUse("filter", "f", "step", {})]
    with pytest.raises(RolloutopsError) as caught:
        select(con, steps, tmp_path)
    assert message in str(caught.value)


def test_steps_follow_each_other_or_start_where_they_say(tmp_path: Path) -> None:
    rows = [{"task_id": name, "reward": reward} for name, reward in zip("abcd", (0.0, 0.5, 1.0, None), strict=True)]
    con = given.workspace(rows)
    write(tmp_path, "scale", "SELECT s.* REPLACE (s.reward * 10 AS reward), length(s.prompt) AS n FROM selected AS s")
    steps = [
        StepUse("filter", "judged", "filter/reward", {"min_reward": 0.0}),
        StepUse("reward", "scaled", "scale", {}),
        StepUse("filter", "good", "filter/reward", {"min_reward": 10.0}),
        StepUse("filter", "fair", "filter/reward", {"min_reward": 0.5, "max_reward": 0.5}, "judged"),
    ]
    stats = select(con, steps, tmp_path)
    assert [(f.step, f.start, f.rows_in, f.kept, f.dropped) for f in stats] == [
        ("judged", "rollouts", 4, 3, 1),
        ("scaled", "judged", 3, 3, 0),
        ("good", "scaled", 3, 1, 2),
        ("fair", "judged", 3, 1, 2),
    ]
    assert sql.rows(con, "SELECT task_id, reward FROM selected") == [("b", 0.5)]
    assert [f.step for f in chain(stats, "good")] == ["judged", "scaled", "good"]
    good = select(con, steps[:3], tmp_path)
    assert sql.rows(con, "SELECT task_id, reward, n, prompt->0->>'content' FROM selected") == [("c", 10.0, 32, "c?")]
    assert good[2].parameters == {"min_reward": 10.0, "max_reward": float("inf")}
    with pytest.raises(StepError, match="no earlier step has that name, did you mean 'judged'"):
        select(con, [steps[0], StepUse("filter", "x", "filter/reward", {}, "juged")], tmp_path)


@pytest.mark.parametrize(
    "source", ["* FROM selected", "s.* FROM selected AS s", "COLUMNS('.*') FROM selected", "* FROM (FROM selected)"]
)
def test_a_star_in_a_custom_build_has_the_payload(tmp_path: Path, source: str) -> None:
    line = "to_json(m)::VARCHAR AS json, [line_key(m.dataset, m.task_id, m.policy, m.rollout_index, 'x')] AS keys"
    query = f"SELECT {line}, m.prompt_hash AS split_key, m.task_id AS sort_key FROM (SELECT {source}) AS m"
    write(tmp_path, "build/mine", f"-- All of it.\n{query}")
    con = given.workspace([{"task_id": "a", "text": "hello", "reward": 1.0}])
    report = build(con, StepUse("build", "mine", "build/mine"), tmp_path, tmp_path / "out")
    made = json.loads(report.files["train"][1].read_text(encoding="utf-8"))
    assert made["text"] == "hello"
    assert made["completion"] == [{"role": "assistant", "content": "hello"}]
    assert made["prompt"] == [{"role": "user", "content": "a?"}]


@pytest.mark.parametrize(
    ("header", "query", "said"),
    [
        ("", "SELECT * FROM pairs", "reads pairs, which its header does not declare; add -- reads: pairs"),
        ("-- reads: pairs\n", "SELECT * FROM selected", "declares -- reads: pairs, which its query does not read"),
        ("-- reads: pair\n", "SELECT * FROM selected", "declares -- reads: pair, did you mean 'pairs'?"),
    ],
)
def test_what_a_step_reads_is_what_its_header_says(tmp_path: Path, header: str, query: str, said: str) -> None:
    path = write(tmp_path, "build/mine", f"-- Mine.\n{header}{query}")
    with pytest.raises(StepError) as error:
        lint(sql.connect(), read_step("build/mine", path))
    assert said in str(error.value)


def test_a_step_of_before_may_call_a_cte_pairs(tmp_path: Path) -> None:
    query = "WITH pairs AS (SELECT c.pair FROM selected AS c JOIN selected AS r USING (pair)) SELECT * FROM pairs"
    lint(sql.connect(), read_step("build/mine", write(tmp_path, "build/mine", f"-- Mine.\n{query}")))


def test_a_star_in_a_filter_reads_no_payload(tmp_path: Path) -> None:
    path = write(tmp_path, "filter/mine", "-- All.\nSELECT s.* FROM selected AS s WHERE reward > 0 -- of text")
    assert payload_of(read_step("filter/mine", path), "filter") == []


def test_selected_has_every_column_of_rollouts_as_it_is() -> None:
    """`selected` reads the payload past the view `rollouts`; both must say the same."""
    con = given.workspace(
        [
            {"task_id": "a", "reward": 1.0, "details": '{"x": 1}', "tools": "[1]", "request": "{}", "response": "[]"},
            {"task_id": "a", "rollout_index": 1, "own_prompt": '[{"role":"system"}]'},
            {"task_id": "b", "error": "timeout", "final": False},
        ]
    )
    select(con, [], Path())
    order = "ORDER BY rollout_index"
    assert sql.records(con, f"SELECT * EXCLUDE (copy) FROM selected {order}") == [
        {name: row[name] for name in sql.columns(con, "SELECT * EXCLUDE (copy) FROM selected")}
        for row in sql.records(con, f"FROM rollouts {order}")
    ]
    assert set(sql.columns(con, "FROM selected")) == {*sql.columns(con, "FROM rollouts"), "copy"}


def test_parameters_do_not_outlive_their_step(tmp_path: Path) -> None:
    con = given.workspace([{"task_id": "a", "reward": 1.0}])
    write(tmp_path, "one", "-- param x DOUBLE = 5   five\nSELECT getvariable('x') AS x")
    assert measure(con, "one", tmp_path) == (["x"], [(5.0,)])
    assert measure(con, "one", tmp_path, {"x": 6}) == (["x"], [(6.0,)])
    assert sql.rows(con, "SELECT getvariable('x')") == [(None,)]


def test_a_benchmark_may_lie_in_files_of_any_form(tmp_path: Path) -> None:
    """Also by a glob, packed, and under a name that SQL has to quote."""
    con = given.workspace([{"task_id": "t"}])
    names = ["it's.parquet", "a.csv", "b.tsv.gz", "c.jsonl.gz", "d.json"]
    forms = ["parquet", "csv", "csv, DELIMITER '\t', COMPRESSION gzip", "json, COMPRESSION gzip", "json, ARRAY true"]
    for name, form in zip(names, forms, strict=True):
        place = sql.literal(str(tmp_path / name))
        sql.run(con, f"COPY (SELECT {sql.literal(name)} AS question, 1.50 AS n) TO {place} (FORMAT {form})")
    files = sql.literal([str(tmp_path / f"*{name[1:]}") for name in names])
    found = sql.rows(con, f"SELECT parse_filename(filename), json->>'$.question' FROM rows_of({files}) ORDER BY ALL")
    assert found == sorted((name, name) for name in names)
