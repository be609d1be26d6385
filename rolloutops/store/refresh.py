"""Queries that are tried again: a view lists part files, and `compact` may take these away once it has merged them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeVar
from weakref import WeakKeyDictionary

import duckdb

Found = TypeVar("Found")

GONE = re.compile(r"No files found that match|Cannot open file .*No such file or directory", re.DOTALL)
"""What DuckDB says of a listed file that is not there any more. One that it has opened, it reads to the end."""
TRIES = 5
_LISTING: WeakKeyDictionary[duckdb.DuckDBPyConnection, Callable[[], None]] = WeakKeyDictionary()
"""Connection -> what lets its views list the files anew."""


def list_with(con: duckdb.DuckDBPyConnection, action: Callable[[], None]) -> None:
    """Say how a connection's views come to list the files that are there now."""
    _LISTING[con] = action


def is_gone(error: Exception) -> bool:
    """Whether a query failed since a file that it lists is gone."""
    return isinstance(error, duckdb.IOException) and GONE.search(str(error)) is not None


def retry_if_gone(con: duckdb.DuckDBPyConnection, query: Callable[[], Found]) -> Found:
    """Run a query; once more, with a new list of files, where one of them is gone."""
    for _ in range(TRIES):
        try:
            return query()
        except duckdb.IOException as error:
            if not is_gone(error) or con not in _LISTING:
                raise
            _LISTING[con]()
    return query()
