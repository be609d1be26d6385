"""The recipes that ship: each runs from tasks to training files, and all of its files pass their linters."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rolloutops.cli.commands.init import copy_shipped
from rolloutops.config.resources import shipped
from rolloutops.errors import InputError
from tests.helpers import rolloutops

RECIPES = sorted(path.stem for path in shipped("recipes").glob("*.toml"))
SCRIPTED = ("--engine=scripted", "--model=scripted", '--engine_args={"correct": 0.5, "seed": 3}')
"""Nobody's answers: about half of them right. What a real model makes of a recipe is for tests/test_demo.py."""


@pytest.mark.parametrize("name", RECIPES)
def test_a_shipped_recipe_makes_its_files(name: str, tmp_path: Path) -> None:
    fits = rolloutops("run", name, "--dry_run", cwd=tmp_path)
    assert "fit together" in fits.stdout
    rolloutops("run", name, *SCRIPTED, cwd=tmp_path)
    builds = sorted((tmp_path / "data" / name / "exports").glob("*/manifest.json"))
    assert builds
    for manifest in builds:
        reported = json.loads(manifest.read_text(encoding="utf-8"))
        assert (
            sum(
                reported["splits"]["train"].values()
                if isinstance(reported["splits"]["train"], dict)
                else [reported["splits"]["train"]]
            )
            > 0
        ), manifest
    again = rolloutops("run", name, *SCRIPTED, cwd=tmp_path)
    assert "0 rollouts collected" in again.stderr or "nothing to collect" in again.stderr


def test_recipes_are_copied_side_by_side_and_never_over_what_was_edited(tmp_path: Path) -> None:
    """They share steps; a step that somebody changed since is not theirs to overwrite."""
    for name in ("sft_rejection_sampling", "dpo_on_policy", "sft_rejection_sampling"):
        assert all(path.is_file() for path in copy_shipped(name, tmp_path))
    shared = tmp_path / "sql" / "filter" / "finished.sql"
    shared.write_text("-- Mine.\nSELECT s.* FROM selected AS s\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"finished\.sql exists and differs"):
        copy_shipped("dpo_on_policy", tmp_path)
    assert shared.read_text("utf-8").startswith("-- Mine.")
