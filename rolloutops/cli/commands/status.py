"""`status`: show what is done, pending and failing: tables, and a sentence for whatever a person should do."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from rolloutops.cli.flags import Command, Flag, Parsed
from rolloutops.cli.old_names import with_old_names
from rolloutops.cli.shared_flags import DATA, JSON, QUERIES, RECIPE, SHARD
from rolloutops.cli.sizes import size
from rolloutops.cli.tables import cell, table
from rolloutops.cli.which_recipe import plan_of
from rolloutops.config.redact import for_screen
from rolloutops.layout import columns_of, count, rows_on_screen, verb

if TYPE_CHECKING:
    from rolloutops.collect.status import Status

Rows = Sequence[Mapping[str, Any]]

CONSISTENT = "consistency check passed: every wanted rollout is exactly one of done, pending, submitted and given up"


def body(parsed: Parsed) -> int:
    """What is done, pending and failing; with --watch again and again, in place where that is a terminal."""
    from rolloutops.collect.status import status
    from rolloutops.store.workspace import open_workspace

    plan, screen = plan_of(parsed), Screen(sys.stdout)
    while True:
        now = status(open_workspace(plan.data), plan)
        if parsed.flags.get("json"):
            found = dataclasses.asdict(now)
            for name in ("progress", "spending", "imports"):
                found[name] = [with_old_names(row) for row in found[name]]
            print(json.dumps(found, indent=4))
        else:
            screen.show(for_screen("\n".join(sentences(now))))
        if not parsed.flags.get("watch") or not any(row["pending"] for row in now.progress):
            return 1 if now.faults else 0
        time.sleep(2.0)


COMMAND = Command(
    "status",
    body,
    "Show what is done, pending and failing",
    (
        DATA,
        JSON,
        SHARD,
        Flag("watch", bool, "refresh every 2 s, in place on a terminal, until nothing is pending"),
        *QUERIES,
    ),
    (RECIPE,),
    group="Inspect and set up",
)


def sentences(now: Status) -> Iterator[str]:
    """Say progress, failures, what is on disk, pace, and whether the tables agree."""
    yield _table(now.progress) if now.progress else "the recipe wants no rollouts"
    for found in filter(None, (now.failures, now.unrewarded)):
        yield "\n" + _table(found, but=("example",))
        yield from _examples(found)
    for priced in (False, True):  # a dataset without a price table has no columns of cost
        spending = [row for row in now.spending if ("cost" in row) == priced]
        if spending:
            yield "\n" + _table([{name: _money(name, value) for name, value in row.items()} for row in spending])
    if now.imports:
        yield "\nimported rollouts"
        yield _table(now.imports)
    yield from _accounts(now)
    yield from _work(now)
    yield from _space(now)
    if not now.faults:
        yield f"\n{CONSISTENT}"
    else:
        for one in now.doubled:
            files = " and ".join(map(cell, one["files"]))
            yield f"\n{count(one['attempts'], 'attempt')} found in several files, {files}: keep one of these files"
        report = "" if now.doubled else ": please report this"
        yield f"\nconsistency check failed: the tables disagree about {count(len(now.faults), 'rollout')}{report}"
        yield _table(now.faults[:10])


class Screen:
    """Shows one text after another: each in the place of the one before on a terminal, else one below the other."""

    def __init__(self, out: TextIO) -> None:
        self._out, self._rows = out, 0

    def show(self, text: str) -> None:
        """Show a text. On a terminal that is too low for the one before, the screen is cleared first."""
        if self._rows and not self._out.isatty():
            self._out.write("\n")
        elif self._rows:
            low = self._rows >= os.get_terminal_size(self._out.fileno()).lines
            self._out.write("\x1b[H\x1b[2J" if low else f"\x1b[{self._rows}A\r\x1b[J")
        self._out.write(f"{text}\n")
        self._out.flush()
        self._rows = rows_on_screen(text, columns_of(self._out))


def _table(rows: Rows, but: Sequence[str] = ()) -> str:
    names = [name for name in rows[0] if name not in but]
    return table(names, [[row[name] for name in names] for row in rows])


def _money(column: str, value: Any) -> Any:
    """A cost with cents, or more of it where it is less; an unknown one is n/a."""
    if not column.startswith("cost"):
        return value
    return "n/a" if value is None else f"{value:,.2f}" if value >= 0.1 or not value else f"{value:.2g}"


def _examples(rows: Rows) -> Iterator[str]:
    """An example of each kind of failure, whole, below its table."""
    for row in rows:
        if row["example"]:
            kind = row.get("error") or row.get("without_reward")
            yield f"{cell(row['dataset'])}, {kind}, e.g.: {cell(row['example'])}"


def _accounts(now: Status) -> Iterator[str]:
    """Every attempt on disk, and why those that are not counted are not."""
    counted = sum(row["attempts"] for row in now.accounts if row["account"] == "counted")
    if counted == now.on_disk == sum(row["attempts"] for row in now.accounts):
        if counted:
            yield f"\n{count(counted, 'attempt')} on disk, all counted"
    else:
        yield f"\n{count(now.on_disk, 'attempt')} on disk: {counted:,} counted, {now.on_disk - counted:,} not"
        yield _table(now.accounts)
    for one in now.lost_tasks:
        yield "\n" + _lost_tasks(one)
        yield from (f"  chunked {cell(origin)}" for origin in one["origins"])


def _lost_tasks(one: Mapping[str, Any]) -> str:
    """That task files were overwritten, and how to have the tasks back."""
    found = []
    if one["tasks"]:
        found.append(f"{count(one['rollouts'], 'rollout')} of {count(one['tasks'], 'task')} that are in no task file")
    if one["missing"]:
        found.append(f"{count(one['missing'], 'task')} that chunk wrote but no task file has")
    if one["torn"]:
        found.append(f"{count(one['torn'], 'task')} that {verb(one['torn'], 'were')} changed in two conflicting ways")
    return (
        f"dataset {one['dataset']!r} has {', '.join(found)}. Its task files were overwritten or deleted, e.g. when a "
        "workspace was copied over another one that also ran chunk for it: their task files have the same names. The "
        "rollouts are kept. To get the tasks back, run chunk with an input that holds the lines of all of them (every "
        "input file that was ever chunked here); they get the same ids, and their rollouts count again"
    )


def _work(now: Status) -> Iterator[str]:
    """What runs now, and how fast; what is in journals."""
    from rolloutops.limits.progress import duration

    if now.unsealed:
        kinds = ", ".join(count(number, kind.removesuffix("s")) for kind, number in now.journals.items() if number)
        after = "" if now.running else "; the next collect or verify moves the rows of a killed command"
        yield f"\n{count(now.unsealed, 'row')} in a journal, not yet in the tables ({kinds}), counted above{after}"
    alone = [one for one in now.running if not one.get("worker")]
    for one in alone:
        memory = f", {size(one['memory_bytes'])} of memory" if one["memory_bytes"] else ""
        done = count(one["done"], one["noun"].removesuffix("s"))
        yield (
            f"\nrunning now: {cell(one['run_id'])} on {cell(one['host'])} (process {one['pid']}): "
            f"{one['in_flight']:,} in flight, {done} done, {one['failed']:,} failed, "
            f"{one['per_second']:,.1f}/s{memory}"
        )
    if workers := [_worker(one) for one in now.running if one.get("worker")]:
        yield f"\nrunning now: {count(len(workers), 'worker')}"
        yield _table(sorted(workers, key=lambda row: (row["host"], row["worker"])))
    if now.rollouts_per_second:
        collects = any(one["noun"] == "rollouts" and one["done"] for one in now.running)
        tokens = f", {now.tokens_per_second:,.0f} tokens/s" if now.tokens_per_second else ""
        left = f", {duration(now.seconds_left)} left at that rate" if now.seconds_left else ""
        when = "current rate" if collects else "last collection"
        yield f"\n{when}: {now.rollouts_per_second:,.1f} rollouts/s{tokens}{left}"


def _worker(facts: Mapping[str, Any]) -> dict[str, Any]:
    """A worker's row: where it runs, what it does and has done."""
    name, memory = facts["worker"], facts["memory_bytes"]
    return {
        "worker": f"{name['number']} of {name['of']}",
        **{column: facts[column] for column in ("host", "pid", "run_id", "in_flight")},
        "done": count(facts["done"], facts["noun"].removesuffix("s")),
        "failed": facts["failed"],
        "per_second": facts["per_second"],
        "memory": size(memory) if memory else "",
    }


def _space(now: Status) -> Iterator[str]:
    """Bytes on disk and in memory; a warning where what is pending will not fit."""
    space, free = now.space, now.space["free_bytes"]
    parts = [f"{size(sum(space['bytes'].values()))} on disk"]
    if free is not None:
        parts.append(f"{size(free)} free")
    if space["pending_bytes"]:
        parts.append(f"about {size(space['pending_bytes'])} more for the pending rollouts")
    if space["memory_bytes"] and not now.running:
        parts.append(f"{size(space['memory_bytes'])} of memory in this process")
    yield "\n" + ", ".join(parts)
    for gpu in space["gpus"]:
        yield f"GPU {gpu['name']}: {size(gpu['used_bytes'])} of {size(gpu['total_bytes'])} in use"
    if free is not None and space["pending_bytes"] and space["pending_bytes"] > free:
        yield (
            "the disk will be full before all pending rollouts are collected: free some space, or move the workspace "
            "to a larger disk and name it with --data"
        )
