"""The names that an environment may have for rolloutops to use, and the check that none of them is misspelt.

All but `verify` are optional and looked up by name, so a `cpubound = True` or a `def golden` would do nothing, and
nobody would know.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from typing import Any, get_args

from rolloutops.errors import UsageError, did_you_mean
from rolloutops.types import Runs, Task

METHODS = ("verify", "begin", "call", "gold", "prepare", "preflight", "close")
"""Hooks that are called."""

VALUES: dict[str, type | tuple[type, ...]] = {
    "tools": (list, tuple),
    "runs": str,
    "cpu_bound": bool,
    "pure": bool,
    "spends": bool,
    "longest": (int, float),
    "parallel": int,
}
"""Hooks that are read, and what they are; `runs` and `cpu_bound`, its earlier name, may be methods as well."""

RUNS: tuple[Runs, ...] = get_args(Runs)
"""How a verify may run."""

SIMILAR, MORE_SIMILAR = 0.8, 0.9
"""How like a hook (difflib's ratio) a name is that is taken for a misspelt one: with the same first letter, and with
another, so that a helper named `recall` is not taken for `call`."""


def refuse_misspelt_hooks(name: str, environment: Any) -> None:
    """Raise UsageError where an environment has no verify, or a public name that is nearly that of a hook it lacks."""
    known = {attribute for attribute in dir(environment) if not attribute.startswith("_")}
    for attribute in sorted(known.difference(METHODS, VALUES)):
        hook = next((hook for hook in (*METHODS, *VALUES) if hook not in known and _alike(attribute, hook)), None)
        if hook is not None and _is_of_kind(inspect.getattr_static(environment, attribute, None), hook):
            raise UsageError(
                f"environment {name!r} has {attribute!r}, which rolloutops does not use, did you mean {hook!r}? "
                f"If not, rename it, e.g. _{attribute}"
            )
    if not callable(getattr(environment, "verify", None)):
        raise UsageError(f"environment {name!r} has no method verify(task, rollout), which every environment needs")
    _refuse_wrong_runs(name, environment)


def how_it_runs(environment: Any) -> Runs | Callable[[Task], Runs] | None:
    """Return how an environment's verify runs, or what tells it of a task; None where it declares nothing.

    A coroutine function that declares nothing is awaited: it can run in no other way.
    """
    runs: Runs | Callable[[Task], Runs] | None = getattr(environment, "runs", None)
    if runs is not None:
        return runs
    here: Runs = "async" if inspect.iscoroutinefunction(environment.verify) else "inline"
    cpu_bound = getattr(environment, "cpu_bound", False)  # the name of earlier versions
    if callable(cpu_bound):
        return lambda task: "process" if cpu_bound(task) else here
    return "process" if cpu_bound is True else "async" if here == "async" else None


def runs_as(runs: Any) -> Runs:
    """Return how a verify runs. Raises ValueError for what is none of the three."""
    if runs not in RUNS:
        raise ValueError(f"runs must be {', '.join(map(repr, RUNS))}, not {runs!r:.80}")
    return runs  # type: ignore[no-any-return]


def _refuse_wrong_runs(name: str, environment: Any) -> None:
    runs = getattr(environment, "runs", None)
    if runs is None or callable(runs):
        return
    if runs not in RUNS:
        hint = did_you_mean(runs, RUNS) if isinstance(runs, str) else ""
        raise UsageError(
            f"environment {name!r} has runs = {runs!r:.80}{hint}: it must be one of "
            f"{', '.join(map(repr, RUNS))}, which declare how its verify runs"
        )
    if runs == "inline" and inspect.iscoroutinefunction(environment.verify):
        raise UsageError(
            f"environment {name!r} has runs = 'inline', but its verify is a coroutine function: "
            "write 'async', or 'process'"
        )


def _alike(attribute: str, hook: str) -> bool:
    plain = attribute.lower().replace("_", "")
    ratio = difflib.SequenceMatcher(None, plain, hook.replace("_", "")).ratio()
    return ratio >= (SIMILAR if plain[:1] == hook[0] else MORE_SIMILAR)


def _is_of_kind(value: Any, hook: str) -> bool:
    """Whether a value could be meant as a hook: what an environment keeps for itself may have any name."""
    method = callable(value) or isinstance(value, classmethod | staticmethod)
    if hook in METHODS:
        return method
    if hook == "runs":  # a helper may well be called `run`
        return value in RUNS if isinstance(value, str) else False
    if isinstance(value, property) or (method and hook == "cpu_bound"):
        return True
    return isinstance(value, VALUES[hook]) and (VALUES[hook] is bool or not isinstance(value, bool))
