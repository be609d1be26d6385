"""The printed schema and the loader: what one refuses the other refuses too, and shipped recipes pass both."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator

from rolloutops.build.explain import check_parameters
from rolloutops.cli.main import main
from rolloutops.config.plan import make_plan
from rolloutops.config.plugins import find
from rolloutops.config.recipe_file import load
from rolloutops.config.sampling import refuse_bad_sampling
from rolloutops.errors import RolloutopsError
from tests.helpers import CHECKOUT

RECIPES = sorted((CHECKOUT / "recipes").glob("*.toml"))
PRESETS = sorted((CHECKOUT / "recipes" / "presets").glob("*.toml"))
WHOLE = """
data = "w"
[datasets.sums]
input = "tasks.jsonl"
environment = "exact_match"
environment_args = { strip = true }
collect = { num_repeats = 2 }
[collect]
engine = "scripted"
num_samples_in_parallel = "auto"
base_url = ["http://a/v1", "http://b/v1"]
retry = "timeout"
engine_args = { delay = 0 }
responses_create_params = { temperature = 1, stop = ["a"] }
[policies.warm]
model = "m"
[verify]
timeout = 3
[metrics]
steps = ["metrics/rewards"]
pass_at_k = { k = [1, 4] }
[[steps]]
kind = "filter"
name = "solved"
use = "filter/solve_rate"
low = 0.1
[[steps]]
kind = "mix"
name = "even"
use = "mix/shares"
shares = { sums = 1 }
[[steps]]
kind = "build"
name = "sft"
use = "build/sft_messages"
from = "solved"
validation = 0.1
format = "parquet"
"""


@pytest.fixture(scope="module")
def schema(tmp_path_factory: pytest.TempPathFactory) -> Draft7Validator:
    """What `rolloutops schema` prints."""
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(tmp_path_factory.mktemp("empty"))
        printed: list[str] = []
        patched.setattr("builtins.print", lambda text: printed.append(text))
        assert main(["schema"]) == 0
    made = json.loads(printed[0], parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    Draft7Validator.check_schema(made)
    return Draft7Validator(made)


def faults(schema: Draft7Validator, text: str) -> list[str]:
    """What an editor would mark."""
    return [error.message for error in schema.iter_errors(tomllib.loads(text))]


def refused(folder: Path, text: str) -> bool:
    """Whether loading a recipe fails, or checking what its steps, engine and environment are told."""
    path = folder / "r.toml"
    path.write_text(text, encoding="utf-8")
    try:
        recipe = load(str(path))
        plan = make_plan(recipe)
        for use in recipe.steps:
            check_parameters(use, plan, list(recipe.datasets))
        collect = plan.policies["sums", "warm"]
        refuse_bad_sampling(collect.responses_create_params)
        find("engine", collect.engine).make({**collect.engine_args})
        find("environment", "exact_match").make(recipe.datasets["sums"].environment_args)
    except RolloutopsError:
        return True
    return False


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_shipped_recipe_fits_the_schema_that_it_names(schema: Draft7Validator, path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.startswith("#:schema recipe.schema.json\n")
    assert faults(schema, text) == []
    assert (path.parent / "recipe.schema.json").is_file()


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_a_preset_fits_and_so_does_a_recipe_that_changes_one_of_its_steps(schema: Draft7Validator, path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert faults(schema, text) == []
    name = next(step["name"] for step in tomllib.loads(text)["steps"] if step["kind"] == "build")
    changed = f'[[steps]]\nkind = "build"\nname = "{name}"\nseed = 7\n'
    assert faults(schema, f'preset = "{path.stem}"\n{changed}') == []
    assert faults(schema, changed) != [], "only a preset has the step's `use`"


def test_a_whole_recipe_passes_both(schema: Draft7Validator, tmp_path: Path) -> None:
    assert faults(schema, WHOLE) == []
    assert not refused(tmp_path, WHOLE)


WRONG = [
    ('data = "w"', "datas = 3"),
    ('data = "w"', "data = 3"),
    ('data = "w"', 'data = ""'),
    ('data = "w"', 'preset = "stf"'),
    ('input = "tasks.jsonl"', 'inputs = "tasks.jsonl"'),
    ('input = "tasks.jsonl"', "input = 3"),
    ('input = "tasks.jsonl"', "input = [3]"),
    ("num_repeats = 2", "num_repeat = 2"),
    ("num_repeats = 2", "num_repeats = 0"),
    ("num_repeats = 2", "num_repeats = true"),
    ("num_repeats = 2", "num_repeats = 99999999999"),
    ('num_samples_in_parallel = "auto"', 'num_samples_in_parallel = "lots"'),
    ('num_samples_in_parallel = "auto"', "num_samples_in_parallel = 0"),
    ('num_samples_in_parallel = "auto"', "max_failure_rate = 2"),
    ('num_samples_in_parallel = "auto"', 'verify = "latr"'),
    ('num_samples_in_parallel = "auto"', 'keep_response = "no"'),
    ('retry = "timeout"', "retry = 3"),
    ("engine_args = { delay = 0 }", "engine_args = 3"),
    ("engine_args = { delay = 0 }", "engine_args = { delays = 0 }"),
    ("engine_args = { delay = 0 }", 'engine_args = { seed = "one" }'),
    ("environment_args = { strip = true }", "environment_args = { stripped = true }"),
    ("environment_args = { strip = true }", 'environment_args = { strip = "no" }'),
    ("temperature = 1, ", "temprature = 1, "),
    ("temperature = 1, ", 'temperature = "hot", '),
    ("responses_create_params = { temperature = 1, ", "responses_create_params = 3 # "),
    ("[policies.warm]", "[policies.warm]\ntemperature = 1"),
    ("[policies.warm]", '[policies."a/b"]'),
    ("timeout = 3", "timeout = 0"),
    ("timeout = 3", "timeouts = 3"),
    ('steps = ["metrics/rewards"]', 'step = "metrics/rewards"'),
    ('steps = ["metrics/rewards"]', "steps = [3]"),
    ('use = "filter/solve_rate"', ""),
    ('kind = "filter"', ""),
    ('kind = "filter"', 'kind = "filtre"'),
    ('name = "solved"', ""),
    ('name = "solved"', 'name = "a/b"'),
    ("low = 0.1", "lo = 0.1"),
    ("low = 0.1", 'low = "a tenth"'),
    ("low = 0.1", "from = 3"),
    ("shares = { sums = 1 }", 'shares = { sums = "1" }'),
    ("shares = { sums = 1 }", ""),
    ("validation = 0.1", "validation = 1.0"),
    ("validation = 0.1", "validaton = 0.1"),
    ('format = "parquet"', 'format = "json"'),
    ('format = "parquet"', "max_shard_rows = 0"),
    ('format = "parquet"', "seed = 1.5"),
]


@pytest.mark.parametrize(("out", "into"), WRONG, ids=[f"{out} -> {into}".replace("\n", " ") for out, into in WRONG])
def test_what_is_wrong_fails_in_both(schema: Draft7Validator, tmp_path: Path, out: str, into: str) -> None:
    assert out in WHOLE
    text = WHOLE.replace(out, into)
    assert faults(schema, text) != []
    assert refused(tmp_path, text)


def test_a_custom_engine_may_know_more_sampling_parameters(schema: Draft7Validator) -> None:
    text = '[collect]\nengine = "openai"\nresponses_create_params = { beams = 4 }\n'
    assert faults(schema, text) != []
    assert faults(schema, text.replace("openai", "mine:make")) == []


def test_every_key_says_what_it_means(schema: Draft7Validator) -> None:
    whole: Any = schema.schema
    tables = [whole, *(whole["definitions"][name] for name in ("chunk", "collect", "verify", "dataset"))]
    keys = {name: key for table in tables for name, key in table["properties"].items() if "$ref" not in key}
    assert [name for name, key in keys.items() if not key.get("description")] == []


def test_a_custom_step_beside_the_recipes_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    step = tmp_path / "sql" / "filter" / "short.sql"
    step.parent.mkdir(parents=True)
    step.write_text(
        "-- Keep the short ones.\n-- param most_words INTEGER = 100   most words of an answer\n"
        "SELECT * FROM selected WHERE len(string_split(text, ' ')) <= getvariable('most_words')"
    )
    monkeypatch.chdir(tmp_path)
    assert main(["schema"]) == 0
    own = Draft7Validator(json.loads(capsys.readouterr().out))
    text = '[[steps]]\nkind = "filter"\nname = "short"\nuse = "filter/short"\nmost_words = 14\n'
    assert faults(own, text) == []
    assert faults(own, text.replace("most_words", "most_word")) != []
