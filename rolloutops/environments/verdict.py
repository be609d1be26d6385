"""Verdicts: what a verifier made of a rollout, and how whatever it returned or raised becomes one."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any


@dataclass(slots=True)
class Verdict:
    """What a verifier made of a rollout.

    reward: None where it failed. metrics: every finite number and truth value that it returned, `reward` among them,
    also those of a table `reward_components`.
    details: everything that it returned, as JSON can hold it. error: None, `verifier_error`, `verifier_timeout` or
    `masked`.
    seconds: how long verify ran. cached: taken from an equal rollout's verdict. cpu_seconds: of seconds, how long it
    computed, its child processes counted; None where that was not measured.
    """

    reward: float | None
    metrics: dict[str, float] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    error: str | None = None
    error_message: str | None = None
    seconds: float = 0.0
    cached: bool = False
    cpu_seconds: float | None = None


def verdict_of(returned: Any, seconds: float) -> Verdict:
    """A verdict of what verify returned: a number, or a dict with `reward`; with `reward` None and `error` a text, it
    could not judge, and says why. A true `mask_sample` says that the reward measures nothing (NeMo Gym's word)."""
    details = returned if isinstance(returned, Mapping) else {"reward": returned}
    if "reward" not in details:
        return failed(f"verify returned no 'reward', only {', '.join(map(str, details)) or 'an empty dict'}", seconds)
    plain: dict[str, Any] = {}
    metrics: dict[str, float] = {}
    for name, value in details.items():
        kind = type(value)
        if kind is not str and kind is not float and kind is not bool and kind is not int and value is not None:
            value = _json(value)
            kind = type(value)
        if kind is float or kind is bool or kind is int:
            number = _number(value)
            if number is not None:
                metrics[str(name)] = number
            elif kind is float:
                value = None  # JSON has no NaN
        plain[str(name)] = value
    if "reward_components" in plain:
        _add_components(metrics, plain)
    if details.get("mask_sample") is True:
        why = ": ".join(str(details[key]) for key in ("failure_kind", "failure_reason") if details.get(key))
        return Verdict(None, {"mask_sample": 1.0}, plain, "masked", why[:2048] or "mask_sample is true", seconds)
    if details["reward"] is None and isinstance(details.get("error"), str):
        return Verdict(None, metrics, plain, "verifier_error", details["error"][:2048], seconds)
    if "reward" not in metrics:
        what = f"{details['reward']!r:.80}"
        return failed(f"verify must return a finite number, or a dict with one under 'reward', not {what}", seconds)
    return Verdict(metrics["reward"], metrics, plain, seconds=seconds)


def _add_components(metrics: dict[str, float], plain: Mapping[str, Any]) -> None:
    """Make metrics of the numbers in NeMo Gym's `reward_components`, by their own names unless a field has that one."""
    components = plain["reward_components"]
    for name, value in components.items() if isinstance(components, Mapping) else ():
        number = _number(value) if isinstance(value, bool | int | float) else None
        if number is not None:
            metrics[name if name not in plain else f"reward_components.{name}"] = number


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _json(value: Any) -> Any:
    """A value as JSON can hold it; scalars of numpy and torch become numbers, what JSON has no form for its text."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, numbers.Real | Decimal):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _json(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_json(item) for item in value]
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        return _json(value.item())
    return str(value)


def failed(message: str, seconds: float = 0.0) -> Verdict:
    """The verdict on a rollout that could not be verified."""
    return Verdict(None, error="verifier_error", error_message=message[:2048], seconds=seconds)


def stopped(kind: str, message: str, seconds: float) -> Verdict:
    """The verdict on a rollout whose verifier was stopped from outside."""
    error = "verifier_timeout" if kind == "timeout" else "verifier_error"
    return Verdict(None, error=error, error_message=message, seconds=seconds)


def raised(error: BaseException) -> str:
    """What a verdict says of an exception."""
    return f"verify raised {type(error).__name__}: {error}"
