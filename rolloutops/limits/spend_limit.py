"""What a collection may spend, and what it has spent: tokens, and money where the prices are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rolloutops.config.paths import as_path
from rolloutops.config.plan import CollectPlan
from rolloutops.config.redact import tell
from rolloutops.config.settings import Collect
from rolloutops.errors import UsageError
from rolloutops.formats.strict_json import digest
from rolloutops.layout import count
from rolloutops.limits.prices import Price, Prices, load, price_of, spent
from rolloutops.limits.shared_counter import SharedCounter, Spending
from rolloutops.limits.token_estimate import CHARACTERS, estimate, estimate_prompts
from rolloutops.store.workspace import Workspace, connect

KINDS = ("input", "cached", "output")
NO_USAGE = (
    f"replies without usage: budgets and costs count an estimate, one token per {CHARACTERS} characters "
    "(status shows how many)"
)
COUNTED = ("max_tokens_total", "max_cost", "prices", "tokens_per_minute", "token_budget")
"""Keys of [collect] that need the tokens of each answer."""


@dataclass(slots=True)
class SpendLimit:
    """The limits of one engine's collection and the running totals, earlier runs on the same policies included, and
    models that judge.

    cost is None as soon as one model's price is not known. What is in flight is expected to take the average of what
    has ended; before anything has, nothing is known, and the first rollouts in flight may exceed a tiny budget.
    counter: where the processes that collect the same at once add up what they spend. processes: how many of them a
    command started; each is expected to have as many in flight as this one. What others have in flight is not known.
    """

    max_tokens: float | None = None
    max_cost: float | None = None
    prices: Prices = field(default_factory=dict)
    tokens: int = 0
    cost: float | None = 0.0
    cost_failed: float = 0.0
    attempts: int = 0
    counter: SharedCounter | None = None
    must_say: bool = False
    processes: int = 1
    _looked_up: dict[tuple[str, str | None], Price | None] = field(default_factory=dict)

    def allows(self, in_flight: int) -> bool:
        """Whether one more rollout may start while so many are in flight, each expected to take the average."""
        return not self.reached(in_flight)

    def reached(self, in_flight: int) -> str:
        """The key of the limit that one more rollout would exceed, while so many are in flight; empty where none."""
        if self.max_tokens is None and self.max_cost is None:
            return ""
        if self.counter is not None:
            self._take(self.counter.total())
        grown = 1 + (in_flight * self.processes + 1) / max(self.attempts, 1)
        if self.max_tokens is not None and self.tokens * grown > self.max_tokens:
            return "max_tokens_total"
        if self.max_cost is not None and (self.cost is None or self.cost * grown > self.max_cost):
            return "max_cost"
        return ""

    def count_attempt(self, row: Mapping[str, Any], tier: str | None, prompt: Sequence[Mapping[str, Any]] = ()) -> None:
        """Count an attempt's row; tokens that it does not tell are estimated. tier: the one asked for; the one that the
        answer names goes before it. prompt: the task's own."""
        missing = row.get("input_tokens") is None or row.get("output_tokens") is None
        if missing and row.get("completion") is not None:
            row = {**row, **_estimated(row, prompt)}
            if self.must_say:
                self.must_say = False
                tell("", NO_USAGE)
        self._count(row, tier, 1)

    def count_verdict(self, metrics: Mapping[str, float], details: Mapping[str, Any]) -> None:
        """Count what a model took to judge, where a verdict tells."""
        if metrics.get("judge_calls"):
            row = {f"{kind}_tokens": int(metrics.get(f"judge_{kind}_tokens", 0)) for kind in KINDS}
            named = {"model": str(details.get("judge_model")), "service_tier": details.get("judge_service_tier")}
            self._count({**row, **named}, None, 0)

    def _count(self, row: Mapping[str, Any], tier: str | None, attempts: int) -> None:
        prompt, output = row.get("input_tokens") or 0, row.get("output_tokens") or 0
        cost = self._cost(row, tier) if self.prices and prompt + output else 0.0
        self.cost_failed += (cost or 0.0) if row.get("error") else 0.0
        if self.counter is not None:
            self._take(self.counter.add(Spending(prompt + output, cost, attempts)))
            return
        self.tokens += prompt + output
        self.attempts += attempts
        self.cost = None if cost is None or self.cost is None else self.cost + cost

    def flush(self) -> None:
        """Tell other processes what was spent."""
        if self.counter is not None:
            self.counter.flush()

    def close(self) -> None:
        """Let go of the counter."""
        if self.counter is not None:
            self.counter.close()

    @property
    def spending(self) -> Spending:
        """The running totals."""
        return Spending(self.tokens, self.cost, self.attempts)

    def _take(self, total: Spending) -> None:
        self.tokens, self.attempts = int(total.tokens), int(total.attempts)
        self.cost = total.cost

    def _cost(self, row: Mapping[str, Any], tier: str | None) -> float | None:
        named = (row["model"], row.get("service_tier") or tier)
        if named not in self._looked_up:
            self._looked_up[named] = price_of(self.prices, *named)
        price = self._looked_up[named]
        tokens = (row.get(f"{kind}_tokens") or 0 for kind in KINDS)
        return price.of(*tokens) if price else None

    def note(self, left: int) -> str:
        """Cost so far, projected over what is left, and on failures; empty where no prices are given."""
        if not self.prices:
            return ""
        if self.cost is None:
            return "cost n/a"
        projected = self.cost * (1 + left / max(self.attempts, 1))
        failed = f", {self.cost_failed:,.2f} of it on failures" if self.cost_failed else ""
        return f"cost {self.cost:,.2f}{failed}, {projected:,.2f} projected"

    def why(self, in_flight: int = 0) -> str:
        """Why no more may be spent, and which key to raise."""
        if self.max_cost is not None and self.cost is None:
            return "max_cost needs a price for every model used so far: add them to the price table"
        cost = f", cost {self.cost:,.2f}" if self.max_cost is not None and self.cost is not None else ""
        limits = {"max_tokens_total": self.max_tokens, "max_cost": self.max_cost}
        rows = ", ".join(f"{name} is {limit:,g}" for name, limit in limits.items() if limit is not None)
        key = self.reached(in_flight) or next(name for name, limit in limits.items() if limit is not None)
        return f"the budget is spent ({count(self.tokens, 'token')}{cost}; {rows}): raise {key} to collect the rest"


def _estimated(row: Mapping[str, Any], prompt: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """The tokens of an attempt's row, estimated where it does not tell them."""
    completion = estimate(row["completion"])
    sent = estimate_prompts(estimate(row.get("prompt") or prompt), completion, row.get("turns") or 1)
    rows = {"input_tokens": sent, "output_tokens": completion}
    return {name: guess if row.get(name) is None else row[name] for name, guess in rows.items()}


def price_table(settings: Collect, folder: Path) -> Prices:
    """The prices that [collect] names, none where it names none. folder: where a relative path is looked for too."""
    if settings.prices is None:
        return {}
    path = as_path(settings.prices)
    return load(path if path.exists() else folder / path)


def tier_of(settings: Collect) -> str | None:
    """The service tier that is asked for; what goes through the batch engine is billed as `batch`."""
    return "batch" if settings.engine == "batch" else settings.responses_create_params.get("service_tier")


def open_shared_spend_limit(workspace: Workspace, collect_plan: CollectPlan, folder: Path) -> SpendLimit:
    """The spend limit of datasets and policies that several processes may collect at once; to be closed."""
    first = next(iter(collect_plan.values()))
    if first.max_tokens_total is None and first.max_cost is None:
        return open_spend_limit(workspace, collect_plan, folder)
    counter = SharedCounter(workspace.root / "locks", f"spent-{digest(sorted(map(list, collect_plan)))[:16]}")
    try:
        spend_limit = open_spend_limit(workspace, collect_plan, folder)
        counter.begin(spend_limit.spending)
    except BaseException:
        counter.close()
        raise
    spend_limit.counter = counter
    return spend_limit


def open_spend_limit(workspace: Workspace, collect_plan: CollectPlan, folder: Path) -> SpendLimit:
    """The spend limit of one engine's datasets and policies. folder: where a relative price table is looked for too.

    Raises UsageError where money is limited and a price is not known.
    """
    first = next(iter(collect_plan.values()))
    prices = price_table(first, folder)
    limited = first.max_tokens_total is not None or first.max_cost is not None
    before = spent(connect(workspace), prices) if limited or prices else []
    spend_limit = SpendLimit(first.max_tokens_total, first.max_cost, prices)
    spend_limit.must_say = any(getattr(how, name) is not None for how in collect_plan.values() for name in COUNTED)
    for one in before:
        if (one.dataset, one.policy) in collect_plan:
            spend_limit.tokens += one.tokens
            spend_limit.attempts += one.attempts if one.spent_on == "rollouts" else 0
            if prices and one.tokens and spend_limit.cost is not None:
                spend_limit.cost = None if one.cost is None else spend_limit.cost + one.cost
                spend_limit.cost_failed += one.cost_failed or 0.0
    if first.max_cost is not None:
        for how in collect_plan.values():
            tier = tier_of(how)
            if not how.model:
                raise UsageError(f"max_cost needs a price, and the engine {how.engine} has no model: set model = …")
            if price_of(prices, how.model, tier) is None:
                named = f"{how.model!r}" + (f" at the tier {tier!r}" if tier else "")
                raise UsageError(f"max_cost needs the price of {named}: name a table that has it with prices = …")
        if spend_limit.cost is None:
            raise UsageError("max_cost needs the prices of all models that answered so far: add them to the table")
    return spend_limit
