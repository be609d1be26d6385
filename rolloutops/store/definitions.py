"""Views and macros of a connection, each made when a query first names it.

A workspace has some 80 of them and DuckDB binds a view when it is made, but a query needs few. sql.py, through which
all queries go, makes what each of them names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from weakref import WeakKeyDictionary

import duckdb

from rolloutops.store.parsed import created

UNMADE: WeakKeyDictionary[duckdb.DuckDBPyConnection, dict[str, str]] = WeakKeyDictionary()
"""Connection -> the statements of what it was given and nothing has named yet."""


def names_in(texts: Iterable[str], known: Mapping[str, str]) -> list[str]:
    """The names among `known` that texts name, and those that the statements of these name, in the order of `known`.

    Every word counts, also in texts, as 'rollouts' does in answers('rollouts'): one too many makes a view too many.
    """
    found: set[str] = set()
    left = list(texts)
    while left:
        more = known.keys() & set(re.findall(r"\w+", left.pop().lower())) - found
        found |= more
        left += [known[name] for name in more]
    return [name for name in known if name in found]


def define(con: duckdb.DuckDBPyConnection, script: str) -> None:
    """Give a connection the views and macros of a script. A cursor of it has those that are made by then."""
    UNMADE.setdefault(con, {}).update(created(script))


def redefine(con: duckdb.DuckDBPyConnection, script: str) -> None:
    """Give a connection views that it has, made or not, in another form."""
    unmade = UNMADE.get(con, {})
    for name, statement in created(script).items():
        if name in unmade:
            unmade[name] = statement
        else:
            con.execute(statement)


def make_named(con: duckdb.DuckDBPyConnection, query: str) -> None:
    """Make what a query names and what this is made of, in the schema where the connection is."""
    unmade = UNMADE.get(con)
    if unmade and (names := names_in([query], unmade)):
        con.execute("\n".join(unmade[name] for name in names))
        for name in names:  # only now: what could not be bound here, as where a table hides a view, is made by the next
            del unmade[name]


def make_all(con: duckdb.DuckDBPyConnection) -> None:
    """Make what nothing has named yet: a query of the user's may list what there is."""
    make_named(con, " ".join(UNMADE.get(con, ())))
