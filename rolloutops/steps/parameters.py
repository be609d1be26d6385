"""A step's parameters before there is a rollout: the datasets that they name, and the checks that read only them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from functools import cache
from typing import Any

from rolloutops.config.plan import Plan
from rolloutops.config.recipe import StepUse
from rolloutops.config.resources import shipped
from rolloutops.errors import UsageError, did_you_mean
from rolloutops.steps.step import Step, bound, run_checks
from rolloutops.store import sql
from rolloutops.store.definitions import define


def known_datasets(plan: Plan) -> list[str]:
    """The datasets that a recipe names, also those that the command line left aside, and those of its workspace."""
    held = [folder.name for folder in sorted((plan.data / "tasks").glob("*")) if folder.is_dir()]
    return list(dict.fromkeys([*plan.datasets, *plan.known_datasets, *held]))


def refuse_unknown_datasets(step: Step, use: StepUse, known: Collection[str]) -> None:
    """Raise UsageError where a parameter of datasets, as its header says it is, names one that is not there.

    known: none at all where nothing is known yet.
    """
    for parameter in step.notes.get("datasets", "").replace(",", " ").split():
        for name in _names(use.settings.get(parameter, ())):
            if known and name not in known:
                raise UsageError(
                    f"[{use.kind}.{use.name}] {parameter}: no dataset {name!r}{did_you_mean(name, known, most=3)}; "
                    f"there are: {', '.join(known)}"
                )


def _names(value: Any) -> Iterable[str]:
    """The names in a table, a list or a text."""
    if isinstance(value, Mapping):
        return map(str, value)
    return [value] if isinstance(value, str) else map(str, value)


def refuse_bad_parameters(step: Step, use: StepUse) -> None:
    """Raise StepError where a check of a step's header finds a fault in parameters alone, as in shares that sum to 0.9.

    A check that reads rollouts cannot be bound here, where there are macros and no views; it waits until the step runs.
    """
    settings = {name: value for name, value in use.settings.items() if name in step.params}
    where = f"[{use.kind}.{use.name}]"
    con = _macros()
    with bound(con, step, settings, where):
        for query in step.checks:
            if _reads_parameters_only(con, query):
                run_checks(con, step, where, [query])


@cache
def _macros() -> sql.Connection:
    """A database that has the macros which steps share, and nothing else."""
    con = sql.connect(threads=1)
    define(con, sql.read(shipped("sql") / "macros.sql") + ";")
    return con


def _reads_parameters_only(con: sql.Connection, query: str) -> bool:
    try:
        sql.columns(con, query)
    except sql.Error:
        return False
    return True
