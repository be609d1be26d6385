"""Recipes: read in the order of the file, merged in layers, recorded with each run and read back as they were."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rolloutops.cli.main import main
from rolloutops.config import plan as planning
from rolloutops.config.plan import Plan, make_plan
from rolloutops.config.recipe import STEP_KINDS, Recipe, StepUse, from_flags, from_json
from rolloutops.config.recipe_file import load
from rolloutops.config.secrets import redacted_argv, revealed
from rolloutops.config.settings import Chunk, Collect, Dataset, Verify, merged, settings_of
from rolloutops.errors import UsageError
from rolloutops.formats.strict_json import canonical, dump, to_json_safe
from rolloutops.store import sql
from tests.helpers import query, read_jsonl, rolloutops, sums, write_jsonl

Tables = st.SearchStrategy[dict[str, Any]]
names = st.from_regex(r"[a-z][a-z0-9_.-]{0,6}", fullmatch=True)


def written(folder: Path, text: str, name: str = "recipe.toml") -> Recipe:
    """A recipe file, written and loaded."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return load(str(path))


# The order of steps -------------------------------------------------------------------------------------------------

DECOY = 'system_prompt = """\n[filter.{0}]\n[build.{0}] # not a table: \\""" "" \n"""\n'
headers = st.sampled_from(["[{}.{}]", "  [ {} . {} ]  # a remark", '[{}."{}"]', "[{}.'{}']"])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(STEP_KINDS), names, headers), max_size=9, unique_by=lambda step: step[1]).filter(
        lambda steps: all(name != "rollouts" for _, name, _ in steps)
    )
)
def test_steps_of_the_earlier_form_come_in_the_order_of_the_file(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, str, str]]
) -> None:
    folder = tmp_path_factory.getbasetemp()
    last = steps[-1][1] if steps else "x"
    text = f"[collect]\n{DECOY.format(last)}# [filter.{last}]\n"
    for kind, name, header in steps:
        header = '[{}."{}"]' if "." in name else header  # else TOML takes the dot for a table in a table
        text += f"{header.format(kind, name)}\nuse = '{kind}/x'\n"
        text += f"[{kind}.'{name}'.shares]\na = 1\n" if kind == "mix" else ""
    loaded = written(folder, text)
    assert [(step.kind, step.name) for step in loaded.steps] == [(kind, name) for kind, name, _ in steps]
    now = "".join(
        f"[[steps]]\nkind = '{kind}'\nname = '{name}'\nuse = '{kind}/x'\n"
        + ("[steps.shares]\na = 1\n" if kind == "mix" else "")
        for kind, name, _ in steps
    )
    assert written(folder, now).steps == loaded.steps


def test_a_step_of_the_earlier_form_without_a_place_is_refused(tmp_path: Path) -> None:
    text = "[filter.a]\nuse = 'x'\n[build]\nsft = { use = 'x' }\n"
    with pytest.raises(UsageError, match=r"build 'sft' is not a \[build.sft\] table.*write it as \[\[steps\]\]"):
        written(tmp_path, text)
    with pytest.raises(UsageError, match=r"\[filter.a\] name: no parameter of a step can have this name"):
        written(tmp_path, "[filter.a]\nuse = 'x'\nname = 'x'\n")


def test_a_step_may_start_from_any_selection_before_it(tmp_path: Path) -> None:
    text = "".join(
        f"[[steps]]\nkind = '{kind}'\nname = '{name}'\nuse = 'x'\n{start}"
        for kind, name, start in (
            ("filter", "a", ""),
            ("build", "b", "from = 'rollouts'\n"),
            ("mix", "c", "from = 'a'\n"),
        )
    )
    assert [step.start for step in written(tmp_path, text).steps] == [None, "rollouts", "a"]
    for wrong in ("c", "b", "d"):
        with pytest.raises(
            UsageError, match=f"from = '{wrong}': no earlier filter, reward, mix or pair step has that name"
        ):
            written(tmp_path, text.replace("from = 'a'", f"from = '{wrong}'"))


# Layers -------------------------------------------------------------------------------------------------------------

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("abc"), inner, max_size=2),
    max_leaves=4,
)
SIMPLE: dict[Any, st.SearchStrategy[Any]] = {
    str: st.text(max_size=5),
    int: st.integers(1, 99),
    float: st.floats(0.5, 99),
    bool: st.booleans(),
    list[str]: st.lists(st.text(max_size=5), max_size=2),
    dict[str, Any]: st.dictionaries(st.sampled_from("abc"), json_values, max_size=3),
    type(None): st.none(),
}


def tables(kind: type, but: tuple[str, ...] = (), **chosen: st.SearchStrategy[Any]) -> Tables:
    """Tables that a settings dataclass takes. chosen: what a key's values are, where its type does not say enough."""
    values = {f.name: of_type(get_type_hints(kind)[f.name]) for f in fields(kind) if f.name not in but}
    for f in fields(kind):
        if f.metadata["one_of"]:
            values[f.name] = st.sampled_from(f.metadata["one_of"])
    return st.fixed_dictionaries({}, optional={**values, **chosen})


def of_type(hint: Any) -> st.SearchStrategy[Any]:
    """Values of a key's type."""
    options = [hint] if hint in SIMPLE else list(hint.__args__)
    return st.one_of(*(SIMPLE[option] for option in options))


collects = tables(Collect, num_samples_in_parallel=st.integers(1, 99) | st.just("auto"))


@given(st.lists(tables(Collect, but=("engine",)), max_size=4))
def test_the_last_layer_wins_and_open_tables_are_merged_key_by_key(layers: list[dict[str, Any]]) -> None:
    expected: dict[str, Any] = {}
    for layer in layers:
        for name, value in layer.items():
            if isinstance(value, dict):
                value = {**expected.get(name, {}), **value}
            expected[name] = value
    assert merged(*layers) == expected


def test_what_is_asked_comes_from_four_layers(tmp_path: Path) -> None:
    recipe = written(
        tmp_path,
        """
        [datasets.plain]
        [datasets.own]
        collect = { num_repeats = 3, responses_create_params = { top_p = 0.3, seed = 3 } }
        [policies.p]
        num_repeats = 2
        max_steps = 2
        responses_create_params = { top_p = 0.2, temperature = 0.2, seed = 2 }
        [collect]
        engine = "scripted"
        num_repeats = 1
        max_steps = 1
        max_attempts = 1
        responses_create_params = { top_p = 0.1, temperature = 0.1, seed = 1, max_output_tokens = 1 }
        """,
    )
    flags = {"max_attempts": 4, "responses_create_params": {"seed": 4}}
    policies = make_plan(recipe, "collect", flags).policies
    plain, own = policies["plain", "p"], policies["own", "p"]
    assert (plain.num_repeats, plain.max_steps, plain.max_attempts) == (2, 2, 4)
    assert (own.num_repeats, own.max_steps, own.max_attempts) == (3, 2, 4)
    assert plain.responses_create_params == {"top_p": 0.2, "temperature": 0.2, "seed": 4, "max_output_tokens": 1}
    assert own.responses_create_params == {"top_p": 0.3, "temperature": 0.2, "seed": 4, "max_output_tokens": 1}


def test_another_engine_takes_nothing_that_belongs_to_the_first(tmp_path: Path) -> None:
    recipe = written(
        tmp_path,
        """
        [datasets.d]
        [collect]
        engine = "vllm"
        model = "big"
        num_repeats = 4
        engine_args = { max_model_len = 512 }
        """,
    )
    rehearsal = make_plan(recipe, "collect", {"engine": "scripted", "engine_args": {"correct": 1.0}})
    ((key, requested),) = rehearsal.policies.items()
    assert key == ("d", "scripted"), "it never poses as the model"
    assert (requested.model, requested.num_repeats, requested.engine_args) == ("", 4, {"correct": 1.0})


# The record ---------------------------------------------------------------------------------------------------------

environments = st.sampled_from([None, "exact_match", "mcqa", "multi_step"])


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    """Recipes as load makes them."""
    steps = draw(st.lists(st.tuples(st.sampled_from(STEP_KINDS), names), max_size=4, unique_by=lambda step: step[1]))
    own = tables(Dataset, environment=environments, collect=collects)
    return Recipe(
        data=Path(draw(names)),
        folder=Path(draw(names)),
        datasets={name: Dataset(**settings_of(Dataset, table, "")) for name, table in draw(dictionary(own)).items()},
        policies=draw(dictionary(collects)),
        chunk=Chunk(**draw(tables(Chunk))),
        collect=draw(collects),
        verify=Verify(**draw(tables(Verify))),
        metrics=draw(st.lists(names, max_size=2)),
        steps=[StepUse(kind, name, f"{kind}/x", draw(SIMPLE[dict[str, Any]])) for kind, name in steps],
    )


def dictionary(values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Tables by name."""
    return st.dictionaries(names, values, max_size=2)


def again(stored: Mapping[str, Any], flags: Mapping[str, Any] | None = None) -> Plan:
    """The plan of a command that finds a recorded recipe."""
    recipe, earlier = from_json(stored)
    return make_plan(recipe, "collect", flags, earlier)


@settings(max_examples=80, deadline=None)
@given(recipes(), collects)
def test_what_is_recorded_is_read_back_as_it_was(recipe: Recipe, flags: dict[str, Any]) -> None:
    plan = make_plan(recipe, earlier=flags)
    stored = json.loads(dump(plan.record))
    later = again(stored)
    assert later.rows == plan.rows
    assert later.fingerprints == plan.fingerprints
    assert [to_json_safe(vars(step)) for step in later.steps] == [to_json_safe(vars(step)) for step in plan.steps]
    verify = replace(plan.verify, against=None, unsafe_code=False)  # which are asked anew each time
    assert (later.chunk, later.verify, list(later.metrics)) == (plan.chunk, verify, list(plan.metrics))
    assert later.record == stored


def test_settings_may_be_infinite() -> None:
    steps = [
        StepUse("build", "sft", "build/sft_messages", {"min_reward": -math.inf, "edges": [-math.inf, 0.5, math.inf]})
    ]
    recipe = Recipe(Path("w"), {}, steps=steps, metrics_settings={"reward_histogram": {"edges": [0, math.inf]}})
    later, _ = from_json(json.loads(canonical(recipe.as_json())))
    assert (later.steps, later.metrics_settings) == (recipe.steps, recipe.metrics_settings)
    edges = sql.literal(later.steps[0].settings["edges"])
    assert sql.rows(sql.connect(), f"SELECT CAST({edges} AS DOUBLE[])") == [([-math.inf, 0.5, math.inf],)]


def test_infinity_may_be_typed() -> None:
    recipe = Recipe(Path("w"), {}, steps=[StepUse("build", "sft", "build/sft_messages", {"min_reward": 0.5})])
    flags = {"build": {"sft": {"min_reward": "-inf"}}, "metrics": {"reward_histogram": {"edges": [0, "inf"]}}}
    requested = make_plan(recipe, "collect", flags)
    assert requested.steps[0].settings == {"min_reward": -math.inf}
    assert requested.metrics_settings == {"reward_histogram": {"edges": [0, math.inf]}}


def test_a_record_holds_no_key(tmp_path: Path) -> None:
    secret = 'engine_args = { headers = { Authorization = "s3cret" }, seed = 1 }\n'
    text = (
        f"[datasets.d]\ncollect = {{ {secret.strip()} }}\n[policies.p]\n{secret}[collect]\nengine = 'openai'\n{secret}"
    )
    plan = make_plan(written(tmp_path, text), "collect", {"engine_args": {"headers": {"x": "s3cret"}}})
    headers = plan.policies["d", "p"].engine_args["headers"]
    assert (revealed(headers, "engine"), f"{headers}") == ({"x": "s3cret"}, "{'x': '***'}")
    assert "s3cret" not in dump(plan.record)
    assert again(plan.record).fingerprints == plan.fingerprints, "nor does a fingerprint"


def test_a_record_holds_no_key_of_a_judge_nor_one_in_an_address(tmp_path: Path) -> None:
    text = """
    [datasets.d]
    environment = "llm_judge"
    environment_args = { engine = "openai", engine_args = { headers = { x = "s3cret" } } }
    [collect]
    engine = "openai"
    base_url = ["http://me:s3cret@a/v1", "http://b/v1?api-version=1&api-key=s3cret"]
    api_key_env = "sk-s3cret"
    """
    plan = make_plan(written(tmp_path, text))
    assert "s3cret" not in dump(plan.record)
    assert plan.record["collect"]["base_url"] == ["http://***@a/v1", "http://b/v1?api-version=1&api-key=***"]
    (requested,), (recorded,) = plan.rows, again(plan.record).rows
    assert requested["verifier_version"] == recorded["verifier_version"], (
        "what was verified is not verified, and paid, again"
    )


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ("--engine_args.headers.X=Bearer~s3cret", "--engine_args.headers.X=***"),
        ("--engine_args.headers.X Bearer~s3cret", "--engine_args.headers.X ***"),
        ('+engine_args.headers={"x":"s3cret"}', '+engine_args.headers={"x": "***"}'),
        ('--engine_args={"headers":{"x":"s3cret"}}', '--engine_args={"headers": {"x": "***"}}'),
        ('--engine_args {"headers":{"x":"s3cret"}}', '--engine_args {"headers": {"x": "***"}}'),
        ("--base_url=http://me:s3cret@a/v1,http://b?key=s3cret", "--base_url=http://***@a/v1,http://b?key=***"),
        ("--base-url http://me:s3cret@a/v1", "--base-url http://***@a/v1"),
        ("--base_url=http://a/v1?code=s3,cret#s3cret", "--base_url=http://a/v1?code=***#***"),
        ("--api-key-env=sk-s3cret", "--api-key-env=***"),
        ("--api_key_env sk-s3cret", "--api_key_env ***"),
        ('--engine_args.extra_body={"api_key":"s3cret","n":1}', '--engine_args.extra_body={"api_key": "***", "n": 1}'),
        (
            "--engine_args.password=123456 --engine_args.seed=123456",
            "--engine_args.password=*** --engine_args.seed=123456",
        ),
        (
            "--environment_args.key=answer --environment_args.eos_token=x1",
            "--environment_args.key=answer --environment_args.eos_token=x1",
        ),
        ("collect --api_key_env=MY_KEY --token_ids --limit 3", "collect --api_key_env=MY_KEY --token_ids --limit 3"),
    ],
)
def test_a_recorded_command_line_holds_no_key(words: str, shown: str) -> None:
    assert " ".join(redacted_argv([word.replace("~", " ") for word in words.split()])) == shown


def test_flags_alone_make_a_recipe_that_is_recorded_and_extended() -> None:
    flags: dict[str, Any] = {"input": ["x/my tasks.jsonl"], "environment": "mcqa", "engine": "scripted"}
    plan = make_plan(from_flags(flags), "collect", flags)
    assert (list(plan.datasets), str(plan.data)) == (["my_tasks"], "data/my_tasks")
    later = again(plan.record, {"num_repeats": 3})
    requested = later.policies["my_tasks", "scripted"]
    assert (requested.engine, requested.num_repeats, later.datasets["my_tasks"].environment) == ("scripted", 3, "mcqa")
    with pytest.raises(UsageError, match="no dataset 'my_task', did you mean 'my_tasks'"):
        again(plan.record, {"dataset": "my_task"})


def test_a_choice_among_datasets_and_policies_is_for_one_command(tmp_path: Path) -> None:
    text = "".join(f"[{table}.{name}]\n" for table in ("datasets", "policies") for name in ("a", "b", "c"))
    flags = {"dataset": "b", "policy": "c", "environment": "mcqa", "unsafe_code": True}
    chosen = make_plan(written(tmp_path, text), "collect", flags)
    assert [(row["dataset"], row["policy"]) for row in chosen.rows] == [("b", "c")]
    assert chosen.verify.unsafe_code
    later, _ = from_json(json.loads(dump(chosen.record)))
    assert (list(later.datasets), list(later.policies)) == (["a", "b", "c"], ["a", "b", "c"])
    assert [dataset.environment for dataset in later.datasets.values()] == [None, "mcqa", None]
    assert not later.verify.unsafe_code, "leave to run code unsafely is given anew each time"


def test_flags_reach_into_steps(tmp_path: Path) -> None:
    text = (
        "[[steps]]\nkind = 'mix'\nname = 'even'\nuse = 'mix/shares'\nrows = 9\nshares = { a = 0.5, b = 0.5 }\n"
        "[[steps]]\nkind = 'build'\nname = 'sft'\nuse = 'x'\n"
    )
    flags: Mapping[str, Any] = {"mix": {"even": {"rows": 3, "shares": {"a": 0.9}}}, "build": {"sft": {"seed": 1}}}
    mix, build = make_plan(written(tmp_path, text), "collect", flags).steps
    assert mix.settings == {"rows": 3, "shares": {"a": 0.9, "b": 0.5}}
    assert build.settings == {"seed": 1}


def test_the_version_of_a_verifier_is_its_code_and_its_settings(tmp_path: Path) -> None:
    text = '[datasets.d]\nenvironment = "mine.py:make"\nenvironment_args = { strict = true }\n[collect]\nengine = "x"\n'
    seen = []
    for code, table in (
        ("def make(strict): ...", text),
        ("def make(strict):  return 1", text),
        ("def make(strict): ...", text.replace("true", "false")),
        ("def make(strict): ...", text),
    ):
        (tmp_path / "mine.py").write_text(code)
        seen.append(make_plan(written(tmp_path, table)).rows[0]["verifier_version"])
    assert len(set(seen)) == 3
    assert seen[0] == seen[3]


# Places -------------------------------------------------------------------------------------------------------------

WITH_PLACES = """
data = "w"
[datasets.sums]
input = "in/*.jsonl"
environment = "mine.py:make"
[collect]
engine = "scripted"
model = "half"
[[steps]]
kind = "filter"
name = "some"
use = "own/some"
[[steps]]
kind = "build"
name = "sft"
use = "build/sft_messages"
output = "out"
"""
MINE = """
from rolloutops.environments.exact_match import make
"""
SOME = "-- Keep what is right.\nSELECT * FROM selected WHERE reward > 0"


def test_a_recipe_runs_from_any_folder(tmp_path: Path) -> None:
    """What a recipe reads is next to it; what it writes goes where the command runs."""
    recipe = tmp_path / "project" / "recipe.toml"
    write_jsonl(recipe.parent / "in" / "tasks.jsonl", sums(20))
    recipe.write_text(WITH_PLACES)
    (recipe.parent / "mine.py").write_text(MINE)
    (recipe.parent / "sql" / "own").mkdir(parents=True)
    (recipe.parent / "sql" / "own" / "some.sql").write_text(SOME)
    in_other_processes = tmp_path / "elsewhere"
    in_other_processes.mkdir()
    rolloutops("run", "../project/recipe.toml", cwd=in_other_processes)
    assert sorted(path.name for path in in_other_processes.iterdir()) == ["out", "w"]
    assert not (recipe.parent / "w").exists()
    assert read_jsonl(in_other_processes / "out" / "train.jsonl")
    # From a third folder, the workspace alone is enough: it knows where its recipe lies.
    third = tmp_path / "third"
    third.mkdir()
    rolloutops("build", "--data=../elsewhere/w", cwd=third)
    assert (third / "out" / "train.jsonl").read_bytes() == (in_other_processes / "out" / "train.jsonl").read_bytes()


def test_a_recipe_with_steps_of_the_earlier_form_builds_the_same_and_warns_once(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "tasks.jsonl", sums(20))
    text = WITH_PLACES.replace("in/*.jsonl", "tasks.jsonl").replace("mine.py:make", "exact_match")
    text = text.replace('"own/some"', '"filter/reward"\nmin_reward = 0.5')
    old = re.sub(r'\[\[steps\]\]\nkind = "(\w+)"\nname = "(\w+)"', r"[\1.\2]", text).replace('"out"', '"out_of_old"')
    (tmp_path / "new.toml").write_text(text)
    (tmp_path / "old.toml").write_text(old)
    said = (
        "has its steps as [KIND.NAME] tables, which a later version will not read; write each as [[steps]], with kind"
    )
    assert said not in rolloutops("run", "new.toml", cwd=tmp_path).stderr
    assert rolloutops("build", "old.toml", cwd=tmp_path).stderr.count(said) == 1
    assert said not in rolloutops("build", "--data=w", "--build.sft.output=again", cwd=tmp_path).stderr
    assert (tmp_path / "out" / "train.jsonl").read_bytes() == (tmp_path / "out_of_old" / "train.jsonl").read_bytes()


def test_commands_without_a_recipe_take_the_workspaces_last(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "tasks.jsonl", sums(10))
    text = WITH_PLACES.replace("in/*.jsonl", "tasks.jsonl").replace("mine.py:make", "exact_match")
    text = text.replace('[[steps]]\nkind = "filter"\nname = "some"\nuse = "own/some"\n', "")
    text = text.replace('"exact_match"', '"exact_match"\ncollect = { num_repeats = 2 }')
    (tmp_path / "recipe.toml").write_text(text)
    rolloutops("chunk", "recipe.toml", cwd=tmp_path)
    rolloutops("collect", "recipe.toml", "--num_repeats=3", "--verify=later", cwd=tmp_path)
    status = json.loads(rolloutops("status", "--data=w", "--json", cwd=tmp_path).stdout)
    (row,) = status["progress"]
    assert (row["wanted"], row["done"], row["unverified"]) == (30, 30, 30), "the command line still comes last"
    rolloutops("verify", "--data=w", cwd=tmp_path)
    table = rolloutops("metrics", "--data=w", "--step=metrics/rewards", "--json", cwd=tmp_path).stdout
    assert json.loads(table)["metrics/rewards"]
    assert rolloutops("sql", "SELECT count(reward) FROM rollouts", "--data=w", "--csv", cwd=tmp_path).stdout == (
        "count(reward)\n30\n"
    )
    rolloutops("build", "--data=w", cwd=tmp_path)
    assert query(tmp_path / "w", "SELECT count(DISTINCT recipe_hash) FROM runs WHERE command <> 'chunk'") == [(1,)]
    said = rolloutops("collect", "--data=w", "--num_repeats=4", cwd=tmp_path).stderr
    assert "10 rollouts collected" in said


# The policy's fingerprint -------------------------------------------------------------------------------------------

OFFERING = """
class Mine:
    def __init__(self, tools):
        self.tools = tools

    def verify(self, task, rollout):
        return 1.0


def make():
    return Mine({tools})
"""


def test_a_tool_of_an_environment_is_part_of_the_policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is offered changes what a model says. A workspace of before that was recorded counts as unchanged."""
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "tasks.jsonl", sums(2))
    words = ["--input=tasks.jsonl", "--environment=mine.py:make", "--engine=scripted", "--data=w", "--dataset=d"]

    def offer(*names: str) -> None:
        tools = [{"type": "function", "function": {"name": name, "parameters": {}}} for name in names]
        (tmp_path / "mine.py").write_text(OFFERING.format(tools=tools))

    offer()
    rolloutops("collect", *words, cwd=tmp_path)
    offer("search")
    refused = rolloutops("collect", *words, "--num_repeats=2", cwd=tmp_path, code=2).stderr
    assert "environment.tools was null, is [" in refused
    assert "search" in refused

    older = tmp_path / "older"
    with monkeypatch.context() as earlier:
        made = planning.policy_fingerprint
        earlier.setattr(
            planning, "policy_fingerprint", lambda *a: {k: v for k, v in made(*a).items() if k != "environment"}
        )
        assert main(["collect", *words[:3], f"--data={older}", "--dataset=d"]) == 0
    assert main(["collect", *words[:3], f"--data={older}", "--dataset=d", "--num_repeats=2"]) == 0
