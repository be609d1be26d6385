"""`trace`: from a row of a training file back to its task."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from rolloutops.cli.flags import Command, Flag, Parsed
from rolloutops.cli.printing import show
from rolloutops.cli.shared_flags import JSON, QUERIES
from rolloutops.cli.tables import cell
from rolloutops.config.paths import as_path
from rolloutops.config.query_limits import limit_queries
from rolloutops.layout import count
from rolloutops.visible import visible


def body(parsed: Parsed) -> None:
    """A row of a training file -> where it came from."""
    from rolloutops.build.trace import trace

    limit_queries(parsed.flags)
    data = as_path(parsed.flags["data"]) if "data" in parsed.flags else None
    found = trace(as_path(parsed.positionals["file"]), parsed.flags.get("row", 1), data)
    show(*([json.dumps(found, indent=4)] if parsed.flags.get("json") else _sentences(found)))


COMMAND = Command(
    "trace",
    body,
    "Trace a row of a training file back to its task",
    (
        Flag("row", int, "the line of the file, from 1", 1),
        Flag("data", str, "the workspace (default: the one that the file is in, else the recipe's)"),
        JSON,
        *QUERIES,
    ),
    (Flag("file", str, "a data file of a build, e.g. train.jsonl or any shard", required=True),),
    group="Inspect and set up",
)


def _sentences(result: Mapping[str, Any]) -> Iterator[str]:
    """Say where a row of a training file came from."""
    build = result["build"]
    yield f"{result['file']} row {result['row']:,}: line {result['row_of_split']:,} of {result['split']}"
    yield f"  {_short(json.dumps(result['line'], ensure_ascii=False))}"
    yield f"\nmade by {build['step']} ({build['use']}) after"
    for step in result["steps"]:
        said = ", ".join(f"{name} = {value}" for name, value in step["parameters"].items())
        kept = f"kept {step['kept']:,} of {count(step['rows_in'], 'row')}"
        yield f"  {step['step']} ({step['use']}): {kept}{f'; {said}' if said else ''}"
    if not result["steps"]:
        yield "  no other step: it read all rollouts"
    for one in result["rollouts"]:
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
    requested = f"{one['engine']} {one['model'] or ''}".rstrip()
    yield "policy", f"{one['policy']}: {requested}{f', {sent}' if sent else ''}"
    tries = f", after {count(one['earlier_attempts'], 'earlier attempt')}" if one["earlier_attempts"] else ""
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
        verifier = f"{verdict['verifier']} {verdict['verifier_version'] or ''}".strip()
        yield "verdict", f"{verifier}: reward {cell(verdict['reward'])}{f' ({more})' if more else ''}"
    yield "answer", _short(one["text"] or "(no text)")


def _short(text: str) -> str:
    """Text on one line, cut where it is long."""
    text = visible(" ".join(text.split()))
    return text if len(text) <= 300 else text[:299] + "…"
