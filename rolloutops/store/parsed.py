"""What SQL says, as DuckDB's own parser reads it: the statements of a script, and what a query names."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from threading import get_ident
from typing import Any

import duckdb

NAMES_OF_COLUMNS = ("column_names", "using_columns", "exclude_list", "groups")
"""Where DuckDB's tree of a query lists names of columns as text."""


@dataclass(frozen=True)
class Names:
    """What a query names, in small letters.

    relations: without the CTEs of the query itself. star: whether it has a `*`. rows: whether it takes a whole row as
    one value, as to_json(s) does, or columns by a pattern.
    """

    columns: frozenset[str]
    relations: frozenset[str]
    functions: frozenset[str]
    variables: frozenset[str]
    star: bool
    rows: bool


@cache
def names(*queries: str) -> Names:
    """Find what queries name. Raises duckdb.Error for one that is not a SELECT."""
    nodes = [node for query in queries for node in _nodes(tree(query))]
    columns = {name.lower() for node in nodes for name in _columns(node)}
    tables = {node["table_name"].lower() for node in nodes if "table_name" in node}
    aliases = {node["alias"].lower() for node in nodes if "alias" in node and "class" not in node}
    ctes = {entry["key"].lower() for node in nodes if "cte_map" in node for entry in node["cte_map"]["map"]}
    functions = {node["function_name"].lower() for node in nodes if "function_name" in node}
    stars = [node for node in nodes if node.get("class") == "STAR"]
    single = {node["column_names"][0].lower() for node in nodes if len(node.get("column_names", ())) == 1}
    return Names(
        columns=frozenset(columns),
        relations=frozenset(tables - ctes),
        functions=frozenset(functions),
        variables=frozenset(name for node in nodes for name in _variable(node)),
        star=bool(stars),
        rows=any(node["columns"] or node["expr"] for node in stars) or bool(single & (tables | aliases)),
    )


def tree(query: str) -> dict[str, Any]:
    """The tree of one SELECT. Raises duckdb.Error for anything else."""
    result = empty_database().execute("SELECT json_serialize_sql(?::VARCHAR)", [query]).fetchall()
    found = json.loads(result[0][0])
    if found["error"]:
        raise duckdb.ParserException(found["error_message"])
    return found["statements"][0]["node"]  # type: ignore[no-any-return]


def statement(source: str) -> str:
    """The text of a file from its first statement on, without what follows the last one's semicolon."""
    text = source.encode()
    try:
        code = list(_code(source))
    except duckdb.Error:  # not SQL: it is refused with DuckDB's reason where its statements are counted
        return source.strip()
    ends = [at for at in code if text[at : at + 1] == b";"]
    end = ends[-1] if ends and ends[-1] == code[-1] else len(text)
    return text[code[0] if code else end : end].decode().strip()


def created(script: str) -> dict[str, str]:
    """Name -> the statement that makes it, of a script of CREATE OR REPLACE VIEW or MACRO, in its order."""
    text = script.encode()
    found = {}
    tokens: list[int] = []
    for at in _code(script):
        tokens.append(at)
        if text[at : at + 1] == b";":
            first, _, _, _, name, after, *_ = tokens  # CREATE OR REPLACE VIEW name AS
            found[text[name:after].decode().strip()] = text[first : at + 1].decode()
            tokens = []
    return found


def files_of_view(definition: str) -> set[str]:
    """The files and patterns that a view reads with read_parquet. definition: CREATE VIEW NAME AS SELECT ..."""
    nodes = _nodes(tree(definition.partition(" AS ")[2].rstrip(";\n ")))
    calls = [node for node in nodes if node.get("function_name") == "read_parquet"]
    return {text for call in calls for node in _nodes(call) if (text := _text(node) or "").endswith(".parquet")}


def empty_database() -> duckdb.DuckDBPyConnection:
    """An empty database, without threads, in which queries are parsed and values are checked; each thread has its own,
    for a connection answers one at a time."""
    return _empty_database(get_ident())


@cache
def _empty_database(thread: int) -> duckdb.DuckDBPyConnection:
    con = duckdb.connect()
    con.execute("SET threads = 1; SET enable_progress_bar = false; SET TimeZone = 'UTC'")
    return con


def _code(text: str) -> Iterator[int]:
    """Where each token begins, in bytes; DuckDB 2.0 counts comments among them, 1.5 does not."""
    comment = getattr(duckdb.token_type, "comment", None)
    return (at for at, kind in duckdb.tokenize(text) if kind != comment)


def _nodes(value: Any) -> Iterator[Mapping[str, Any]]:
    """Every object of a tree."""
    if isinstance(value, Mapping):
        yield value
    for inner in value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ():
        yield from _nodes(inner)


def _columns(node: Mapping[str, Any]) -> Iterator[str]:
    for key in NAMES_OF_COLUMNS:
        yield from (name for name in node.get(key, ()) if isinstance(name, str))
    for key in ("replace_list", "rename_list"):
        yield from (entry["key"] for entry in node.get(key, ()) if isinstance(entry.get("key"), str))
    yield from (entry["column"] for entry in node.get("qualified_exclude_list", ()))


def _variable(node: Mapping[str, Any]) -> Iterator[str]:
    """The name in getvariable('name')."""
    if node.get("function_name", "").lower() == "getvariable":
        for argument in node.get("arguments", node.get("children", ())):
            name = _text(argument.get("expression", argument))
            if name is not None:
                yield name


def _text(node: Mapping[str, Any]) -> str | None:
    """The text of a constant that is one, in the trees of DuckDB 2.0 and 1.5."""
    if node.get("class") != "CONSTANT":
        return None
    found = node["literal"]["text"] if node.get("literal", {}).get("kind") == "STRING" else node.get("value", {})
    found = found.get("value") if isinstance(found, Mapping) else found
    return found if isinstance(found, str) else None
