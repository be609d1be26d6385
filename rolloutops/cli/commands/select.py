"""`filter`, `mix` and `pair`: what each step up to the last one of that kind keeps and drops."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rolloutops.cli.flags import Command, Parsed
from rolloutops.cli.printing import show
from rolloutops.cli.shared_flags import SELECTING, STEPS, stage
from rolloutops.cli.tables import table
from rolloutops.cli.which_recipe import plan_of
from rolloutops.config.plan import Plan
from rolloutops.errors import UsageError

if TYPE_CHECKING:
    from rolloutops.steps.selection import StepStats


def body(parsed: Parsed) -> None:
    """The steps up to the last filter, mix or pair, and what each kept and dropped."""
    show(stats_table(select_rows(plan_of(parsed), parsed.command)))


def _command(kind: str) -> Command:
    return stage(
        kind, body, f"Show the rows that each step keeps and drops, up to the last {kind}", *SELECTING, **STEPS
    )


FILTER, MIX, PAIR = _command("filter"), _command("mix"), _command("pair")


def select_rows(plan: Plan, until: str) -> list[StepStats]:
    """Run the filter, reward, mix and pair steps, up to and with the last one of the kind `until`."""
    from rolloutops.build.explain import check_parameters
    from rolloutops.cli.connect import connect
    from rolloutops.steps.parameters import known_datasets
    from rolloutops.steps.selection import select

    kinds = [step.kind for step in plan.steps]
    if until not in kinds:
        raise UsageError(f'the recipe has no {until} step: add [[steps]] with kind = "{until}", name = … and use = …')
    last = len(kinds) - kinds[::-1].index(until)
    known = known_datasets(plan)
    for step in plan.steps[:last]:
        if step.kind != "build":
            check_parameters(step, plan, known)
    con = connect(plan)
    return select(con, [step for step in plan.steps[:last] if step.kind != "build"], plan.folder)


def stats_table(stats: Sequence[StepStats]) -> str:
    """Rows in, kept and dropped, step by step, and why; then the steps' own reports."""
    repeats = any(one.rows != one.kept for f in stats for one in f.datasets)
    columns = ("step", "dataset", "rows in", "kept", "dropped", "kept %", *(["rows out"] if repeats else []))
    before, rows = "rollouts", list[tuple[Any, ...]]()
    for f in stats:
        rows += _stats_rows(f, f.step if f.start == before else f"{f.step} (from {f.start})", repeats)
        before = f.step
    tables = [table(columns, rows)]
    for f in stats:
        tables += [
            f"{f.step}: {f.use}\n{table(list(report[0]), [list(r.values()) for r in report])}"
            for report in f.reports
            if report
        ]
    return "\n\n".join(tables)


def _stats_rows(f: StepStats, name: str, repeats: bool) -> Iterator[tuple[Any, ...]]:
    """One step: a row for each dataset, one for all of them, and one for each reason to drop rows."""
    lines = [(one.dataset, one.rows_in, one.kept, one.dropped, one.rows) for one in f.datasets]
    if len(lines) != 1:
        lines.append(("all", f.rows_in, f.kept, f.dropped, f.rows))
    for place, (dataset, rows_in, kept, dropped, rows) in enumerate(lines):
        share = round(100 * kept / rows_in, 1) if rows_in else None
        yield ("" if place else name, dataset, rows_in, kept, dropped, share, *([rows] if repeats else []))
    counted = Counter[str]()
    for one in f.datasets:
        counted.update(one.reasons)
    for reason, number in counted.most_common():
        yield ("", f"└ {reason}", "", "", number, "", *([""] if repeats else []))
