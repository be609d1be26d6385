"""Names of earlier versions: their views, columns, states and recipe key still mean what they meant."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rolloutops.config.recipe_file import load
from tests.helpers import query, rolloutops, sums, write_jsonl

RECIPE = """
profile = "sft"
data = "w"
[datasets.sums]
input = "tasks.jsonl"
environment = "exact_match"
[collect]
engine = "scripted"
num_repeats = 2
verify = "later"
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with 4 unverified and 4 pending rollouts of a recipe that names the preset by its old key."""
    folder = tmp_path_factory.mktemp("old")
    write_jsonl(folder / "tasks.jsonl", sums(4))
    (folder / "recipe.toml").write_text(RECIPE)
    rolloutops("chunk", "recipe.toml", cwd=folder)
    rolloutops("collect", "recipe.toml", "--limit=2", cwd=folder)
    return folder


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("FROM owed ORDER BY ALL", "FROM pending ORDER BY ALL"),
        ("FROM in_flight ORDER BY ALL", "FROM submitted ORDER BY ALL"),
        ("FROM unjudged ORDER BY ALL", "FROM unverified ORDER BY ALL"),
        ("FROM judges ORDER BY ALL", "FROM dataset_verifiers ORDER BY ALL"),
        (
            "SELECT task_id, judged FROM task_stats ORDER BY ALL",
            "SELECT task_id, verified FROM task_stats ORDER BY ALL",
        ),
        (
            "SELECT * EXCLUDE (status, state) FROM unfinished WHERE state = 'owed' ORDER BY ALL",
            "SELECT * EXCLUDE (status, state) FROM unfinished WHERE status = 'pending' ORDER BY ALL",
        ),
        (
            "SELECT count(*) FILTER (state = 'owed'), count(*) FILTER (state = 'done') FROM wanted_states",
            "SELECT count(*) FILTER (status = 'pending'), count(*) FILTER (status = 'done') FROM wanted_states",
        ),
    ],
)
def test_a_query_in_old_names_finds_the_same(project: Path, old: str, new: str) -> None:
    recipe = load(str(project / "recipe.toml"))
    assert query(project / "w", old, recipe) == query(project / "w", new, recipe)
    assert query(project / "w", f"SELECT count(*) FROM ({new})", recipe) != [(0,)] or "submitted" in new


def test_status_in_json_has_both_names(project: Path) -> None:
    row = json.loads(rolloutops("status", "recipe.toml", "--json", cwd=project).stdout)["progress"][0]
    assert (row["pending"], row["submitted"], row["verified"], row["unverified"]) == (4, 0, 0, 4)
    assert (row["owed"], row["in_flight"], row["judged"], row["unjudged"]) == (4, 0, 0, 4)
    table = rolloutops("status", "recipe.toml", cwd=project).stdout
    assert "unverified" in table
    assert "unjudged" not in table


def test_counts_of_a_run_have_both_names(project: Path) -> None:
    found = "SELECT counts ->> '$.owed', counts ->> '$.pending' FROM runs WHERE event = 'end' AND command = 'collect'"
    assert query(project / "w", found) == [("4", "4")]


def test_a_preset_is_named_once(project: Path) -> None:
    (project / "both.toml").write_text('preset = "sft"\n' + RECIPE)
    said = rolloutops("check", "both.toml", cwd=project, code=2).stderr
    assert "preset and profile are one key; keep preset" in said
