"""What a batch may cost: estimated before it is submitted, since afterwards nothing can be taken back.

A request is expected to have a token for each four characters, and as many tokens in its answer as it allows, else as
rollouts had on average so far. What is under way counts as it was expected when it was submitted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rolloutops.collect.attempt import PendingRollout
from rolloutops.config.plan import CollectPlan
from rolloutops.layout import count
from rolloutops.limits.prices import Price, price_of
from rolloutops.limits.spend_limit import SpendLimit, open_spend_limit, tier_of
from rolloutops.limits.token_estimate import CHARACTERS
from rolloutops.store import sql
from rolloutops.store.workspace import Workspace, connect

UNKNOWN = 1024
"""Tokens of an answer that may be of any length, before any is known."""

UNDER_WAY = """
SELECT coalesce(sum((counts ->> '$.expected_tokens')::DOUBLE), 0) AS tokens,
    coalesce(sum((counts ->> '$.expected_cost')::DOUBLE), 0) AS cost
FROM jobs SEMI JOIN open_jobs USING (job_id)
WHERE event = 'intended'
"""

OUTPUT = "SELECT avg(output_tokens) FROM attempts WHERE error IS NULL"


@dataclass
class BatchBudget:
    """What may still be submitted. tokens, cost: what was spent, and is expected of what is under way. prices: by
    dataset and policy; None where one is not known."""

    spend_limit: SpendLimit
    prices: Mapping[tuple[str, str], Price | None]
    output: float
    tokens: float
    cost: float

    def takes(self, pending: PendingRollout, size: int) -> tuple[float, float] | None:
        """The tokens and the cost that a request of `size` characters is expected to have; None if they exceed what may
        be spent."""
        prompt = size / CHARACTERS
        output = float(pending.params.get("max_output_tokens") or self.output)
        price = self.prices.get((pending.task.dataset, pending.policy))
        tokens, cost = prompt + output, price.of(int(prompt), 0, int(output)) if price else 0.0
        most_tokens, most_cost = self.spend_limit.max_tokens, self.spend_limit.max_cost
        if most_tokens is not None and self.tokens + tokens > most_tokens:
            return None
        if most_cost is not None and self.cost + cost > most_cost:
            return None
        self.tokens += tokens
        self.cost += cost
        return tokens, cost

    def why(self) -> str:
        """Why no more is submitted."""
        cost = f", cost {self.cost:,.2f}" if self.spend_limit.max_cost is not None else ""
        both = {"max_tokens_total": self.spend_limit.max_tokens, "max_cost": self.spend_limit.max_cost}
        limits = {name: limit for name, limit in both.items() if limit is not None}
        answers = ", ".join(f"{name} is {limit:,g}" for name, limit in limits.items())
        spent = f"{count(round(self.tokens), 'token')}{cost} spent, or expected for submitted jobs"
        return f"no more is submitted: {spent}; {answers}: raise {' or '.join(limits)} to submit the rest"


def allowance(workspace: Workspace, collect_plan: CollectPlan, folder: Path) -> BatchBudget:
    """What the datasets and policies of the batch engine may still spend.

    Raises UsageError where money is limited and a price is not known.
    """
    spend_limit = open_spend_limit(workspace, collect_plan, folder)
    con = connect(workspace)
    tokens, cost = sql.rows(con, UNDER_WAY)[0]
    output = sql.rows(con, OUTPUT)[0][0]
    prices = {key: price_of(spend_limit.prices, how.model, tier_of(how)) for key, how in collect_plan.items()}
    return BatchBudget(
        spend_limit, prices, float(output or UNKNOWN), spend_limit.tokens + tokens, (spend_limit.cost or 0.0) + cost
    )
