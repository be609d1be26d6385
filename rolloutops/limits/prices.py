"""What tokens cost: a price table that the user owns, and what a workspace has spent.

    ["gpt-5-mini"]            # the model, as its answers name it; a dated name is looked up without its date too
    input = 0.25              # per million tokens
    cached = 0.025            # prompt tokens from a prefix cache (default: as input)
    output = 2.0
    ["gpt-5-mini".flex]       # answers that say that they were served as "flex"
    input = 0.125
    output = 1.0
    ["gpt-5-mini".batch]      # what the batch engine asked
    input = 0.125
    output = 1.0

What counts is the tier that the answer names; where it names none, the one that was asked for. A model, or a tier of
it, without a price costs an unknown amount, never nothing.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rolloutops.config.validation import Key, Keys, check_table
from rolloutops.errors import InputError, UsageError
from rolloutops.store import sql

MILLION = 1_000_000
RATES: Keys = {
    "input": Key(float, about="of a million prompt tokens", least=0, required=True),
    "cached": Key(float, about="of a million prompt tokens from a prefix cache (default: as input)", least=0),
    "output": Key(float, about="of a million generated tokens", least=0, required=True),
}
"""A price: the keys of a model's table and of its service tiers'."""
DATED = re.compile(r"-(\d{4}-\d{2}-\d{2}|\d{8})$")

SPENT = """
-- What each dataset and policy has spent on rollouts, and on verdicts that a model gave, by model and service tier;
-- and what of it on attempts that failed.
-- Answers without usage count as token_estimate.py estimates them; imported ones cost nothing here.
WITH untold AS (
    SELECT dataset, attempt_id, task_id, prompt, greatest(coalesce(turns, 1), 1) AS turns,
        ceil(length(completion::VARCHAR) / 4)::BIGINT AS completion
    FROM attempts
    WHERE (input_tokens IS NULL OR output_tokens IS NULL) AND error IS NULL AND completion IS NOT NULL
        AND NOT starts_with(engine, 'import')
),
estimates AS (
    SELECT u.dataset, u.attempt_id, u.completion AS output_tokens,
        u.turns * ceil(coalesce(length(coalesce(u.prompt, t.prompt)::VARCHAR), 0) / 4)::BIGINT
            + (u.turns - 1) * u.completion // 2 AS input_tokens
    FROM untold AS u
    LEFT JOIN tasks AS t ON t.dataset = u.dataset AND t.task_id = u.task_id
),
calls AS (
    SELECT a.dataset, a.policy, 'rollouts' AS spent_on, a.model,
        CASE
            WHEN a.engine = 'batch' THEN 'batch'
            ELSE coalesce(a.service_tier, json_extract_string(a.request, '$.service_tier'))
        END AS tier,
        1 AS attempts, coalesce(a.input_tokens, e.input_tokens) AS input_tokens, a.cached_tokens,
        coalesce(a.output_tokens, e.output_tokens) AS output_tokens, a.error,
        CASE WHEN a.input_tokens IS NULL THEN coalesce(e.input_tokens, 0) ELSE 0 END
            + CASE WHEN a.output_tokens IS NULL THEN coalesce(e.output_tokens, 0) ELSE 0 END AS estimated_tokens
    FROM attempts AS a
    LEFT JOIN estimates AS e ON e.dataset = a.dataset AND e.attempt_id = a.attempt_id
    UNION ALL
    SELECT dataset, policy, 'verdicts', json_extract_string(details, '$.judge_model'),
        json_extract_string(details, '$.judge_service_tier'),
        metrics['judge_calls'], metrics['judge_input_tokens'], metrics['judge_cached_tokens'],
        metrics['judge_output_tokens'], error, 0
    FROM verdicts
    WHERE metrics['judge_calls'] > 0 AND NOT coalesce(cached, false)
)
SELECT dataset, policy, spent_on, model, tier, sum(attempts)::BIGINT AS attempts,
    coalesce(sum(input_tokens), 0)::BIGINT AS input_tokens, coalesce(sum(cached_tokens), 0)::BIGINT AS cached_tokens,
    coalesce(sum(output_tokens), 0)::BIGINT AS output_tokens,
    coalesce(sum(estimated_tokens), 0)::BIGINT AS estimated_tokens,
    coalesce(sum(input_tokens) FILTER (WHERE error IS NOT NULL), 0)::BIGINT AS failed_input_tokens,
    coalesce(sum(cached_tokens) FILTER (WHERE error IS NOT NULL), 0)::BIGINT AS failed_cached_tokens,
    coalesce(sum(output_tokens) FILTER (WHERE error IS NOT NULL), 0)::BIGINT AS failed_output_tokens
FROM calls
GROUP BY dataset, policy, spent_on, model, tier
ORDER BY dataset, policy, spent_on, model, tier
"""


@dataclass(frozen=True)
class Price:
    """Of a million tokens, in the table's currency."""

    input: float
    output: float
    cached: float

    def of(self, input_tokens: int, cached_tokens: int, output_tokens: int) -> float:
        """Cached tokens are among the input tokens."""
        cached = min(cached_tokens, input_tokens)
        return ((input_tokens - cached) * self.input + cached * self.cached + output_tokens * self.output) / MILLION


Prices = Mapping[tuple[str, str], Price]
"""(model, service tier or "") -> price."""


@dataclass(frozen=True)
class Spent:
    """What a dataset and policy has spent with one model at one tier. spent_on: rollouts, or verdicts, where a model
    judges; attempts then are its calls. failed_tokens: of attempts that failed. estimated_tokens: of answers that
    did not tell theirs. cost and cost_failed are None where no price is known."""

    dataset: str
    policy: str
    spent_on: str
    model: str
    tier: str | None
    attempts: int
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    failed_tokens: int
    estimated_tokens: int
    cost: float | None
    cost_failed: float | None

    @property
    def tokens(self) -> int:
        """Of prompts and answers."""
        return self.input_tokens + self.output_tokens


def load(path: Path) -> Prices:
    """Read a price table; a mistake in it is a sentence that names the model and the key."""
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read the prices in {path}: {error.strerror}") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path} is not TOML: {error}") from None
    models = {model: Key(dict[str, Any], words=f'a table of prices, ["{model}"]', finite=False) for model in tables}
    check_table(models, tables, f"{path}: ")
    prices: dict[tuple[str, str], Price] = {}
    for model, table in tables.items():
        own = {name: value for name, value in table.items() if not isinstance(value, dict)}
        if own or not table:
            prices[model, ""] = _price(own, f"{path} [{model}]: ")
        for tier, rates in table.items():
            if isinstance(rates, dict):
                prices[model, tier] = _price(rates, f"{path} [{model}.{tier}]: ")
    return prices


def price_of(prices: Prices, model: str, tier: str | None = None) -> Price | None:
    """The price of a model's tokens at a service tier; None where the table has none."""
    named = "" if tier in (None, "default", "auto", "standard") else str(tier)
    return prices.get((model, named)) or prices.get((DATED.sub("", model), named))


def spent(con: sql.Connection, prices: Prices | None = None) -> list[Spent]:
    """What the workspace behind a connection has spent."""
    found = []
    for row in sql.records(con, SPENT):
        price = price_of(prices or {}, row["model"] or "", row["tier"])
        kinds = ("input_tokens", "cached_tokens", "output_tokens")
        found.append(
            Spent(
                **{name: row[name] for name in ("dataset", "policy", "spent_on", "model", "tier", "attempts", *kinds)},
                estimated_tokens=row["estimated_tokens"],
                failed_tokens=row["failed_input_tokens"] + row["failed_output_tokens"],
                cost=price.of(*(row[kind] for kind in kinds)) if price else None,
                cost_failed=price.of(*(row[f"failed_{kind}"] for kind in kinds)) if price else None,
            )
        )
    return found


def _price(table: Mapping[str, Any], where: str) -> Price:
    rates = check_table(RATES, table, where)
    return Price(rates["input"], rates["output"], rates.get("cached", rates["input"]))
