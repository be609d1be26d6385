"""Results as text for a terminal: aligned tables and sentences. Nothing here prints."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rolloutops import layout
from rolloutops.errors import UsageError
from rolloutops.visible import visible

if TYPE_CHECKING:
    from rolloutops.build.build import BuildReport
    from rolloutops.build.explain import BoundStep
    from rolloutops.build.lint import LintReport
    from rolloutops.collect.collect import CollectReport
    from rolloutops.collect.verify import VerifyReport
    from rolloutops.ingest.chunk import ChunkReport
    from rolloutops.ingest.import_rollouts import ImportReport
    from rolloutops.steps.selection import StepStats


LONGEST, GLANCE = 2048, 80
"""Characters of a value that a table shows: all of any message that says what to do; of a query's, a glance."""


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]], longest: int = LONGEST) -> str:
    """An aligned table that fits the terminal: numbers to the right, text to the left, missing values as a dash. "" is
    an empty cell. longest: characters of a value that are shown."""
    cells = [[cell(value, longest) for value in row] for row in rows]
    right = [
        bool(rows) and all(row[i] == "" or isinstance(row[i], int | float | None) for row in rows)
        for i in range(len(columns))
    ]
    return "\n".join(layout.table([cell(name) for name in columns], cells, right, layout.columns_of()))


def cell(value: Any, longest: int = LONGEST) -> str:
    """One value on one line, cut where it is longer than this."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%d %H:%M:%S")
    text = visible(" ".join(str(value).split()))
    return text if len(text) <= longest else text[: longest - 1] + "…"


def count(number: int, noun: str) -> str:
    """`1 task`, `2,000 tasks`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def chunked(done: Sequence[ChunkReport], skip_bad_lines: bool) -> Iterator[str]:
    """What became of each input."""
    if not done:
        yield "no data set has an input: tasks that were imported stay as they are"
        return
    columns = ("dataset", "read", "new", "edited", "returned", "removed", "unchanged", "duplicates", "rejected")
    yield table(columns, [[getattr(one, name) for name in columns] for one in done])
    for one in done:
        if one.removed:
            yield f"{one.dataset}: {count(one.removed, 'task')} no longer in the input, no longer wanted; rollouts kept"
        if one.rejected:
            yield f"{one.dataset}: {count(one.rejected, 'line')} rejected, listed in {one.rejected_file}; the first:"
            yield from (f"  {example}" for example in one.examples)
    if any(one.rejected for one in done) and not skip_bad_lines:
        yield "mend those lines and chunk again, or leave them out on purpose with --skip_bad_lines"


def imported(done: ImportReport, skip_bad_lines: bool) -> Iterator[str]:
    """What became of imported rows."""
    counted = ("read", "asked", "rollouts", "failures", "duplicates", "known", "rejected", "tasks", "verdicts")
    columns = ("dataset", *counted)
    yield table(columns, [[getattr(done, name) for name in columns]])
    if done.policies:
        yield f"policies: {', '.join(done.policies)}"
    if done.masked:
        yield f"{count(done.masked, 'rollout')} masked: their reward measures nothing and is left out"
    if done.empty:
        yield f"{count(done.empty, 'rollout')} with neither answer nor reward: if these are tasks, chunk reads them"
    if done.renumbered:
        yield f"{count(done.renumbered, 'rollout')} got the next free index: another has theirs"
    if done.skipped:
        yield f"no rollouts in: {', '.join(done.skipped)}"
    if done.rejected:
        yield f"{count(done.rejected, 'line')} rejected, listed in {done.rejected_file}; the first:"
        yield from (f"  {example}" for example in done.examples)
        if not skip_bad_lines:
            yield "mend those lines and import again, or leave them out on purpose with --skip_bad_lines"


def collected(done: CollectReport) -> Iterator[str]:
    """How a collection ended."""
    if done.saved:
        yield f"{count(done.saved, 'row')} of a killed run saved from its journal"
    if done.judged:
        yield f"{count(done.judged, 'rollout')} of earlier runs judged"
    if done.in_flight:
        yield (
            f"{count(done.jobs, 'batch job')} under way for {count(done.in_flight, 'rollout')}: run the same command "
            "again to collect what has ended, or with --engine_args.wait=true to wait for it"
        )
    elif not done.wanted:
        yield "nothing to collect: the recipe asks for no rollouts"
        return
    elif not done.owed and not done.done:
        but = f", but {done.given_up:,} that are given up" if done.given_up else ""
        yield f"nothing is owed: all {count(done.wanted, 'rollout')} are there{but}"
        return
    yield (
        f"{count(done.done, 'rollout')} collected; of {done.wanted:,} wanted, {done.given_up:,} are given up and "
        f"{done.left:,} owed"
    )
    if done.left:
        yield "run the same command again for what is owed"
    if done.given_up and not any(one.too_much for one in done.losses):
        yield "status tells why rollouts are given up; collect --retry=KIND owes them again"
    if done.unrewarded:
        kinds = ", ".join(f"{number:,} {kind}" for kind, number in done.unrewarded.items())
        again = "" if set(done.unrewarded) == {"masked"} else "; verify --retry_errors judges them again"
        yield f"without a reward: {kinds}; status tells why{again}"


def money(column: str, value: Any) -> Any:
    """A cost with cents, or more of it where it is less; an unknown one is n/a."""
    if not column.startswith("cost"):
        return value
    return "n/a" if value is None else f"{value:,.2f}" if value >= 0.1 or not value else f"{value:.2g}"


def measured(found: Mapping[str, tuple[Sequence[str], Sequence[Sequence[Any]]]]) -> str:
    """The tables of metrics steps, each under its name; one without rows says so."""
    return "\n\n".join(f"{name}\n{table(*result) if result[1] else '(nothing)'}" for name, result in found.items())


def further(names: Sequence[str]) -> Iterator[str]:
    """How to come by the metrics that are not shown."""
    yield f"more with --step=NAME: {', '.join(names)}"
    yield "and with --group_by=agent, or --compare=POLICY,POLICY"


def only_table(found: Mapping[str, tuple[list[str], list[tuple[Any, ...]]]]) -> tuple[list[str], list[tuple[Any, ...]]]:
    """The table of the one metrics step that was asked for: CSV holds one."""
    if len(found) != 1:
        raise UsageError(f"--csv prints one table: name it with --step, as --step={next(iter(found)).split('/')[-1]}")
    return next(iter(found.values()))


def means(found: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """The mean of each numeric field as JSON: of the one data set, or by data set where there are several; of the one
    policy, or by policy: the rollouts of two never mix."""
    shown = {name: by if len(by) != 1 else next(iter(by.values())) for name, by in found.items()}
    return json.dumps(shown if len(shown) != 1 else next(iter(shown.values())), indent=4)


def verified(done: VerifyReport) -> Iterator[str]:
    """How a verification ended, and what it could not verify."""
    rest = done.rest
    if done.unjudged:
        yield f"{count(done.judged, 'rollout')} judged; of these, {done.failed:,} could not be judged"
    elif done.waiting:
        yield f"{count(done.waiting, 'rollout')} not verified again: that waits for the command verify"
    elif not rest.rollouts:
        yield "Nothing to verify: there are no rollouts"
    elif rest.pinned:
        versions = ", ".join(f"{version} in {dataset}" for dataset, version in rest.pinned.items())
        yield f"Nothing verified: the verdicts of {versions} count, as --verdict_version says"
    elif not rest.no_environment:
        but = f", but the verification of {rest.failed:,} failed" if rest.failed else ""
        yield f"Nothing to verify: all {count(rest.rollouts, 'rollout')} have a verdict{but}"
    for dataset, rollouts in rest.no_environment.items():
        yield (
            f"{dataset}: {count(rollouts, 'rollout')} unverified, as no environment is set: add environment = … to "
            f"[datasets.{dataset}], or give --dataset={dataset} --environment=NAME"
        )
    if rest.failed:
        yield "status shows why verification failed; verify --retry_errors runs it again"


def funnels(found: Sequence[StepStats]) -> str:
    """Rows in, kept and dropped, step by step, and why; then the steps' own reports."""
    repeats = any(one.rows != one.kept for f in found for one in f.datasets)
    columns = ("step", "dataset", "rows in", "kept", "dropped", "kept %", *(["rows out"] if repeats else []))
    before, rows = "rollouts", list[tuple[Any, ...]]()
    for f in found:
        rows += _funnel(f, f.step if f.start == before else f"{f.step} (from {f.start})", repeats)
        before = f.step
    tables = [table(columns, rows)]
    for f in found:
        tables += [
            f"{f.step}: {f.use}\n{table(list(report[0]), [list(r.values()) for r in report])}"
            for report in f.reports
            if report
        ]
    return "\n\n".join(tables)


def _funnel(f: StepStats, name: str, repeats: bool) -> Iterator[tuple[Any, ...]]:
    """One step: a row for each data set, one for all of them, and one for each reason to drop rows."""
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


def built(done: Sequence[BuildReport]) -> str:
    """Each training file that was written, with its rows."""
    rows = [(one.step, split, rows, str(path)) for one in done for split, (rows, path) in one.files.items()]
    shown = [table(("build", "split", "rows", "file"), rows)]
    for one in done:
        for fault in one.linted.faults if one.linted else ():
            done_with_it = "dropped" if fault.severity == "error" else "warning"
            shown.append(f"{one.step}: {done_with_it}, {count(fault.lines, 'line')}: {fault.fault}")
        if one.unasked:
            others = ", ".join(one.unasked)
            shown.append(
                f"{one.step}: warning, the recipe does not ask for the policy {others} (filter/only leaves it out)"
            )
    return "\n".join(shown)


def explained(steps: Sequence[BoundStep]) -> str:
    """What each step of a recipe reads and adds."""
    names = ("step", "use", "reads", "adds")
    rows = [(f"{one.kind}.{one.name}", one.use, one.start, ", ".join(one.adds)) for one in steps]
    return f"{table(names, rows)}\n\n{count(len(steps), 'step')} fit together; nothing was run"


def linted(found: LintReport) -> Iterator[str]:
    """Each fault of a training file, with the lines that have it."""
    for one in found.faults:
        shown = ", ".join(f"{split}:{row}" for split, row in one.first)
        yield f"{one.severity:<7}  {count(one.lines, 'line')}: {one.fault}"
        yield f"         {shown}{', …' if one.lines > len(one.first) else ''}"
    if found.faulty:
        yield f"{found.faulty:,} of {count(found.lines, 'line')} would not train as meant: {found.target}"
    else:
        yield f"{count(found.lines, 'line')} without an error: {found.target}"


def traced(found: Mapping[str, Any]) -> Iterator[str]:
    """Where a row of a training file came from."""
    build = found["build"]
    yield f"{found['file']} row {found['row']:,}: line {found['row_of_split']:,} of {found['split']}"
    yield f"  {_short(json.dumps(found['line'], ensure_ascii=False))}"
    yield f"\nmade by {build['step']} ({build['use']}) after"
    for step in found["steps"]:
        said = ", ".join(f"{name} = {value}" for name, value in step["parameters"].items())
        kept = f"kept {step['kept']:,} of {step['rows_in']:,} rows"
        yield f"  {step['step']} ({step['use']}): {kept}{f'; {said}' if said else ''}"
    if not found["steps"]:
        yield "  no other step: it read all rollouts"
    for one in found["rollouts"]:
        key = f"rollout {one['rollout_index']} of {one['policy']} on {one['dataset']} {one['task_id']}"
        yield f"\n{one['role']}: {key}, reward {cell(one['reward'])}"
        yield from (f"  {name:<9}{said}" for name, said in _origin(one))


def _origin(one: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What is known of one rollout, by the table that knows it."""
    if one["attempt_lost"]:
        yield "attempt", f"{one['attempt_id']}, which the workspace no longer holds"
        return
    changed = " (since edited or removed)" if one["task_changed"] else ""
    yield "task", f"{one['file']} line {cell(one['line'])}, row {one['row_hash']}{changed}"
    sent = ", ".join(f"{name} = {cell(value)}" for name, value in (one["request"] or {}).items())
    asked = f"{one['engine']} {one['model'] or ''}".rstrip()
    yield "policy", f"{one['policy']}: {asked}{f', {sent}' if sent else ''}"
    tries = f", after {count(one['earlier_attempts'], 'other')}" if one["earlier_attempts"] else ""
    tokens = "tokens not counted" if one["output_tokens"] is None else count(one["output_tokens"], "token")
    parts = (one["finish_reason"] or "no finish reason", tokens, count(one["turns"] or 0, "turn"))
    yield "attempt", f"{one['attempt_id']}{tries}: {', '.join(parts)}"
    run = one["run"]
    if run:
        commit = f", commit {run['git_commit'][:12]}" if run["git_commit"] else ""
        yield "run", f"{run['run_id']}: {run['command']}, {run['began'][:19]}{commit}"
    verdict = one["verdict"]
    if verdict:
        more = ", ".join(f"{name} = {cell(value)}" for name, value in verdict["metrics"].items() if name != "reward")
        judge = f"{verdict['verifier']} {verdict['verifier_version'] or ''}".strip()
        yield "verdict", f"{judge}: reward {cell(verdict['reward'])}{f' ({more})' if more else ''}"
    yield "answer", _short(one["text"] or "(no text)")


def _short(text: str) -> str:
    """Text on one line, cut where it is long."""
    text = visible(" ".join(text.split()))
    return text if len(text) <= 300 else text[:299] + "…"
