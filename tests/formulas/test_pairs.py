"""Pairs of GSM8K's answers, four of each problem: how many, how long, and what makes none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rolloutops.build.build import build
from rolloutops.config.recipe import StepUse
from rolloutops.errors import StepError
from rolloutops.steps.selection import StepStats, select
from rolloutops.store import sql
from tests import given, gsm8k

LENGTHS = ("pairs", "chosen_length", "rejected_length", "chosen_longer", "chosen_longer_by")


def paired(con: sql.Connection, use: str, *before: StepUse, **settings: Any) -> StepStats:
    return select(con, [*before, StepUse("pair", "made", use, settings)], Path())[-1]


@pytest.mark.parametrize(
    ("use", "settings", "told"),
    [
        # rule                                                          pairs  chosen  rejected  chosen longer, by
        ("pair/best_worst", {"ties": "first"}, (731, 277.91, 271.82, 409, 6.10)),
        ("pair/best_worst", {"ties": "shortest"}, (731, 255.80, 225.59, 434, 30.21)),
        ("pair/best_worst", {"ties": "first", "max_length_gap": 0.2}, (286, None, None, None, 4.94)),
        ("pair/best_worst", {"ties": "shortest", "max_length_gap": 0.2}, (263, None, None, None, 4.31)),
        ("pair/all", {}, (2429, 279.07, 272.30, 1309, 6.77)),
        ("pair/all", {"max_length_gap": 0.2}, (980, None, None, None, 1.65)),
        ("pair/best_second", {"ties": "first"}, (731, 277.91, 271.82, 409, 6.10)),
        ("pair/adjacent", {"ties": "first"}, (731, 277.91, 271.82, 409, 6.10)),
        ("pair/best_random", {"ties": "first"}, (731, 277.91, None, None, None)),
        # every wrong answer of the 731 problems
        ("pair/best_random", {"ties": "first", "pairs_per_task": 3}, (2924 - 1377, None, None, None, None)),
    ],
)
def test_how_many_and_how_long(gsm8k: Any, use: str, settings: dict[str, Any], told: tuple[float | None, ...]) -> None:
    report = paired(gsm8k, use, **settings).reports[0][0]
    expected = dict(zip(LENGTHS, told, strict=True))
    assert {name: report[name] for name in LENGTHS if expected[name] is not None} == {
        name: value for name, value in expected.items() if value is not None
    }


def test_best_of_n_the_shortest_of_the_best(gsm8k: Any) -> None:
    """What goes into SFT: of each problem that was solved, the shortest right answer."""
    settings = {"min_reward": 1.0, "ties": "shortest"}
    select(gsm8k, [StepUse("filter", "best", "filter/best_of_n", settings)], Path())
    assert sql.rows(gsm8k, "SELECT count(*), count(DISTINCT task_id), sum(length(text)) FROM selected") == [
        (887, 887, 211_631)
    ]


def test_reward_and_length_hardly_go_together(gsm8k: Any) -> None:
    report = paired(gsm8k, "pair/best_worst").reports[0][0]
    lengths = "SELECT reward, length(text) AS length FROM rollouts"
    ranks = ", ".join(
        f"rank() OVER (ORDER BY {name}) + (count(*) OVER (PARTITION BY {name}) - 1) / 2 AS {name}"
        for name in ("reward", "length")
    )
    [(spearman,)] = sql.rows(gsm8k, f"SELECT corr(reward, length) FROM (SELECT {ranks} FROM ({lengths}))")
    assert report["reward_length_rank_correlation"] == round(spearman, 4)


def test_one_policy_against_another(tmp_path: Path) -> None:
    """The larger model against the smaller, on each problem where they do not say the same, whoever is right."""
    con = gsm8k_by_policy()
    models = {"chosen_policy": "175b_verification", "rejected_policy": "6b_finetuning"}
    reported = "count(*) FILTER (b.text <> s.text), count(*) FILTER (b.reward > s.reward)"
    sides = "FROM rollouts AS b JOIN rollouts AS s USING (task_id) WHERE b.policy = '175b_verification'"
    [(different, better)] = sql.rows(con, f"SELECT {reported} {sides} AND s.policy = '6b_finetuning'")
    assert paired(con, "pair/by_policy", **models).reports[0][0]["pairs"] == different
    assert sql.rows(con, "SELECT DISTINCT policy, role, margin FROM selected ORDER BY ALL") == [
        ("175b_verification", "chosen", None),
        ("6b_finetuning", "rejected", None),
    ]
    assert paired(con, "pair/by_policy", min_margin=1.0, **models).reports[0][0]["pairs"] == better


@pytest.mark.parametrize(("asked", "rated"), [({}, False), ({"min_margin": 0.5}, True)])
def test_a_side_is_rated_where_pairs_go_by_rewards(tmp_path: Path, asked: dict[str, float], rated: bool) -> None:
    """The strong policy is chosen also where the weak one earned more: as ratings these would say the opposite."""
    con = given.workspace(
        {"task_id": task, "policy": policy, "text": policy, "reward": reward}
        for task, policy, reward in (("a", "big", 1.0), ("a", "small", 0.0), ("b", "big", 0.0), ("b", "small", 1.0))
    )
    models = {"chosen_policy": "big", "rejected_policy": "small"}
    stats = select(con, [StepUse("pair", "made", "pair/by_policy", {**models, **asked})], Path())
    build(con, StepUse("build", "it", "build/reward_model"), Path(), tmp_path / "out", stats)
    lines = [json.loads(line) for line in (tmp_path / "out" / "train.jsonl").read_text("utf-8").splitlines()]
    reported = {"margin": 1.0, "chosen_rating": 1.0, "rejected_rating": 0.0} if rated else {}
    assert [{key: line[key] for key in line if key not in ("chosen", "rejected")} for line in lines] == (
        [reported] if rated else [reported, reported]
    )


def gsm8k_by_policy() -> sql.Connection:
    return gsm8k.workspace(policies=True)


ROWS = [
    {"task_id": task, "rollout_index": index, "reward": reward, "text": f"{task}{index}"}
    for task, rewards in {"a": (0.0, 0.5, 1.0), "b": (0.0, 1.0)}.items()
    for index, reward in enumerate(rewards)
]


def test_a_mix_does_not_make_more_pairs() -> None:
    """Repeated rollouts are one answer each; a rollout in several pairs has a copy number for each."""
    con = given.workspace(ROWS)
    twice = StepUse("mix", "m", "mix/shares", {"shares": {"d": 1.0}, "rows": 10, "on_shortage": "repeat"})
    stats = paired(con, "pair/all", twice)
    assert (stats.rows_in, stats.kept, stats.rows) == (10, 10, 8)
    found = sql.rows(
        con, "SELECT task_id, rollout_index, list(copy ORDER BY copy) FROM selected GROUP BY ALL ORDER BY ALL"
    )
    assert found == [("a", 0, [0, 1]), ("a", 1, [0, 1]), ("a", 2, [0, 1]), ("b", 0, [0]), ("b", 1, [0])]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "SELECT s.*, 'x' AS pair, 'chosen' AS role FROM selected AS s",
            "must return the columns pair, role and margin; missing: margin",
        ),
        (
            "SELECT *, task_id AS pair, if(reward = 1, 'chosen', 'rejected') AS role, 1 AS margin FROM selected",
            "returns an invalid pair: a has not one rollout as chosen and one as rejected",
        ),
        (
            "SELECT *, 'x' AS pair, if(task_id = 'a', 'chosen', 'rejected') AS role, 1 AS margin FROM selected "
            "WHERE reward = 1",
            "returns an invalid pair: x has rollouts of two tasks",
        ),
    ],
)
def test_what_is_no_pair_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "own.sql").write_text(f"-- Mine.\n{text}\n", encoding="utf-8")
    with pytest.raises(StepError) as caught:
        select(given.workspace(ROWS), [StepUse("pair", "p", "own", {})], tmp_path)
    assert message in str(caught.value)


def test_pairs_stay_whole() -> None:
    """A filter after a pair step keeps both sides or none, and pairs are not made of pairs."""
    con = given.workspace(ROWS)
    best = StepUse("pair", "best", "pair/best_worst")
    with pytest.raises(StepError, match=r"\[filter.good\] .* returns an invalid pair: d/a/p/2/p/0 has not one"):
        select(con, [best, StepUse("filter", "good", "filter/reward", {"min_reward": 0.8})], Path())
    with pytest.raises(StepError, match=r"\[pair.more\] cannot start from pairs \(those of 'best'\)"):
        select(con, [best, StepUse("pair", "more", "pair/all")], Path())
    select(con, [best, StepUse("pair", "more", "pair/all", {}, "rollouts")], Path())
    assert sql.rows(con, "SELECT count(*) FROM selected") == [(8,)]
