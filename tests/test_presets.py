"""Presets: what `preset = "dpo"` brings into a recipe, and how the recipe says otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest

from rolloutops.build.explain import explain
from rolloutops.config.plan import make_plan
from rolloutops.config.recipe import Recipe, StepUse
from rolloutops.config.recipe_file import load
from rolloutops.config.resources import shipped
from rolloutops.errors import UsageError

PRESETS = [file.stem for file in sorted(shipped("recipes").glob("presets/*.toml"))]


def recipe(folder: Path, text: str) -> Recipe:
    (folder / "r.toml").write_text(f'{text}\n[datasets.a]\ninput = "a.jsonl"\n', encoding="utf-8")
    return load(str(folder / "r.toml"))


@pytest.mark.parametrize(
    ("preset", "repeats", "temperature", "uses"),
    [
        ("sft", 1, 0.2, ["filter/finished", "build/sft_messages"]),
        ("dpo", 2, 0.7, ["filter/finished", "pair/best_worst", "build/dpo_messages"]),
        ("rl", 1, 0.5, ["build/rl_prompts"]),
    ],
)
def test_a_preset_is_a_whole_recipe_but_for_its_data(
    preset: str, repeats: int, temperature: float, uses: list[str], tmp_path: Path
) -> None:
    made = recipe(tmp_path, f'preset = "{preset}"\n[collect]\nengine = "scripted"')
    requested = make_plan(made).policies["a", "scripted"]
    assert (requested.num_repeats, requested.responses_create_params) == (repeats, {"temperature": temperature})
    assert [step.use for step in made.steps] == uses
    explain(make_plan(made))
    assert preset in PRESETS


def test_the_recipe_wins_key_by_key_and_sets_the_order_of_what_it_names(tmp_path: Path) -> None:
    made = recipe(
        tmp_path,
        """
preset = "dpo"
[collect]
num_repeats = 8
responses_create_params = { max_output_tokens = 64 }
[[steps]]
kind = "filter"
name = "solvable"
use = "filter/solve_rate"
[[steps]]
kind = "pair"
name = "best_worst"
min_margin = 0.5
[[steps]]
kind = "build"
name = "dpo"
use = "build/openrlhf"
""",
    )
    assert made.collect == {"num_repeats": 8, "responses_create_params": {"temperature": 0.7, "max_output_tokens": 64}}
    assert made.steps == [
        StepUse("filter", "finished", "filter/finished"),
        StepUse("filter", "solvable", "filter/solve_rate"),
        StepUse("pair", "best_worst", "pair/best_worst", {"min_margin": 0.5}),
        StepUse("build", "dpo", "build/openrlhf"),
    ]


@pytest.mark.parametrize("named", ['"dop"', "[]"])
def test_an_unknown_preset(named: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no preset .*; there are: dpo, rl, sft|preset must be text"):
        recipe(tmp_path, f"preset = {named}")
