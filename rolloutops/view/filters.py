"""A filter of rollouts: a SQL condition, values of facets, a range of rewards; and its order. All of it is in the
address of a page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from rolloutops.errors import UsageError
from rolloutops.store import sql
from rolloutops.store.user_query import is_condition
from rolloutops.view.index import COLUMNS, SEPARATOR, Moment, make_views, read, reading

Query = Mapping[str, Sequence[str]]
"""The part of an address after the `?`: name -> values."""

FACETS = {
    "dataset": "dataset",
    "policy": "policy",
    "finish_reason": "finish_reason",
    "error": "verdict_error",
    "tool": "tools_called",
    "label": "label",
}
"""Facet -> the column of the index that it counts."""

MOST_MATCHES = 8
"""Conditions whose matches are held at a time."""


@dataclass(frozen=True)
class Filter:
    """condition: SQL, or nothing. values: facet -> values of which one must fit; an empty one is null. low and high:
    the least and the greatest reward. sort: a column; descending: the greatest first. Nulls are last."""

    condition: str = ""
    values: dict[str, list[str]] = field(default_factory=dict)
    low: float | None = None
    high: float | None = None
    sort: str = "attempt_id"
    descending: bool = True


def filter_of(query: Query) -> Filter:
    """Read the filter of a page's address. Raises UsageError for a value that is none."""
    sort = first(query, "sort") or "-attempt_id"
    if sort.lstrip("-") not in COLUMNS:
        raise UsageError(f"rollouts cannot be sorted by {sort.lstrip('-')!r}")
    return Filter(
        first(query, "where").strip(),
        {facet: list(query[facet]) for facet in FACETS if facet in query},
        _number(query, "low"),
        _number(query, "high"),
        sort.lstrip("-"),
        sort.startswith("-"),
    )


def first(query: Query, name: str) -> str:
    """The first value of a name in an address; empty where there is none."""
    return next(iter(query.get(name, ())), "")


def _number(query: Query, name: str) -> float | None:
    text = first(query, name)
    try:
        return float(text) if text else None
    except ValueError:
        raise UsageError(f"{name} is a reward, not {text!r}") from None


def matching(moment: Moment, chosen: Filter, without: str = "") -> str:
    """Write the relation of the index's rows that a filter matches, and `place`, the number of each in the index.

    without: a facet, or `reward`, to leave out.
    """
    where = " AND ".join(_parts(moment, chosen, without))
    return f"(SELECT *, rowid AS place FROM small WHERE {where or 'true'})"


def _parts(moment: Moment, chosen: Filter, without: str) -> Iterator[str]:
    if chosen.condition:
        yield _condition(moment, chosen.condition)
    for facet, values in chosen.values.items():
        if facet != without:
            yield _one_of(facet, values)
    if without != "reward" and chosen.low is not None:
        yield f"reward >= {sql.literal(chosen.low)}"
    if without != "reward" and chosen.high is not None:
        yield f"reward <= {sql.literal(chosen.high)}"


def _one_of(facet: str, values: Sequence[str]) -> str:
    column = FACETS[facet]
    if facet == "tool":  # many rollouts call few sets of tools
        held = [f"contains('{SEPARATOR}' || {column} || '{SEPARATOR}', {_apart(value)})" for value in values if value]
        fitting = f"SELECT {column} FROM tool_sets WHERE {' OR '.join(held) or 'false'}"
    else:
        fitting = ", ".join(map(sql.literal, values))
    nothing = f" OR {column} IS NULL OR {column} = ''" if "" in values else ""
    return f"({column} IN ({fitting}){nothing})"


def _apart(name: str) -> str:
    return sql.literal(f"{SEPARATOR}{name}{SEPARATOR}")


def _condition(moment: Moment, text: str) -> str:
    """Write a user's condition over the index; one over other columns as the list of the rows that it matches."""
    require_condition(text)
    key = f"(\n{text}\n)"
    with moment.lock:
        table = moment.matches.get(text)
    if table == "small":
        return key
    if table is None:
        table = _match(moment, text, key)
    return key if table == "small" else f"rowid IN (FROM {table})"


def require_condition(text: str) -> None:
    """Raise UsageError where a text is not one condition."""
    try:
        one = is_condition(text)
    except sql.Error as error:
        raise UsageError(str(error).splitlines()[0]) from error
    if not one:
        raise UsageError("a filter is one condition, as in: reward > 0.5 AND policy = 'careful'")


def _match(moment: Moment, text: str, key: str) -> str:
    """Find how a condition is answered: by the index, or by a table with the rows of it that match."""
    make_views(moment, f"rollouts logged {text}")
    if _is_small(moment, key):
        table = "small"
    else:
        keys = f"SELECT dataset, attempt_id FROM {moment.source} AS rollouts WHERE {key}"
        query = f"SELECT s.rowid AS place FROM small AS s SEMI JOIN (\n{keys}\n) USING (dataset, attempt_id)"
        with reading(moment) as cursor:
            places = cursor.sql(query).to_arrow_table()
        table = _hold(moment, places)
    with moment.lock:
        moment.matches[text] = table
    return table


def _is_small(moment: Moment, key: str) -> bool:
    """Whether a condition needs no more than the index. Raises UsageError for one that no view can answer."""
    names = ", ".join(COLUMNS)
    try:
        read(moment, f"SELECT 1 FROM (SELECT {names} FROM small) AS rollouts WHERE {key} LIMIT 0")
    except UsageError:
        read(moment, f"SELECT 1 FROM rollouts WHERE {key} LIMIT 0")
        return False
    return True


def _hold(moment: Moment, places: pa.Table) -> str:
    """Put the rows that a condition matches into a table; only the last few are held."""
    with moment.lock:
        name = f"matches_{next(moment.tables)}"
        cursor = moment.con.cursor()
        cursor.register("places", places)
        cursor.execute(f"CREATE TABLE {name} AS SELECT place FROM places")
        cursor.unregister("places")
        cursor.close()
        moment.forget_matches([text for text, table in moment.matches.items() if table != "small"][: -MOST_MATCHES + 1])
        return name
