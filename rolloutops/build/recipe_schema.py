"""The JSON Schema of recipes, with which an editor completes and checks one: made of the keys that check recipes.

Draft 7, which editors of TOML read. Each shipped step has its own parameters, and so has each engine and environment.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from rolloutops.config.build_options import BuildOptions
from rolloutops.config.plugins import BUILT_IN, Kind, find
from rolloutops.config.recipe import NAME, STEP_KINDS
from rolloutops.config.recipe_file import METRICS, NAMED, TABLES, step_keys
from rolloutops.config.resources import shipped
from rolloutops.config.sampling import KEYS
from rolloutops.config.settings import Chunk, Collect, Dataset, DuckDB, Verify
from rolloutops.config.validation import Keys, json_schema, keys_of
from rolloutops.errors import MissingExtra
from rolloutops.steps.step import Step, available, keys_of_step, read_step
from rolloutops.store import sql

Schema = dict[str, Any]


def recipe_schema(folder: Path = Path()) -> Schema:
    """Make the schema of a recipe in `folder`, whose custom steps are known as well as the shipped ones."""
    steps = [read_step(name, path) for name, (_, path) in available(folder).items()]
    whole = json_schema(TABLES)
    tables = whole["properties"]
    tables["preset"]["enum"] = sorted(path.stem for path in shipped("recipes").glob("presets/*.toml"))
    names = {"propertyNames": {"pattern": f"^{NAME.pattern}$"}}
    for name in ("chunk", "collect", "verify", "duckdb"):
        tables[name] = _of("definitions", name)
    tables["policies"] |= {**names, "additionalProperties": _of("definitions", "collect")}
    tables["datasets"] |= {**names, "additionalProperties": _of("definitions", "dataset")}
    tables["metrics"] = _metrics([step for step in steps if step.name.startswith("metrics/")])
    for kind in STEP_KINDS:
        own = [step for step in steps if step.name.startswith(f"{kind}/")]
        tables[kind] |= {"deprecated": True}
        whole.setdefault("definitions", {})[kind] = _step_table(kind, own)
        whole["definitions"][f"{kind}_keys"] = json_schema(_shared_keys(kind))
    tables["steps"]["items"] = _step_of_any_kind()
    dataset = json_schema(keys_of(Dataset))
    dataset["properties"]["collect"] = _of("definitions", "collect")
    dataset["allOf"] = list(_arguments("environment"))
    whole["definitions"] |= {
        "chunk": json_schema(keys_of(Chunk)),
        "collect": _collect(),
        "verify": json_schema(keys_of(Verify)),
        "duckdb": json_schema(keys_of(DuckDB)),
        "dataset": dataset,
    }
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "A rolloutops recipe",
        **whole,
        # A step of a preset has its `use` there.
        "if": {"required": ["preset"]},
        "then": {},
        "else": {"properties": {"steps": {"items": {"required": ["use"]}}}},
    }


def _of(*path: str) -> Schema:
    return {"$ref": f"#/{'/'.join(path)}"}


def _collect() -> Schema:
    """[collect]: a custom engine may know more sampling parameters; others may be in extra_body."""
    made = json_schema(keys_of(Collect))
    params = made["properties"]["responses_create_params"]
    params["properties"] = json_schema(KEYS)["properties"]
    custom = {"properties": {"engine": {"not": {"enum": list(BUILT_IN["engine"])}}}, "required": ["engine"]}
    names = {"properties": {"responses_create_params": {"propertyNames": {"enum": list(KEYS)}}}}
    made["allOf"] = [{"if": custom, "then": {}, "else": names}, *_arguments("engine")]
    return made


def _arguments(kind: Kind) -> Iterator[Schema]:
    """For each shipped engine or environment that can be imported here, what its arguments may be."""
    for name in BUILT_IN[kind]:
        plugin = find(kind, name)
        try:
            keys = plugin.keys()
        except MissingExtra:
            continue
        # What is required may come from another key: the model of an engine, as of a policy.
        optional = {key: replace(one, required=False) for key, one in keys.items()}
        arguments = json_schema(optional, any_name=plugin.takes_any_name())
        named = {"properties": {kind: {"const": name}}, "required": [kind]}
        yield {"if": named, "then": {"properties": {f"{kind}_args": arguments}}}


def _step_of_any_kind() -> Schema:
    """A table of [[steps]]: its kind says which definition it must fit."""
    keys = json_schema(NAMED, any_name=True)
    keys["properties"]["name"]["pattern"] = f"^{NAME.pattern}$"
    each = [{"if": {"properties": {"kind": {"const": kind}}}, "then": _of("definitions", kind)} for kind in STEP_KINDS]
    return {**keys, "allOf": each}


def _step_table(kind: str, steps: list[Step]) -> Schema:
    """A step's table: of a known step with its parameters, of another with any, of a preset's step without `use`."""
    known = [_step(kind, step) for step in steps]
    other = json_schema(step_keys(kind), any_name=True)
    other["properties"]["use"] = {"type": "string", "not": {"enum": [step.name for step in steps]}}
    again = {"type": "object", "properties": {"use": False}}
    return {"anyOf": [*known, other, again]}


def _shared_keys(kind: str) -> Keys:
    """The keys that each step of a kind has, which the schema holds once."""
    return {**step_keys(kind), **(keys_of(BuildOptions) if kind == "build" else {})}


def _step(kind: str, step: Step) -> Schema:
    made = json_schema({**step_keys(kind), **_with_defaults(kind, step)})
    shared = {name: _of("definitions", f"{kind}_keys", "properties", name) for name in _shared_keys(kind)}
    own = {name: made["properties"][name] for name in step.params}
    made["properties"] = {**shared, **own, "use": {"const": step.name, "description": step.about}}
    return {"title": step.name, **made}


def _metrics(steps: list[Step]) -> Schema:
    """[metrics]: the steps to print, and a table of parameters by the name of a step's file."""
    made = json_schema(METRICS, any_name=True)
    listed = {"anyOf": [{"enum": [step.name for step in steps]}, {"type": "string"}]}
    made["properties"]["steps"]["items"] = listed
    for step in steps:
        own = {"description": step.about, **json_schema(_with_defaults("metrics", step))}
        made["properties"][Path(step.name).name] = {name: part for name, part in own.items() if name != "required"}
    return {**made, "description": TABLES["metrics"].about, "additionalProperties": {"type": "object"}}


def _with_defaults(kind: str, step: Step) -> dict[str, Any]:
    """A step's parameters, with defaults as values and not as the SQL that its header holds."""
    con = sql.connect(threads=1)
    found = {}
    for name, param in step.params.items():
        key = keys_of_step(step, kind)[name]
        value = sql.rows(con, f"SELECT CAST({param.default or 'NULL'} AS {param.kind})")[0][0]
        # JSON has no infinity, which as a default means no bound.
        known = isinstance(value, bool | int | float | str | list) and value not in (math.inf, -math.inf)
        found[name] = replace(key, default=value if known else None)
    con.close()
    return found
