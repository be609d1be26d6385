"""Mixes: how many rows of each dataset, against the tables of those who published the rules."""

from __future__ import annotations

from hashlib import md5
from pathlib import Path
from typing import Any

import pytest

from rolloutops.config.recipe import StepUse
from rolloutops.errors import StepError
from rolloutops.steps.selection import StepStats, select
from rolloutops.store import sql
from tests import given

SIZES = {"small": 10, "middle": 100, "large": 1000}


@pytest.fixture(scope="module")
def con() -> sql.Connection:
    """Three datasets, each ten times as large as the one before."""
    return given.workspace(
        {"dataset": name, "task_id": f"{name}-{number}", "output_tokens": 1 + number % 5}
        for name, size in SIZES.items()
        for number in range(size)
    )


def mixed(con: sql.Connection, use: str, **settings: Any) -> StepStats:
    return select(con, [StepUse("mix", "made", use, settings)], Path())[0]


def rows_of(con: sql.Connection) -> dict[str, int]:
    found = dict(sql.rows(con, "SELECT dataset, count(*) FROM selected GROUP BY dataset"))
    return {name: found.get(name, 0) for name in SIZES}


@pytest.mark.parametrize(
    ("temperature", "rates"),
    [  # seqio's mixing_rate_num_examples over 10, 100 and 1,000 rows
        (1.0, (0.0090, 0.0901, 0.9009)),
        (2.0, (0.0706, 0.2233, 0.7061)),
        (1 / 0.3, (0.1433, 0.2860, 0.5707)),
    ],
)
def test_temperature(con: sql.Connection, temperature: float, rates: tuple[float, ...]) -> None:
    keys = {"temperature": temperature, "rows": 10_000, "on_shortage": "repeat", "max_copies": 1_000}
    mixed(con, "mix/temperature", **keys)
    assert tuple(rows / 10_000 for rows in rows_of(con).values()) == rates


@pytest.mark.parametrize(
    ("epochs", "rows", "short"),
    [(4, (40, 400, 760), 0), (1, (10, 100, 1000), 90)],  # UniMax with a budget of 1,200
)
def test_unimax(con: sql.Connection, epochs: int, rows: tuple[int, ...], short: int) -> None:
    stats = mixed(con, "mix/unimax", rows=1200, max_epochs=epochs)
    assert tuple(rows_of(con).values()) == rows
    everything = stats.reports[0][-1]
    assert (everything["dataset"], everything["target_rows"], everything["short_rows"]) == ("all", 1200, short)


@pytest.mark.parametrize(
    ("use", "settings", "rows"),
    [
        ("mix/shares", {"shares": {"small": 1 / 3, "middle": 1 / 3, "large": 1 / 3}, "rows": 10}, (3, 3, 4)),
        ("mix/shares", {"shares": {"small": 0.1, "large": 0.9}}, (10, 0, 90)),
        ("mix/copies", {"copies": {"small": 3.0, "middle": 0.5}}, (30, 50, 0)),  # open-instruct's "3.0" and "0.5"
        ("mix/counts", {"counts": {"small": 1, "large": 100}}, (1, 0, 100)),  # open-instruct's "1" and "100"
        ("mix/max_share", {"max_share": 0.4}, (10, 20, 20)),
        ("mix/cells", {"cells": ["dataset"], "per_cell": 50}, (10, 50, 50)),
        ("mix/tokens", {"tokens": {"small": 30, "large": 300}, "on_shortage": "shrink"}, (10, 0, None)),
    ],
)
def test_rows_of_each(con: sql.Connection, use: str, settings: dict[str, Any], rows: tuple[int | None, ...]) -> None:
    mixed(con, use, **settings)
    found = rows_of(con).values()
    assert [there for there, requested in zip(found, rows, strict=True) if requested is not None] == [
        requested for requested in rows if requested is not None
    ]


def test_what_is_short_is_reported(con: sql.Connection) -> None:
    counts = {"small": 25, "middle": 50}
    stats = mixed(con, "mix/counts", counts=counts, on_shortage="shrink")
    reported = [(row["dataset"], row["target_rows"], row["rows"], row["short_rows"]) for row in stats.reports[0]]
    assert reported == [("large", None, 0, 0), ("middle", 50, 50, 0), ("small", 25, 10, 15), ("all", 75, 60, 15)]
    stats = mixed(con, "mix/counts", counts=counts, on_shortage="repeat")
    reported = [(row["dataset"], row["target_epochs"], row["epochs"], row["tokens"]) for row in stats.reports[0]]
    tokens = dict(
        sql.rows(con, "SELECT dataset, sum(output_tokens)::BIGINT FROM selected GROUP BY dataset"),
    )
    assert reported == [
        ("large", None, 0.0, 0),
        ("middle", 0.5, 0.5, tokens["middle"]),
        ("small", 2.5, 2.5, tokens["small"]),
        ("all", round(75 / 1110, 4), round(75 / 1110, 4), sum(tokens.values())),
    ]


@pytest.mark.parametrize(
    ("use", "settings"),
    [
        ("mix/shares", {"shares": {"a": 0.25, "b": 0.25, "c": 0.25, "d": 0.25}}),
        ("mix/temperature", {"temperature": 1.0}),
        ("mix/unimax", {}),
    ],
)
def test_what_was_asked_is_whole_rows_that_add_up(use: str, settings: dict[str, Any]) -> None:
    even = given.workspace({"dataset": name, "task_id": f"{name}-{number}"} for name in "abcd" for number in range(5))
    reported = mixed(even, use, rows=10, **settings).reports[0]
    assert [(row["target_rows"], row["rows"], row["short_rows"]) for row in reported] == [
        *((3, 3, 0), (3, 3, 0), (2, 2, 0), (2, 2, 0)),
        (10, 10, 0),
    ]
    with pytest.raises(StepError, match="rows -1, fault must be above 0"):
        mixed(even, use, rows=-1, **settings)


def test_tokens_that_nobody_counted_are_not_none() -> None:
    known = given.workspace(
        {"dataset": name, "task_id": name, "output_tokens": n} for name, n in (("a", 3), ("b", None))
    )
    reported = mixed(known, "mix/counts", counts={"a": 1, "b": 1}).reports[0]
    assert [(row["dataset"], row["target_tokens"], row["tokens"], row["share_of_tokens"]) for row in reported] == [
        ("a", 3, 3, 1.0),
        ("b", None, None, None),
        ("all", 3, 3, 1.0),
    ]


def test_a_token_budget_is_kept_to_a_row(con: sql.Connection) -> None:
    stats = mixed(con, "mix/tokens", tokens={"small": 95, "large": 1500}, on_shortage="repeat")
    for row in stats.reports[0][:-1]:
        assert row["target_tokens"] is None or 0 <= row["short_tokens"] < 5
    assert rows_of(con)["small"] > 30, "three whole rounds, and some of a fourth"


def test_the_order_of_hashes() -> None:
    con = given.workspace([])
    assert (
        sql.rows(con, "SELECT unit('a', 7), unit('task-000001', 7)")
        == [(0.23923688221559172, 0.8155699688675246)]
        == [tuple(int(md5(f"{key}:7".encode()).hexdigest()[:15], 16) / 16**15 for key in ("a", "task-000001"))]
    )
