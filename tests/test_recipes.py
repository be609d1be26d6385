"""The recipes that ship: each runs from tasks to training files, and all of its files pass their linters."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rolloutops.shipped import shipped
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
        told = json.loads(manifest.read_text(encoding="utf-8"))
        assert (
            sum(
                told["splits"]["train"].values()
                if isinstance(told["splits"]["train"], dict)
                else [told["splits"]["train"]]
            )
            > 0
        ), manifest
    again = rolloutops("run", name, *SCRIPTED, cwd=tmp_path)
    assert "0 rollouts collected" in again.stderr or "nothing is owed" in again.stderr
