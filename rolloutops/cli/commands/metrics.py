"""`metrics`: measure the rollouts, as tables, JSON, CSV or a page."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rolloutops.cli.flags import Flag, Parsed
from rolloutops.cli.printing import as_json, say, show, show_csv, show_json
from rolloutops.cli.shared_flags import DATA, JSON, VERDICT_VERSION, stage
from rolloutops.cli.tables import table
from rolloutops.cli.which_recipe import plan_of
from rolloutops.config.paths import as_file
from rolloutops.config.plan import Plan
from rolloutops.errors import UsageError

if TYPE_CHECKING:
    from rolloutops.steps.metrics import Table


def body(parsed: Parsed) -> None:
    """The metrics steps, as tables."""
    plan, flags = plan_of(parsed), parsed.flags
    page = as_file(flags["report"]) if "report" in flags else None
    found = measure(plan, flags.get("step", ()), flags.get("group_by"), flags.get("compare", ()))
    if page is not None:
        say(f"report in {write_page(plan, found, page)}")
    elif flags.get("json"):
        show_json("{" + ",\n".join(f"{json.dumps(name)}: {as_json(*result)}" for name, result in found.items()) + "}")
    elif flags.get("csv"):
        show_csv(*_only_table(found))
    else:
        show(tables_of(found))
        if not {"step", "group_by", "compare"} & set(flags):
            say("", *_further_sentences(_further_metrics(plan, found)))


COMMAND = stage(
    "metrics",
    body,
    "Measure the rollouts",
    DATA,
    VERDICT_VERSION,
    JSON,
    Flag("csv", bool, "print CSV of one step, chosen with --step"),
    Flag("step", list[str], "only these metrics steps"),
    Flag("group_by", str, "group rows by agent, task, finish_reason, model, engine, run, verifier or tools"),
    Flag("compare", list[str], "compare two policies per task, with significance tests"),
    Flag("report", str, "write a page with figures and these tables to this .html file"),
    open_tables=("metrics",),
    key="NAME.KEY",
)


def measure(
    plan: Plan, names: Sequence[str] = (), group_by: str | None = None, compare: Sequence[str] = ()
) -> dict[str, Table]:
    """Run metrics steps: step -> its columns and rows. See `asked` in steps/metrics.py for what can be measured."""
    from rolloutops.cli.connect import connect
    from rolloutops.steps.metrics import measure_all, metrics_steps, require_policies

    chosen = names or (() if compare or group_by else plan.metrics)
    uses = metrics_steps(chosen, plan.metrics_settings, plan.folder, group_by, compare)
    con = connect(plan)
    require_policies(con, compare)
    return measure_all(con, uses, plan.folder)


def write_page(plan: Plan, tables: Mapping[str, Table], output: Path) -> Path:
    """Write a page with the figures of a workspace, and the tables of its metrics. Returns where it lies."""
    from rolloutops.build.report import queries, report
    from rolloutops.cli.connect import connect
    from rolloutops.steps.selected import prepare
    from rolloutops.store.output import replacing_file

    con = connect(plan)
    prepare(con)
    queries.prepare(con)
    page = report.workspace_page(con, str(plan.data), [(name, *table) for name, table in tables.items()])
    with replacing_file(output) as path:
        path.write_text(page, encoding="utf-8")
    return output


def tables_of(tables: Mapping[str, tuple[Sequence[str], Sequence[Sequence[Any]]]]) -> str:
    """The tables of metrics steps, each under its name; one without rows says so."""
    return "\n\n".join(f"{name}\n{table(*result) if result[1] else '(nothing)'}" for name, result in tables.items())


def _further_metrics(plan: Plan, label: Collection[str]) -> list[str]:
    """The short names of the metrics steps that were not shown."""
    from rolloutops.steps.step import available

    return [
        name.partition("/")[2] for name in available(plan.folder) if name.startswith("metrics/") and name not in label
    ]


def _further_sentences(names: Sequence[str]) -> Iterator[str]:
    """How to come by the metrics that are not shown."""
    yield f"more with --step=NAME: {', '.join(names)}"
    yield "and with --group_by=agent, or --compare=POLICY,POLICY"


def _only_table(tables: Mapping[str, Table]) -> Table:
    """The table of the one metrics step that was measured: CSV holds one."""
    if len(tables) != 1:
        first = next(iter(tables)).split("/")[-1]
        raise UsageError(f"--csv prints one table: name it with --step, e.g. --step={first}")
    return next(iter(tables.values()))
