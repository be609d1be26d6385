"""Steps that change text: refused before there is a rollout and when they run; what steps may do stays allowed."""

from __future__ import annotations

from pathlib import Path

import pytest

from rolloutops.build.explain import explain
from rolloutops.config.plan import make_plan
from rolloutops.config.recipe import StepUse
from rolloutops.config.recipe_file import load
from rolloutops.config.resources import shipped
from rolloutops.errors import StepError
from rolloutops.steps.selected import ALL, bind, prepare
from rolloutops.steps.selection import select
from rolloutops.steps.step import read_step
from rolloutops.steps.trial import refuse_changes
from rolloutops.steps.unchanged import passes_on
from rolloutops.store import sql
from tests import given
from tests.helpers import rolloutops, sums, write_jsonl

ROWS = [
    {"task_id": name, "rollout_index": n, "reward": n / 2, "text": f"call 555-{name}{n}", "output_tokens": 10 + n}
    for name in "ab"
    for n in range(3)
]

CHANGES = {
    "by REPLACE, where no row comes through": (
        "text",
        "SELECT s.* REPLACE (regexp_replace(s.text, '[0-9]+', 'N', 'g') AS text) FROM selected AS s WHERE s.reward > 9",
    ),
    "by REPLACE, of a kind of text that no row has": (
        "text",
        "SELECT s.* REPLACE (replace(s.text, 'secret', '') AS text) FROM selected AS s",
    ),
    "by an alias": ("text", "SELECT s.* EXCLUDE (text), upper(s.text) AS text FROM selected AS s"),
    "by an alias in capitals": ("text", "SELECT s.* EXCLUDE (text), 'gone' AS \"Text\" FROM selected AS s"),
    "beside the column itself": ("text", "SELECT s.*, 'gone' AS text FROM selected AS s"),
    "in a subquery": ("prompt", "SELECT * FROM (SELECT * REPLACE ('[]' AS prompt) FROM selected) AS s"),
    "in a CTE that takes the name": (
        "completion",
        "WITH selected AS (SELECT * REPLACE ('[]'::JSON AS completion) FROM main.selected)"
        " SELECT s.* FROM selected AS s",
    ),
    "from a join": (
        "text",
        "SELECT s.* EXCLUDE (text), t.text FROM selected AS s"
        " JOIN (SELECT task_id, max(text) || '' AS text FROM selected GROUP BY ALL) AS t USING (task_id)",
    ),
    "of a condition": (
        "answer",
        "SELECT s.* REPLACE (CASE WHEN s.reward > 1 THEN 'x' ELSE s.answer END AS answer) FROM selected AS s",
    ),
    "by another column": ("answer", "SELECT s.* REPLACE (s.text AS answer) FROM selected AS s"),
    "of a number": (
        "output_tokens",
        "SELECT s.* REPLACE (s.output_tokens + 1 AS output_tokens) FROM selected AS s",
    ),
    "in a union": (
        "text",
        "SELECT * REPLACE (trim(text) AS text) FROM selected UNION ALL SELECT * FROM selected WHERE false",
    ),
}

ALLOWED = [
    "SELECT s.* FROM selected AS s WHERE s.text[1:4] = 'call' AND length(s.prompt) > 0",
    "FROM selected",
    "WITH kept AS (SELECT * FROM selected) SELECT * FROM kept WHERE text IS NOT NULL",
    "SELECT s.* REPLACE (s.reward * 2 AS Reward), upper(s.text) AS shouted FROM selected AS s",
    "SELECT dataset, task_id, policy, any_value(rollout_index) AS rollout_index FROM selected GROUP BY ALL",
    "SELECT r.* FROM rollouts AS r SEMI JOIN selected USING (dataset, task_id, policy, rollout_index)",
    "SELECT s.* EXCLUDE (text, completion) FROM selected AS s",
    "SELECT s.* FROM selected AS s JOIN task_stats AS t USING (dataset, task_id, policy) WHERE t.rollouts > 1",
    "SELECT * FROM selected AS s JOIN (SELECT task_id, count(*) AS n FROM selected GROUP BY ALL) AS t"
    " ON t.task_id = s.task_id",
]


def use(folder: Path, query: str, kind: str = "filter") -> StepUse:
    """A step of one's own in a folder, and its use."""
    path = folder / kind / "mine.sql"
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"-- Mine.\n{query}\n")
    return StepUse(kind, "mine", f"{kind}/mine")


def tried(folder: Path, kind: str = "filter") -> None:
    """Bind the step before there is a rollout."""
    (folder / "r.toml").write_text(f'[datasets.d]\ninput = "x"\n[{kind}.mine]\nuse = "{kind}/mine"\n')
    explain(make_plan(load(str(folder / "r.toml"))))


@pytest.mark.parametrize(("column", "query"), CHANGES.values(), ids=list(CHANGES))
def test_a_change_is_refused_before_and_when_a_step_runs(column: str, query: str, tmp_path: Path) -> None:
    step = use(tmp_path, query)
    with pytest.raises(StepError) as before:
        tried(tmp_path)
    with pytest.raises(StepError) as then:
        select(given.workspace(ROWS), [step], tmp_path)
    for caught in (before, then):
        said = str(caught.value)
        assert said.startswith("[filter.mine] ")
        assert f"the column {column}" in said
        assert "custom build step" in said


@pytest.mark.parametrize("query", ALLOWED)
def test_what_a_step_may_do(query: str, tmp_path: Path) -> None:
    step = use(tmp_path, query)
    tried(tmp_path)
    con = given.workspace(ROWS)
    select(con, [step], tmp_path)
    assert sql.rows(con, "SELECT DISTINCT left(text, 9) FROM selected ORDER BY 1")[0] == ("call 555-",)


def test_a_change_in_a_few_rows_is_seen_when_the_step_runs(tmp_path: Path) -> None:
    """What no trial can know: which rollouts it will touch. The sentence names one of them."""
    query = "SELECT s.* REPLACE (nullif(s.text, 'call 555-b1') AS text) FROM selected AS s"
    for kind in ("reward", "mix"):
        step = use(tmp_path, query, kind)
        tried(tmp_path, kind)
        with pytest.raises(StepError, match=rf"changes the column text \(rollout d/b/p/1\)\. A {kind} step selects"):
            select(given.workspace(ROWS), [step], tmp_path)


def test_a_second_reward_is_refused_and_a_reason_may_be_written_in_capitals(tmp_path: Path) -> None:
    with pytest.raises(StepError, match=r"returns two columns named reward, of which only the first would count"):
        select(
            given.workspace(ROWS), [use(tmp_path, "SELECT s.*, 2 * s.reward AS reward FROM selected AS s")], tmp_path
        )
    query = "SELECT s.*, CASE WHEN s.reward = 0 THEN 'nothing' END AS Dropped FROM selected AS s"
    (stats,) = select(given.workspace(ROWS), [use(tmp_path, query)], tmp_path)
    assert [(one.dropped, one.reasons) for one in stats.datasets] == [(2, {"nothing": 2})]


def test_a_plain_select_of_selected_is_known_by_its_form() -> None:
    """It needs no comparison, which would carry texts through windows."""
    con = given.workspace(ROWS)
    prepare(con)
    window = "QUALIFY row_number() OVER (PARTITION BY s.text ORDER BY s.rollout_index) = 1"
    assert passes_on(
        con, f"SELECT s.*, length(s.text) AS n FROM selected AS s JOIN tasks AS t USING (task_id) {window}"
    )
    assert passes_on(con, "SELECT * REPLACE (reward / 2 AS reward) FROM selected")
    for query in (
        "SELECT s.* FROM selected AS o JOIN (SELECT * FROM selected) AS s USING (task_id)",
        "SELECT s.* FROM selected AS s (a, b)",
        "SELECT a.dataset, b.* EXCLUDE (dataset) FROM selected AS a JOIN selected AS b USING (dataset)",
        "SELECT o.* FROM selected AS s RIGHT JOIN selected AS o USING (task_id)",
        "SELECT COLUMNS(c -> c <> 'x') FROM selected",
        "SELECT s.*, s.text::VARCHAR FROM selected AS s",
    ):
        assert not passes_on(con, query), query


def test_a_redaction_ends_each_command(tmp_path: Path) -> None:
    """As a user meets it: check, the dry run, filter and build refuse it in the same words, and no file is written."""
    write_jsonl(tmp_path / "tasks.jsonl", sums(4))
    recipe = """
data = "w"
[datasets.sums]
input = "tasks.jsonl"
environment = "exact_match"
[collect]
engine = "scripted"
"""
    (tmp_path / "plain.toml").write_text(recipe)
    rolloutops("run", "plain.toml", cwd=tmp_path)
    redacted = (
        '[[steps]]\nkind = "filter"\nname = "mine"\nuse = "filter/mine"\n'
        '[[steps]]\nkind = "build"\nname = "sft"\nuse = "build/sft_messages"\nmin_reward = 0\n'
    )
    (tmp_path / "recipe.toml").write_text(recipe + redacted)
    use(tmp_path, "SELECT * FROM (SELECT s.* EXCLUDE (prompt), '[]'::JSON AS prompt FROM selected AS s)")
    said = "filter/mine.sql changes the column prompt"
    assert f"BAD  [filter.mine] {said}" in rolloutops("check", "recipe.toml", cwd=tmp_path, code=2).stdout
    for words in (("run", "recipe.toml", "--dry_run"), ("filter", "recipe.toml"), ("build", "recipe.toml")):
        assert said in rolloutops(*words, cwd=tmp_path, code=2).stderr
    assert not (tmp_path / "w" / "exports").exists()


def test_a_copy_of_each_shipped_step_is_no_change() -> None:
    """As `init` makes them, to be edited: then they are looked at as one's own."""
    con = given.workspace(ROWS)
    prepare(con)
    bind(con, ALL)
    for kind in ("filter", "reward", "mix", "pair"):
        for path in sorted((shipped("sql") / kind).glob("*.sql")):
            refuse_changes(con, read_step(path.stem, path), {}, f"[{kind}.{path.stem}]", ALL)
