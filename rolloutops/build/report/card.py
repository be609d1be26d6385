"""README.md of a build: a dataset card as the Hugging Face Hub reads it, YAML first, then the text for people."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from rolloutops.build.manifest import by_dataset
from rolloutops.build.manifest_types import InputFile, Manifest, ManifestFile
from rolloutops.layout import count
from rolloutops.store import sql

NAME = "README.md"

SIZES = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
    (100_000_000, "10M<n<100M"),
    (1_000_000_000, "100M<n<1B"),
)

KINDS = {"BIGINT": "int64", "UBIGINT": "int64", "HUGEINT": "float64", "DOUBLE": "float64", "BOOLEAN": "bool"}
"""DuckDB's names of JSON values -> those of the Hub; every other one is text."""

WHOLE = 16 * 1024 * 1024
"""Bytes of data up to which every line is read to know its fields; beyond, the first lines are."""
SOME = 2000

SHORT = r"""
CASE WHEN m.bytes > 65536 THEN regexp_replace(t.json[1], '"((?:[^"\\]|\\.){0,63})"|"(?:[^"\\]|\\.)*"', '"\1"', 'g')
    ELSE t.json[1] END
"""
"""A line without its long texts, which say nothing of its structure."""

KEYS = """
WITH files AS (SELECT * FROM (VALUES {files}) AS f (name, split, first, last))

SELECT name, list(DISTINCT key)
FROM (
    SELECT f.name, unnest(json_keys(l.json)) AS key
    FROM lines AS l
    JOIN files AS f ON f.split = l.split AND l.row BETWEEN f.first AND f.last
)
GROUP BY name
"""


@dataclass(frozen=True)
class Fields:
    """The columns of the data files. structure: each one's JSON type as DuckDB writes it. whole: from every line.

    of_file: file -> the columns that it has: a key that no line of a shard has is not a column there. kind: file -> the
    number of its schema: Parquet files of one build may have several, as a struct has the keys of its own tools only.
    """

    structure: Mapping[str, Any]
    whole: bool
    of_file: Mapping[str, set[str]]
    kind: Mapping[str, int]


def fields_of(con: sql.Connection, folder: Path, content: Manifest) -> Fields:
    """The columns of the lines and what they hold. con: has the views `result` and `lines` of the build.

    folder: where its data files lie.
    """
    data = [file for file in content["files"] if "split" in file]
    whole = sum(file["bytes"] for file in data) <= WHOLE
    limit = "" if whole else f"WHERE m.rowid < {SOME}"
    # In their order, because several threads find the keys in any: json_group_structure takes none.
    array = "('[' || string_agg(json, ',' ORDER BY rowid) || ']')::JSON"
    shown = f"SELECT m.rowid, {SHORT} AS json FROM staging.texts AS t JOIN staging.made AS m ON m.text = t.text {limit}"
    structures = f"SELECT json_structure({array})->'$[0]' FROM ({shown})"
    structure = json.loads(sql.rows(con, structures)[0][0] or "{}")
    ranges, before = list[tuple[str, str, int, int]](), dict[str, int]()
    for file in data:
        first = before.get(file["split"], 0) + 1
        before[file["split"]] = first + file["rows"] - 1
        ranges.append((file["name"], file["split"], first, before[file["split"]] if whole else first + SOME // 10))
    values = ", ".join("(" + ", ".join(map(sql.literal, one)) + ")" for one in ranges)
    keys = {name: set(keys) for name, keys in sql.rows(con, KEYS.format(files=values))}
    kinds = list[str]()
    kind = dict[str, int]()
    for file in data:
        schema = str(pq.read_schema(folder / file["name"])) if file["name"].endswith(".parquet") else ""
        kinds += [] if schema in kinds else [schema]
        kind[file["name"]] = kinds.index(schema)
    return Fields(structure if isinstance(structure, dict) else {}, whole, keys, kind)


def text(content: Manifest, fields: Fields) -> str:
    """The card. content: the build's manifest with the data files."""
    return f"---\n{yaml(front_matter(content, fields))}---\n\n" + "\n".join(_body(content, fields)) + "\n"


def front_matter(content: Manifest, fields: Fields) -> dict[str, Any]:
    """What the Hub reads: which file is which split, how much there is, and what it is for."""
    build, data = content["build"], [file for file in content["files"] if "split" in file]
    lines = sum(file["rows"] for file in data)
    features = [_feature(name, kind) for name, kind in fields.structure.items()]
    sure = fields.whole and build["format"] == "jsonl" and features and None not in features
    groups = [[file for file in data if fields.kind[file["name"]] == n] for n in sorted(set(fields.kind.values()))]
    names = ["default", *(f"columns_{n}" for n in range(2, len(groups) + 1))]
    infos = [
        {"config_name": name, **({"features": features} if sure else {}), **_sizes(group)}
        for name, group in zip(names, groups, strict=True)
    ]
    return {
        "pretty_name": build["step"],
        "tags": ["rolloutops", "rollouts", "synthetic", *_purpose(content)],
        "task_categories": ["text-generation", *(["reinforcement-learning"] if "rl" in _purpose(content) else [])],
        "size_categories": [next((name for most, name in SIZES if lines < most), "1B<n<10B")],
        "configs": [
            {"config_name": name, "data_files": [{"split": s, "path": files} for s, files in _splits(group).items()]}
            for name, group in zip(names, groups, strict=True)
        ],
        "dataset_info": infos if len(infos) > 1 else infos[0],
    }


def _splits(data: Sequence[ManifestFile]) -> dict[str, list[str]]:
    """Split -> its files, of those that hold a line."""
    found: dict[str, list[str]] = {}
    for file in data:
        if file["rows"]:
            found.setdefault(file["split"], []).append(file["name"])
    return found


def _sizes(data: Sequence[ManifestFile]) -> dict[str, Any]:
    """Lines and bytes of each split, and bytes of all."""
    splits = [
        {
            "name": split,
            "num_bytes": sum(file["bytes"] for file in data if file["name"] in names),
            "num_examples": sum(file["rows"] for file in data if file["name"] in names),
        }
        for split, names in _splits(data).items()
    ]
    total = sum(file["bytes"] for file in data)
    return {"splits": splits, "download_size": total, "dataset_size": total}


def _purpose(content: Manifest) -> list[str]:
    """What the lines are for, by the part that the rollouts behind them play."""
    roles = set(content["roles"])
    if {"chosen", "rejected"} & roles:
        return ["preference"]
    return ["rl"] if "evidence" in roles else ["sft"]


def _feature(name: str, kind: Any) -> dict[str, Any] | None:
    """A column as the Hub describes it; None where its values are not of one type."""
    if isinstance(kind, dict):
        inner = [_feature(key, value) for key, value in kind.items()]
        return None if None in inner or not inner else {"name": name, "struct": inner}
    if isinstance(kind, list):
        item = _feature("item", kind[0]) if kind else None
        if item is None:
            return None
        return {"name": name, "list": item.get("dtype") or item.get("struct") or [item]} if "list" not in item else None
    return None if kind in ("JSON", "NULL") else {"name": name, "dtype": KINDS.get(kind, "string")}


def _body(content: Manifest, fields: Fields) -> Iterator[str]:
    build = content["build"]
    data = [file for file in content["files"] if "split" in file]
    lines = sum(file["rows"] for file in data)
    counts = by_dataset(content)
    datasets = list(counts)
    yield f"# {_md(build['step'])}\n\n{_md(build['about'])}\n"
    yield (
        f"{count(lines, 'line')} from {count(content['rollouts']['used'], 'rollout')} of {_some(datasets, 'dataset')}"
        ", answered by "
        f"{_some(sorted({row['policy'] for row in content['policies']}), 'policy', 'policies')}. Written by "
        f"rolloutops {content['rolloutops']}; `report.html` has the figures, `manifest.json` every step, and "
        "`lineage.parquet` says which rollouts each line came from.\n"
    )
    yield "## Files\n"
    yield _table(("file", "split", "lines", "bytes"), [[f["name"], f["split"], f["rows"], f["bytes"]] for f in data])
    yield "## Fields\n"
    yield _table(("field", "holds"), [[name, _holds(kind)] for name, kind in fields.structure.items()])
    yield "## Generation\n"
    yield _table(
        ("dataset", "policy", "engine", "model", "sampling", "rollouts used", "verifier"),
        [
            [
                row["dataset"],
                row["policy"],
                row["engine"],
                row["model"],
                "; ".join(_sampling(one["parameters"]) for one in row["requests"]) or None,
                row["rollouts"],
                f"{row['verifier']} ({row['verifier_version']})" if row["verifier_version"] else row["verifier"],
            ]
            for row in content["policies"]
        ],
    )
    yield "## Selection\n"
    if content["steps"]:
        yield _table(
            ("step", "what it does", "parameters", "rows in", "kept", "dropped", "rows out"),
            [
                [
                    f"{step['step']} ({step['use']})",
                    step["about"],
                    _parameters(step["parameters"]),
                    *(step[name] for name in ("rows_in", "kept", "dropped", "rows")),
                ]
                for step in content["steps"]
            ],
        )
    yield (
        f"The build read {count(content['rollouts']['in'], 'rollout')} and used {content['rollouts']['used']:,} "
        f"({_parameters(build['parameters']) or 'no parameters'}; seed {build['seed']}).\n"
    )
    yield "## Mix\n"
    yield _table(
        ("dataset", *content["splits"], "share"),
        [
            [name, *(rows.get(name, 0) for rows in content["splits"].values()), f"{counts[name] / lines:.2%}"]
            for name in datasets
        ],
    )
    for step in (*content["steps"], build):
        for rows in filter(None, step["reports"]):
            yield f"Report of {_md(step['step'])}:\n"
            yield _table(tuple(rows[0]), [list(row.values()) for row in rows])
    yield "## Decontamination\n"
    cleaned = [s for s in content["steps"] if "contamin" in s["use"]]
    for step in cleaned:
        dropped = f"{step['dropped']:,} of {count(step['rows_in'], 'row')}"
        yield f"{_md(step['step'])}: {_md(step['about'])} It dropped {dropped}.\n"
    if not cleaned:
        yield "No step compared the prompts with benchmarks.\n"
    yield "## Lineage\n"
    yield (
        "`rolloutops trace FILE --row=N` shows the tasks, policies, attempts and verdicts behind a line. "
        "`manifest.json` holds each step's SQL and the hashes of inputs and outputs.\n"
    )
    files = [
        [one["dataset"], _place(file), file["tasks"], file["rows_sha256"]]
        for one in content["inputs"]
        for file in one["files"]
    ]
    yield _table(("dataset", "input", "tasks", "sha256 of the rows' hashes"), files)
    yield "## Limits\n"
    yield (
        "Answers were generated by a model and selected by a verifier; both make errors. Check the "
        "licenses of the input rows and of the model before publishing."
    )


def _place(file: InputFile) -> str:
    """An input as a reader elsewhere can find it: by its address and pin, else by its path."""
    return f"{file['address']} (pin {file['pin']})" if "address" in file and "pin" in file else file["file"]


def yaml(value: Mapping[str, Any], indent: str = "") -> str:
    """Tables, lists, text and numbers as YAML."""
    return "".join(f"{indent}{_key(name)}:{_yaml(inner, indent)}" for name, inner in value.items())


def _yaml(value: Any, indent: str) -> str:
    if isinstance(value, Mapping) and value:
        return "\n" + yaml(value, indent + "  ")
    if isinstance(value, list) and value:
        return "\n" + "".join(f"{indent}-{_item(one, indent)}" for one in value)
    return f" {_scalar(value)}\n"


def _item(value: Any, indent: str) -> str:
    """One item of a list: a table begins beside its dash."""
    if isinstance(value, Mapping) and value:
        return " " + yaml(value, indent + "  ").lstrip()
    return _yaml(value, indent + "  ")


def _key(name: str) -> str:
    return name if name.isascii() and name.isidentifier() and name.lower() not in RESERVED else _scalar(name)


RESERVED = ("null", "true", "false", "yes", "no", "on", "off", "y", "n")


def _scalar(value: Any) -> str:
    """One value: as JSON, but what YAML does not print is escaped by its number, and a float has its point."""
    said = json.dumps(value, ensure_ascii=False)
    if isinstance(value, float) and "." not in said:
        return said.replace("e", ".0e")
    return "".join(c if c.isprintable() else _number_of(ord(c)) for c in said)


def _number_of(code: int) -> str:
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table."""
    lines = [columns, ["---"] * len(columns), *[[_cell(value) for value in row] for row in rows]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return _md(f"{value:.4g}" if isinstance(value, float) else str(value))


def _md(text: str) -> str:
    """Text that Markdown and HTML leave as it is, on one line."""
    text = " ".join(text.split())
    for mark in "\\`*_[]<>|#":
        text = text.replace(mark, f"&#{ord(mark)};") if mark in "<>|" else text.replace(mark, "\\" + mark)
    return text if len(text) <= 600 else text[:599] + "…"


def _holds(kind: Any) -> str:
    if isinstance(kind, dict):
        return "{" + ", ".join(f"{name}: {_holds(inner)}" for name, inner in kind.items()) + "}"
    if isinstance(kind, list):
        return "list of " + (_holds(kind[0]) if kind else "nothing")
    return {"VARCHAR": "text", "BOOLEAN": "true or false", "NULL": "null", "JSON": "any JSON"}.get(str(kind), "number")


def _sampling(parameters: Mapping[str, Any]) -> str:
    plain = {n: v for n, v in parameters.items() if isinstance(v, str | int | float | bool) and len(str(v)) <= 60}
    return _parameters(plain)


def _parameters(parameters: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} = {value}" for name, value in parameters.items())


def _some(names: Sequence[str], one: str, many: str = "") -> str:
    """`2 datasets (a, b)`; of many names the first ones."""
    shown = ", ".join(map(_md, names[:8])) + (", …" if len(names) > 8 else "")
    return f"{len(names):,} {one if len(names) == 1 else many or one + 's'}" + (f" ({shown})" if names else "")
