"""What `status` tells: every attempt on disk is accounted for, of one moment, also while others write."""

from __future__ import annotations

import itertools
import json
import os
import pty
import random
import shutil
import signal
import subprocess
import sys
import termios
import time
import types
from collections import Counter
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest

from rolloutops.cli.commands.status import Screen
from rolloutops.cli.commands.status import sentences as shown
from rolloutops.cli.sizes import size
from rolloutops.collect import machine
from rolloutops.collect.live import live, running
from rolloutops.collect.status import Status
from rolloutops.collect.status import status as status_of
from rolloutops.config.plan import Plan, make_plan
from rolloutops.config.recipe_file import load
from rolloutops.limits.progress import Progress
from rolloutops.store import schema, sql
from rolloutops.store import snapshot as snapshots
from rolloutops.store.journal import Journal, seal_orphans
from rolloutops.store.workspace import Workspace, open_workspace, write_part
from tests.helpers import command, environ, query, rolloutops, sums, write_jsonl

RECIPE = """
data = "w"
[datasets.a]
input = "a.jsonl"
[datasets.b]
input = "b.jsonl"
[datasets.b.collect]
limit = 3
[collect]
engine = "scripted"
policy = "p"
num_repeats = 2
max_attempts = 2
"""


def plan_in(folder: Path) -> Plan:
    """The recipe of two datasets, of which one has a limit."""
    (folder / "r.toml").write_text(RECIPE.replace('"w"', json.dumps(str(folder / "w"))), encoding="utf-8")
    return make_plan(load(str(folder / "r.toml")))


def rows_on_disk(workspace: Workspace) -> int:
    """The rows of all attempt files, whatever their names, and of journals."""
    sealed = sum(pq.read_metadata(path).num_rows for path in workspace.root.glob("attempts/*/*.parquet"))
    lines = [line for path in workspace.root.glob("journals/*.jsonl") for line in path.read_text().splitlines()]
    return sealed + sum("attempts" in json.loads(line) for line in lines)


def any_workspace(folder: Path, seed: int) -> Workspace:
    """A workspace with tasks that were edited or removed, and with attempts of all fates, in parts and in a journal."""
    rng, workspace = random.Random(seed), open_workspace(folder / "w", create=True)
    tasks = list[dict[str, Any]]()
    for dataset, number in itertools.product("ab", range(6)):
        task = {"dataset": dataset, "task_id": f"t{number}", "row_hash": "h0", "version": 0, "removed": False}
        task |= {"part": 0, "line": number + 1, "row": "{}", "prompt": "[]", "prompt_hash": "x"}
        tasks.append(task)
        fate = rng.choice(["kept", "kept", "edited", "removed"])
        if fate != "kept":
            changed = {"version": 1, "removed": fate == "removed", "row_hash": "h0" if fate == "removed" else "h1"}
            tasks.append(task | changed)
    for dataset in "ab":
        rows = [task for task in tasks if task["dataset"] == dataset]
        write_part(workspace, "tasks", dataset, "part-00000", schema.table_of(schema.TASKS, rows))
    attempts = []
    for number in range(rng.randint(30, 120)):
        error = rng.choice([None, None, "timeout", "bad_request"])
        attempts.append(
            {
                **{"dataset": rng.choice("aaabbbc"), "task_id": f"t{rng.randint(0, 7)}"},
                **{"row_hash": rng.choice(["h0", "h0", "h1"]), "policy": rng.choice(["p", "p", "p", "q"])},
                **{"rollout_index": rng.randint(0, 2), "attempt": rng.randint(1, 3), "error": error},
                **{"final": error != "timeout", "engine": rng.choice(["scripted", "import:gym"]), "part": 0},
                **{"attempt_id": f"run-{number:08d}", "run_id": "run"},
            }
        )
    cut = rng.randint(0, len(attempts))
    for dataset in "abc":
        rows = [row for row in attempts[:cut] if row["dataset"] == dataset]
        for place in range(0, len(rows), 10):
            part = schema.table_of(schema.ATTEMPTS, rows[place : place + 10])
            path = write_part(workspace, "attempts", dataset, f"run-{place:04d}", part)
            if rng.random() < 0.3:
                shutil.copy(path, path.with_name(f"{path.stem} [copy] {seed}.parquet"))
    journal = workspace.root / "journals" / "run-9999.jsonl"
    journal.write_text("".join(json.dumps({"attempts": row}) + "\n" for row in attempts[cut:]), encoding="utf-8")
    return workspace


@pytest.mark.parametrize("seed", range(8))
def test_every_attempt_on_disk_is_accounted_for_once(tmp_path: Path, seed: int) -> None:
    plan, workspace = plan_in(tmp_path), any_workspace(tmp_path, seed)
    now = status_of(workspace, plan)
    assert sum(row["attempts"] for row in now.accounts) == now.on_disk == rows_on_disk(workspace)
    counted = {(row["dataset"], row["policy"]): row["attempts"] for row in now.accounts if row["account"] == "counted"}
    assert counted == {(row["dataset"], row["policy"]): row["done"] for row in now.progress if row["done"]}
    assert now.faults == []
    text = "\n".join(shown(now))
    assert f"{now.on_disk:,} attempts on disk: {sum(counted.values()):,} counted" in text


def test_every_reason_is_told(tmp_path: Path) -> None:
    plan = plan_in(tmp_path)
    workspaces = (any_workspace(tmp_path / str(seed), seed) for seed in range(3))
    rows = {row["account"] for workspace in workspaces for row in status_of(workspace, plan).accounts}
    assert rows == {
        "counted",
        "the recipe does not name this dataset",
        "its task, as it was then, is in no task file",
        "its task is gone from the input",
        "its task was edited since",
        "imported: in every view, but not requested by the recipe",
        "the recipe does not request this policy",
        "its rollout_index is beyond num_repeats",
        "its task is beyond limit",
        "an earlier attempt of the same rollout counts",
        "it failed; a later attempt succeeded",
        "it failed; the rollout is given up",
        "it failed; the rollout is still pending",
        "its part file is there under two names",
    }


def collect(folder: Path, data: str, *inputs: str, code: int = 0) -> None:
    """Chunk and collect files into a workspace."""
    words = (f"--input={','.join(inputs)}", "--dataset=sums", f"--data={data}", "--environment=exact_match")
    rolloutops("collect", *words, "--engine=scripted", cwd=folder, code=code)


def now_of(folder: Path, data: str) -> dict[str, Any]:
    """What `status --json` says."""
    rows: dict[str, Any] = json.loads(rolloutops("status", f"--data={data}", "--json", cwd=folder).stdout)
    return rows


def test_two_chunks_of_one_name_copied_together_are_named_and_can_be_mended(tmp_path: Path) -> None:
    tasks = sums(30)
    write_jsonl(tmp_path / "first.jsonl", tasks[:12])
    write_jsonl(tmp_path / "second.jsonl", tasks[12:])
    collect(tmp_path, "one", "first.jsonl")
    collect(tmp_path, "two", "second.jsonl")
    assert now_of(tmp_path, "one")["lost_tasks"] == []
    shutil.copytree(tmp_path / "two", tmp_path / "one", dirs_exist_ok=True)
    (lost,) = now_of(tmp_path, "one")["lost_tasks"]
    assert (lost["dataset"], lost["rollouts"], lost["tasks"]) == ("sums", 12, 12)
    text = rolloutops("status", "--data=one", cwd=tmp_path).stdout
    assert "12 rollouts of 12 tasks that are in no task file" in text
    assert "run chunk with an input that holds the lines of all of them" in text
    assert "12 tasks of first.jsonl" in text, "where each of the two came from"
    collect(tmp_path, "one", "first.jsonl", "second.jsonl")
    after = now_of(tmp_path, "one")
    assert after["lost_tasks"] == []
    assert [(row["wanted"], row["done"]) for row in after["progress"]] == [(30, 30)]
    assert query(tmp_path / "one", "SELECT count(DISTINCT run_id) FROM attempts") == [(2,)], "nothing was paid twice"


def test_tasks_that_no_rollout_names_yet_are_missed_too(tmp_path: Path) -> None:
    for name, tasks in (("one", sums(20)[:7]), ("two", sums(20)[7:])):
        write_jsonl(tmp_path / f"{name}.jsonl", tasks)
        words = (f"--input={name}.jsonl", "--dataset=sums", f"--data={name}")
        rolloutops("chunk", *words, cwd=tmp_path)
    shutil.copytree(tmp_path / "two", tmp_path / "one", dirs_exist_ok=True)
    assert [row["missing"] for row in now_of(tmp_path, "one")["lost_tasks"]] == [7]


def test_a_part_that_shares_some_rows_with_another_is_named(tmp_path: Path) -> None:
    plan, workspace = plan_in(tmp_path), open_workspace(tmp_path / "w", create=True)
    task = {"dataset": "a", "task_id": "t1", "row_hash": "h0", "version": 0, "removed": False, "part": 0}
    task |= {"row": "{}", "prompt": "[]", "prompt_hash": "x"}
    write_part(workspace, "tasks", "a", "part-00000", schema.table_of(schema.TASKS, [task]))
    for name, rows in (("run-0000", [meter_row(1), meter_row(3)]), ("merged", [meter_row(1), meter_row(2)])):
        write_part(workspace, "attempts", "a", name, schema.table_of(schema.ATTEMPTS, rows))
    now = status_of(workspace, plan)
    assert now.on_disk == sum(row["attempts"] for row in now.accounts) == 4
    text = "\n".join(shown(now))
    assert "merged.parquet and " in text
    assert "run-0000.parquet: keep one of these files" in text
    assert "please report" not in text


def test_edits_that_two_workspaces_made_apart_are_named(tmp_path: Path) -> None:
    rows = sums(8)
    write_jsonl(tmp_path / "t.jsonl", rows)
    collect(tmp_path, "one", "t.jsonl")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    for data in ("one", "two"):
        edited = [row | {"prompt": f"{row['prompt']} ({data})"} if row["n"] < 3 else row for row in rows]
        write_jsonl(tmp_path / "t.jsonl", [{**row, "id": row["n"]} for row in edited])
        collect(tmp_path, data, "t.jsonl")
    shutil.copytree(tmp_path / "two", tmp_path / "one", dirs_exist_ok=True)
    assert [row["tasks"] for row in now_of(tmp_path, "one")["lost_tasks"]] == [3]


@pytest.mark.parametrize("table", ["tasks", "attempts", "verdicts"])
def test_a_part_under_two_names_counts_once_in_every_view(tmp_path: Path, table: str) -> None:
    folder = tmp_path / "a [folder]"
    write_jsonl(folder / "t.jsonl", sums(10))
    collect(folder, "w", "t.jsonl")
    views = ("attempts", "verdicts", "task_log", "tasks", "rollouts", "logged", "failures", "task_stats", "wanted")
    counts = "SELECT " + ", ".join(f"(SELECT count(*) FROM {view})" for view in views)
    before = query(folder / "w", counts)
    (part,) = (folder / "w" / table / "sums").glob("*.parquet")
    shutil.copy(part, part.with_name("a copy.parquet"))
    other = folder / "w" / table / "sums (2)"
    other.mkdir()
    shutil.copy(part, other / part.name)
    assert query(folder / "w", counts) == before
    script = rolloutops("sql", "--data=w", "--print", cwd=folder).stdout
    con = sql.connect()
    con.execute(f"SET file_search_path = {sql.literal(str(folder))}")
    con.execute(script)
    assert con.execute(counts).fetchall() == before
    assert now_of(folder, "w")["faults"] == []


def meter_row(number: int) -> dict[str, Any]:
    """An attempt of task `number` that ended well."""
    row = {"dataset": "a", "task_id": f"t{number}", "row_hash": "h0", "policy": "p", "rollout_index": 0, "attempt": 1}
    return {**row, "attempt_id": f"run-{number:08d}", "run_id": "run", "part": 0, "final": True, "text": "x"}


@pytest.mark.parametrize("when", ["before it is read", "after it was read", "half"])
def test_a_row_that_moves_from_journal_to_part_counts_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    plan, workspace = plan_in(tmp_path), open_workspace(tmp_path / "w", create=True)
    tasks = [{"dataset": "a", "task_id": f"t{n}", "row_hash": "h0", "version": 0, "part": 0} for n in range(5)]
    rows = [{**task, "removed": False, "row": "{}", "prompt": "[]", "prompt_hash": "x"} for task in tasks]
    write_part(workspace, "tasks", "a", "part-00000", schema.table_of(schema.TASKS, rows))
    path = workspace.root / "journals" / "run-0000.jsonl"
    path.write_text("".join(json.dumps({"attempts": meter_row(n)}) + "\n" for n in range(5)), encoding="utf-8")
    read = snapshots._read

    def moving(journal: Path) -> bytes | None:
        if when == "before it is read":
            seal_orphans(workspace)
        text = read(journal)
        if when == "after it was read":
            seal_orphans(workspace)
        elif when == "half" and text is not None:  # its parts are there, and the journal is not yet removed
            kept = schema.table_of(schema.ATTEMPTS, [meter_row(n) for n in range(5)])
            write_part(workspace, "attempts", "a", journal.stem, kept)
        return text

    monkeypatch.setattr(snapshots, "_read", moving)
    now = status_of(workspace, plan)
    assert [row["done"] for row in now.progress if row["dataset"] == "a"] == [5]
    assert now.on_disk == 5
    assert now.unsealed == (5 if when == "half" else 0)


def test_a_journal_line_of_a_wrong_shape_does_not_stop_status(tmp_path: Path) -> None:
    plan, workspace = plan_in(tmp_path), open_workspace(tmp_path / "w", create=True)
    lines = [json.dumps({"attempts": meter_row(1)}), "[1]", "7", '{"attempts": [1]}', '{"other": {"dataset": "a"}}']
    lines += [json.dumps({"attempts": meter_row(2) | {"attempt": "two", "more": 1}}), '{"attempts": {"data']
    (workspace.root / "journals" / "run-0000.jsonl").write_text("\n".join(lines), encoding="utf-8")
    assert status_of(workspace, plan).on_disk == 1


def waiting(folder: Path) -> subprocess.Popen[bytes]:
    """A collection that is under way until it is killed: each answer takes an hour."""
    write_jsonl(folder / "t.jsonl", sums(20))
    words = ("--input=t.jsonl", "--dataset=sums", "--data=w", "--engine=scripted", "--engine_args.delay=3600")
    return subprocess.Popen(
        command("collect", *words, "--num_samples_in_parallel=7", "--request_timeout=7200"),
        cwd=folder,
        env=environ(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def test_what_is_in_flight_shows_from_another_terminal(tmp_path: Path) -> None:
    process = waiting(tmp_path)
    try:
        workspace = Workspace(tmp_path / "w")
        while not (shows := running(workspace)) or shows[0]["in_flight"] < 7:
            assert process.poll() is None
            time.sleep(0.05)
        (one,) = now_of(tmp_path, "w")["running"]
        assert (one["pid"], one["in_flight"], one["done"], one["noun"]) == (process.pid, 7, 0, "rollouts")
        text = rolloutops("status", "--data=w", cwd=tmp_path).stdout
        assert "7 in flight, 0 rollouts done, 0 failed" in " ".join(text.split())
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert list((tmp_path / "w" / "locks").glob("*.live")), "the file is left,"
    assert now_of(tmp_path, "w")["running"] == [], "and nobody takes it for a living command"
    with live(workspace, "other", Progress("verdicts", 1)):
        assert [one["run_id"] for one in running(workspace)] == ["other"]
    assert list((tmp_path / "w" / "locks").glob("*.live")) == []


def test_what_lies_in_a_journal_is_counted(tmp_path: Path) -> None:
    plan, workspace = plan_in(tmp_path), open_workspace(tmp_path / "w", create=True)
    journal = Journal(workspace, "run")
    try:
        journal.append("attempts", meter_row(1) | {"error": "timeout", "error_message": "x" * 300})
        journal.append("attempts", meter_row(1) | {"attempt": 2, "attempt_id": "run-00000009", "task_id": "t9"})
        now = status_of(workspace, plan)
        assert now.journals == {"rollouts": 1, "failures": 1, "verdicts": 0}
        assert now.on_disk == 2
        assert [row["error"] for row in now.failures] == ["timeout"]
        assert f"e.g.: {'x' * 300}" in "\n".join(shown(now)), "an example is shown whole"
    finally:
        journal.close()


def test_a_screen_is_drawn_over_the_one_before_on_a_terminal_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    leader, follower = pty.openpty()
    with os.fdopen(follower, "w") as terminal, os.fdopen(leader, "rb", buffering=0) as seen:
        termios.tcsetwinsize(follower, (24, 40))
        screen = Screen(terminal)
        screen.show("one\n" + "x" * 81)  # four lines of this terminal
        screen.show("two")
        written = b""
        while b"two\r\n" not in written:  # a terminal hands on what it was given by and by
            written += seen.read(4096)
        assert written.endswith(b"\x1b[4A\r\x1b[Jtwo\r\n")
    with (tmp_path / "out").open("w+") as file:
        screen = Screen(file)
        screen.show("one")
        screen.show("two")
        file.seek(0)
        assert file.read() == "one\n\ntwo\n"


def test_imports_are_shown_with_their_rewards(tmp_path: Path) -> None:
    rows = [
        {"messages": [{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": "x"}], "reward": n % 2}
        for n in range(6)
    ]
    write_jsonl(tmp_path / "made.jsonl", rows)
    rolloutops("import", "made.jsonl", "--data=w", "--dataset=sums", "--policy=else", cwd=tmp_path)
    now = now_of(tmp_path, "w")
    assert [(one["dataset"], one["policy"], one["rollouts"]) for one in now["imports"]] == [("sums", "else", 6)]
    assert now["on_disk"] == 6


def test_a_disk_too_small_for_what_is_pending_is_told(tmp_path: Path) -> None:
    plan, workspace = plan_in(tmp_path), any_workspace(tmp_path, 1)
    now = status_of(workspace, plan)
    assert now.space["pending_bytes"] > 0
    assert now.space["bytes"]["attempts"] == sum(
        path.stat().st_size for path in workspace.root.glob("attempts/*/*.parquet")
    )
    assert "the disk will be full" not in "\n".join(shown(now))
    full = Status(**{**vars(now), "space": {**now.space, "free_bytes": 1}})
    assert "the disk will be full before all pending rollouts are collected: free some space" in "\n".join(shown(full))
    assert [size(n) for n in (0, 999, 1000, 2_500_000, 7_000_000_000_000)] == ["0 B", "999 B", "1 kB", "2.5 MB", "7 TB"]


def test_nvml_is_shown_where_it_answers_and_never_in_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = types.ModuleType("pynvml")
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setattr(machine, "GPU_DEVICES", ["/"])
    assert machine.gpus() == [], "a module that has nothing of NVML"
    calls = Counter[str]()
    nvml.nvmlInit = nvml.nvmlShutdown = lambda: calls.update(["call"])  # type: ignore[attr-defined]
    nvml.nvmlDeviceGetCount = lambda: 1  # type: ignore[attr-defined]
    nvml.nvmlDeviceGetHandleByIndex = lambda number: number  # type: ignore[attr-defined]
    nvml.nvmlDeviceGetName = lambda handle: b"H200"  # type: ignore[attr-defined]
    nvml.nvmlDeviceGetMemoryInfo = lambda handle: types.SimpleNamespace(used=2, total=9)  # type: ignore[attr-defined]
    assert machine.gpus() == [{"name": "H200", "used_bytes": 2, "total_bytes": 9}]
    assert calls == {"call": 2}


VERIFIERS = """
import time
class Waits:
    def verify(self, task, rollout):
        time.sleep(0.03)
        return 1.0
class Computes:
    runs = "process"
    def verify(self, task, rollout):
        end = time.thread_time() + 0.03
        while time.thread_time() < end:
            pass
        return 1.0
class WaitsElsewhere:
    async def verify(self, task, rollout):
        import asyncio
        await asyncio.sleep(0.03)
        return 1.0
"""


@pytest.mark.parametrize(("kind", "computes"), [("Waits", False), ("Computes", True), ("WaitsElsewhere", False)])
def test_a_verdict_tells_how_long_it_computed(tmp_path: Path, kind: str, computes: bool) -> None:
    (tmp_path / "own.py").write_text(VERIFIERS, encoding="utf-8")
    write_jsonl(tmp_path / "t.jsonl", sums(4))
    words = ("--input=t.jsonl", "--dataset=sums", "--data=w", "--engine=scripted", f"--environment=own:{kind}")
    rolloutops("collect", *words, cwd=tmp_path)
    for seconds, cpu in query(tmp_path / "w", "SELECT seconds, cpu_seconds FROM verdicts"):
        assert cpu >= 0.029 if computes else cpu < 0.5 * seconds
    rows = json.loads(rolloutops("metrics", "--data=w", "--step=bottleneck", "--json", cwd=tmp_path).stdout)
    if not computes:  # where the machine is busy, one that computes waits for the CPU
        assert rows["metrics/bottleneck"][0]["bottleneck"] == "verification: waiting"


def test_verdicts_of_an_older_version_have_no_cpu_time(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "t.jsonl", sums(4))
    collect(tmp_path, "w", "t.jsonl")
    (part,) = (tmp_path / "w" / "verdicts" / "sums").glob("*.parquet")
    pq.write_table(pq.read_table(part).drop_columns(["cpu_seconds"]), part)
    assert query(tmp_path / "w", "SELECT count(*), count(cpu_seconds) FROM verdicts") == [(4, 0)]
    rolloutops("metrics", "--data=w", "--step=bottleneck", cwd=tmp_path)


def test_only_wanted_rollouts_count_as_verified(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "tasks.jsonl", sums(6))
    words = ["--input=tasks.jsonl", "--data=w", "--environment=exact_match", "--engine=scripted"]
    rolloutops("collect", *words, cwd=tmp_path)
    rolloutops("collect", *words, "--limit=2", cwd=tmp_path)
    (row,) = json.loads(rolloutops("status", "--data=w", "--json", cwd=tmp_path).stdout)["progress"]
    assert (row["wanted"], row["done"], row["verified"]) == (2, 2, 2)


def test_a_part_that_was_written_again_under_another_name_counts_once(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", sums(5))
    collect(tmp_path, "w", "a.jsonl")
    before = now_of(tmp_path, "w")
    averages = rolloutops("metrics", "--data=w", "--json", cwd=tmp_path).stdout
    for table in ("attempts", "verdicts"):
        (part,) = (tmp_path / "w" / table / "sums").glob("*.parquet")
        again = part.with_name("compacted.parquet")
        duckdb.sql(f"COPY (FROM read_parquet('{part}') ORDER BY task_id DESC) TO '{again}' (FORMAT parquet)")
        assert again.read_bytes() != part.read_bytes()
    now = now_of(tmp_path, "w")
    assert [now[name] for name in ("progress", "unrewarded")] == [before[name] for name in ("progress", "unrewarded")]
    assert now["faults"] == []
    rows = {row["account"]: row["attempts"] for row in now["accounts"]}
    assert rows == {"counted": 5, "its part file is there under two names": 5}
    assert rolloutops("metrics", "--data=w", "--json", cwd=tmp_path).stdout == averages
    assert "nothing to collect" in rolloutops("collect", "--data=w", cwd=tmp_path).stderr
    next((tmp_path / "w/attempts/sums").glob("2*.parquet")).unlink()
    assert query(tmp_path / "w", "SELECT count(*), count(reward) FROM rollouts") == [(5, 5)], "the other name is left"
