"""Prices and budgets: an unknown price is unknown, never nothing, and what may be spent is not exceeded."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from rolloutops.errors import RolloutopsError
from rolloutops.limits.prices import Price, load, price_of, spent
from rolloutops.limits.spend_limit import SpendLimit
from rolloutops.store.workspace import connect, open_workspace
from tests.helpers import command, environ, query, rolloutops, sums, write_jsonl
from tests.loopback import Loopback, serving

TABLE = """
["m"]
input = 1.0
cached = 0.1
output = 10.0
["m".flex]
input = 0.5
output = 5.0
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_jsonl(tmp_path / "tasks.jsonl", sums(100))
    (tmp_path / "prices.toml").write_text(TABLE)
    (tmp_path / "r.toml").write_text(
        'data = "w"\n[datasets.sums]\ninput = "tasks.jsonl"\nenvironment = "exact_match"\n'
    )
    rolloutops("chunk", "r.toml", cwd=tmp_path)
    return tmp_path


def test_a_price_is_of_a_million_tokens_and_cached_ones_are_cheaper() -> None:
    assert Price(1.0, 10.0, 0.1).of(1_000_000, 400_000, 100_000) == pytest.approx(0.6 + 0.04 + 1.0)


def test_models_are_looked_up_with_tier_and_without_date(tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text(TABLE)
    prices = load(tmp_path / "p.toml")
    assert price_of(prices, "m") == price_of(prices, "m-2026-01-31") == price_of(prices, "m", "default")
    assert price_of(prices, "m", "flex") == Price(0.5, 5.0, 0.5)
    assert price_of(prices, "other") is None
    assert price_of(prices, "m", "priority") is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("m = 1", '["m"]'),
        ("[m]\ninput = 1", "output is missing"),
        ("[m]\ninput = -1\noutput = 1", "input must be 0 or more, not -1"),
        ("[m]\ninputs = 1\noutput = 1\ninput = 1", "no key 'inputs', did you mean 'input'?"),
        ("[m]\ninput = 'cheap'\noutput = 1", "input must be a number, not 'cheap'"),
        ("[m]\ninput = inf\noutput = 1", "input must be a JSON value (no dates, NaN or infinity), not inf"),
        ("[m.flex]\ninput = 1", "[m.flex]: output is missing: of a million generated tokens"),
        ("[m", "is not TOML"),
    ],
)
def test_a_wrong_table_is_told(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "p.toml").write_text(text)
    with pytest.raises(RolloutopsError) as error:
        load(tmp_path / "p.toml")
    assert said in str(error.value)


def test_an_unknown_price_makes_the_cost_unknown() -> None:
    spend_limit = SpendLimit(prices={("m", ""): Price(1.0, 1.0, 1.0)})
    spend_limit.count_attempt(
        {"model": "m", "input_tokens": 500_000, "output_tokens": 500_000, "error": "timeout"}, None
    )
    assert spend_limit.note(1) == "cost 1.00, 1.00 of it on failures, 2.00 projected"
    spend_limit.count_attempt({"model": "x", "input_tokens": 1, "output_tokens": 1}, None)
    assert spend_limit.note(1) == "cost n/a"


def test_a_token_budget_holds_over_runs_and_the_rest_stays_pending(folder: Path) -> None:
    given = ("--data=w", "--engine=openai", "--model=m", "--endpoint=chat", "--num_samples_in_parallel=4")
    with serving() as server:
        words = ("collect", *given, f"--base_url={server.url}", "--prices=prices.toml")
        few = "--max_tokens_total=400"
        said = rolloutops(*words, few, cwd=folder, code=2).stderr
        assert "the budget is spent" in said
        assert "max_tokens_total is 400" in said
        first = query(folder / "w", "SELECT sum(input_tokens + output_tokens) FROM attempts")[0][0]
        assert 300 <= first <= 400
        rolloutops(*words, few, cwd=folder, code=2)
        assert query(folder / "w", "SELECT sum(input_tokens + output_tokens) FROM attempts")[0][0] <= 400
        rolloutops(*words, "--max_tokens_total=100000", cwd=folder)
        assert query(folder / "w", "SELECT (SELECT count(*) FROM rollouts), (SELECT count(*) FROM pending)") == [
            (100, 0)
        ]
        (one,) = spent(connect(open_workspace(folder / "w")), load(folder / "prices.toml"))
        assert one.attempts == 100
        assert one.cost == pytest.approx(
            (one.input_tokens - one.cached_tokens) / 1e6 + one.cached_tokens / 1e7 + one.output_tokens / 1e5
        )
        assert one.cost_failed == 0


def test_a_budget_is_that_of_all_policies_that_name_it(folder: Path) -> None:
    with serving() as server:
        (folder / "r.toml").write_text(
            f"""
            data = "w"
            [datasets.sums]
            input = "tasks.jsonl"
            [collect]
            engine = "openai"
            base_url = "{server.url}"
            num_samples_in_parallel = 4
            max_tokens_total = 500
            [policies.x]
            model = "m"
            [policies.y]
            model = "n"
            """
        )
        said = rolloutops("collect", "r.toml", cwd=folder, code=2)
    assert "wait for another process" not in said.stderr, "there is none"
    assert 400 <= query(folder / "w", "SELECT sum(input_tokens + output_tokens) FROM attempts")[0][0] <= 500


def test_a_spent_budget_ends_the_documented_loop_and_names_the_key(folder: Path) -> None:
    """Exit code 3 would let the loop of docs/howto/resume.md ask again and again, with nothing to gain."""
    given = ("--data=w", "--engine=scripted", "--model=m", "--prices=prices.toml", "--max_tokens_total=100000")
    for command_, rest in (("collect", ""), ("run", "stopped because a budget is spent and rollouts are pending")):
        said = rolloutops(command_, "r.toml", *given, "--max_cost=0.0005", cwd=folder, code=2).stderr
        assert said.count("raise max_cost to collect the rest") == 1, "of the two limits the one that is spent"
        assert "again" not in said
        assert rest in said
    runs = "SELECT command, exit_code FROM runs WHERE event = 'end' AND command = 'collect'"
    assert query(folder / "w", runs) == [("collect", 2)] * 2


def test_a_budget_is_that_of_all_processes(folder: Path) -> None:
    """Three collect at once, four rollouts in flight each: no more comes on top than what the others have in flight."""
    rolloutops("chunk", "r.toml", "--data=v", "--rows_per_part=10", cwd=folder)
    with serving(latency=0.1) as server:
        given = ("--data=v", "--engine=openai", "--model=m", "--num_samples_in_parallel=4")
        words = ("collect", *given, f"--base_url={server.url}")
        running = [
            subprocess.Popen(
                command(*words, "--max_tokens_total=400"),
                cwd=folder,
                env=environ(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            for _ in range(3)
        ]
        assert [process.wait(timeout=600) for process in running] == [2, 2, 2]
        total = "SELECT sum(input_tokens + output_tokens), max(input_tokens + output_tokens) FROM attempts"
        together, each = query(folder / "v", total)[0]
        assert 300 <= together <= 400 + 8 * each
        rolloutops(*words, "--max_tokens_total=100000", cwd=folder)
    assert query(folder / "v", "SELECT count(*) FROM rollouts") == [(100,)]


class Billed(Loopback):
    """Every third answer was served as flex, as asked; for the others there was no room: they cost the full price."""

    def _reply(
        self, endpoint: str, body: dict[str, Any], messages: list[dict[str, Any]]
    ) -> tuple[dict[str, Any], bool]:
        assert body["service_tier"] == "flex"
        reply, called = super()._reply(endpoint, body, messages)
        return {**reply, "service_tier": "default" if self.seen % 3 else "flex"}, called


def test_what_counts_is_the_tier_that_was_billed(folder: Path) -> None:
    words = ("collect", "--data=w", "--engine=openai", "--model=m", "--prices=prices.toml", "--service_tier=flex")
    with serving(Billed) as server:
        rolloutops(*words, f"--base_url={server.url}", "--limit=30", cwd=folder)
        rolloutops(*words[:-1], f"--base_url={server.url}", "--limit=30", cwd=folder)
    full, flex = spent(connect(open_workspace(folder / "w")), load(folder / "prices.toml"))
    assert (full.tier, full.attempts, flex.tier, flex.attempts) == ("default", 20, "flex", 10)
    a_token = [
        (one.cost or 0) / (one.output_tokens * 10 + one.input_tokens - one.cached_tokens) for one in (full, flex)
    ]
    assert a_token[1] == pytest.approx(a_token[0] / 2, rel=0.05)


def test_status_tells_the_cost_so_far_on_failures_and_of_what_is_pending(folder: Path) -> None:
    given = ("--data=w", "--engine=scripted", "--model=m", "--retry_seconds=0.01", "--prices=prices.toml")
    rolloutops("collect", *given, "--limit=40", cwd=folder)
    reported = json.loads(rolloutops("status", "--data=w", "--json", cwd=folder).stdout)
    (row,) = reported["spending"]
    assert (row["attempts"], row["cost_failed"], row["cost_pending"]) == (40, 0, 0)
    assert row["cost"] == pytest.approx((row["input_tokens"] + 10 * row["output_tokens"]) / 1e6)
    rolloutops("collect", *given, "--limit=50", "--max_tokens_total=1", cwd=folder, code=2)
    reported = json.loads(rolloutops("status", "--data=w", "--json", cwd=folder).stdout)
    assert reported["spending"][0]["cost_pending"] == pytest.approx(row["cost"] / 4)
    (folder / "prices.toml").write_text("[other]\ninput = 1\noutput = 1\n")
    said = rolloutops("status", "--data=w", cwd=folder).stdout
    assert "cost_pending" in said
    assert said.count("n/a") == 3


def test_a_price_that_turns_out_to_be_unknown_ends_a_run_with_max_cost() -> None:
    spend_limit = SpendLimit(max_cost=1.0, prices={("m", ""): Price(1.0, 1.0, 1.0)})
    assert spend_limit.allows(0)
    spend_limit.count_attempt({"model": "m", "service_tier": "priority", "input_tokens": 1, "output_tokens": 1}, None)
    assert not spend_limit.allows(0)
    assert "needs a price for every model" in spend_limit.why()


def test_a_money_budget_needs_a_price_and_holds(folder: Path) -> None:
    given = ("collect", "--data=w", "--engine=openai", "--endpoint=chat", "--num_samples_in_parallel=4")
    with serving() as server:
        words = (*given, f"--base_url={server.url}", "--prices=prices.toml", "--max_cost=0.001")
        assert "needs the price of 'x'" in rolloutops(*words, "--model=x", cwd=folder, code=2).stderr
        rolloutops(*words, "--model=m", cwd=folder, code=2)
        scripted = ("collect", "--data=w", "--engine=scripted", "--prices=prices.toml", "--max_cost=1")
        assert "the engine scripted has no model: set model" in rolloutops(*scripted, cwd=folder, code=2).stderr
        (one,) = spent(connect(open_workspace(folder / "w")), load(folder / "prices.toml"))
    assert one.cost is not None
    assert 0.0005 < one.cost <= 0.001
