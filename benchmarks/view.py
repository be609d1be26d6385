"""What the viewer costs on a large workspace: its start, each request's CPU beside the raw query's, its memory.

    python -m benchmarks.view FOLDER [ROLLOUTS=1000000] [--chromium]

makes a workspace of that many rollouts in FOLDER unless it is there (1,000,000: about 670 MB), compacts it, serves it
with the command `view` and asks each page ten times. CPU is that of the server's process, from /proc, so that other
work on the machine disturbs it least; the raw query is what a DuckDB shell would run on the same files, or on the
index.
--chromium: what a reader waits for in Chromium instead (needs playwright and Debian's chromium).
"""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import duckdb
import pyarrow as pa

from benchmarks import view_chromium
from rolloutops.store import schema
from rolloutops.store.base_views import duckdb_type

TASK_ROLLOUTS = 8
PART_ROWS = 50_000
RUN = "20260101T000000-bbbbbb"
ROUNDS = 10

RECIPE = """
data = "workspace"

[datasets.large]
input = "large.jsonl"

[collect]
engine = "scripted"
num_repeats = 4

[policies.a]
[policies.b]
"""

TASKS = {
    "dataset": "'large'",
    "task_id": "md5('task' || t)",
    "row_hash": "md5('row' || t)",
    "version": "0",
    "removed": "false",
    "part": "t // 1000",
    "origin": "'large.jsonl'",
    "line": "t + 1",
    "row": "to_json({'prompt': 'What is ' || t || '?'})",
    "prompt": "to_json([{'role': 'user', 'content': 'What is ' || t || '? ' || md5('q' || t) || md5('r' || t)}])",
    "prompt_hash": "md5('prompt' || t)",
    "answer": "t::VARCHAR",
}

TEXT = "array_to_string([md5(i || ':' || n) FOR n IN range(12)], ' ')"

ATTEMPTS = {
    "dataset": "'large'",
    "task_id": f"md5('task' || i // {TASK_ROLLOUTS})",
    "row_hash": f"md5('row' || i // {TASK_ROLLOUTS})",
    "policy": "if(i % 2 = 0, 'a', 'b')",
    "rollout_index": f"(i % {TASK_ROLLOUTS}) // 2",
    "attempt": "1",
    "attempt_id": f"'{RUN}-' || lpad(i::VARCHAR, 8, '0')",
    "part": f"i // {TASK_ROLLOUTS} // 1000",
    "run_id": f"'{RUN}'",
    "engine": "'scripted'",
    "model": "'scripted'",
    "final": "true",
    "request": "to_json({'temperature': 0.7})",
    "response": f"to_json([{TEXT}])::VARCHAR",
    "completion": f"to_json([{{'role': 'assistant', 'content': {TEXT}}}])",
    "text": TEXT,
    "finish_reason": "if(hash(i, 'f') % 20 = 0, 'length', 'stop')",
    "turns": "1 + hash(i, 't') % 6",
    "tool_calls": "hash(i, 't') % 6",
    "tool_errors": "0",
    "tool_names": "list_transform(range((hash(i, 't') % 6)::BIGINT), lambda x: 'tool_' || x)",
    "input_tokens": "50 + hash(i, 'i') % 150",
    "output_tokens": "50 + hash(i, 'o') % 900",
    "started_at": "make_timestamptz(1767225600000000 + i * 10000)",
    "seconds": "hash(i, 's') % 1000 / 100.0",
    "model_seconds": "hash(i, 's') % 1000 / 100.0",
    "tool_seconds": "0",
}

VERDICTS = {
    "verdict_id": f"'{RUN}-' || lpad(i::VARCHAR, 8, '0')",
    **{name: ATTEMPTS[name] for name in ("dataset", "task_id", "policy", "rollout_index", "attempt_id")},
    "verifier": "'exact_match'",
    "verifier_version": "'1'",
    "reward": "hash(i, 'r') % 101 / 100.0",
    "details": "to_json({'reward': hash(i, 'r') % 101 / 100.0})",
    "seconds": "0.00001",
    "cached": "false",
    "run_id": f"'{RUN}'",
}


def generate(root: Path, rollouts: int) -> None:
    """Write the tables of a workspace with DuckDB, in the product's schema."""
    for folder in ("runs", "jobs", "journals", "locks"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for table, values, count, name in (
        ("tasks", TASKS, rollouts // TASK_ROLLOUTS, "t"),
        ("attempts", ATTEMPTS, rollouts, "i"),
        ("verdicts", VERDICTS, rollouts, "i"),
    ):
        columns = ", ".join(_column(field, values) for field in schema.TABLES[table])
        (root / table / "large").mkdir(parents=True, exist_ok=True)
        for number, first in enumerate(range(0, count, PART_ROWS)):
            part = f"part-{number:05}" if table == "tasks" else f"{RUN}-{number:04}"
            path = root / table / "large" / f"{part}.parquet"
            source = f"SELECT {columns} FROM range({first}, {min(first + PART_ROWS, count)}) AS r({name})"
            duckdb.execute(f"COPY ({source}) TO '{path}' (COMPRESSION zstd, ROW_GROUP_SIZE {schema.GROUP_ROWS})")


def _column(field: pa.Field, values: dict[str, str]) -> str:
    return f'({values.get(field.name, "NULL")})::{duckdb_type(field.type)} AS "{field.name}"'


def cpu(pid: int) -> float:
    """Seconds of CPU that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory(pid: int, what: str) -> int:
    """MB of a process: VmRSS now, VmHWM at most so far."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith(what))


class Client:
    """Asks a running viewer."""

    def __init__(self, link: str) -> None:
        parts = urlsplit(link)
        self.http = HTTPConnection(parts.hostname or "", parts.port, timeout=600)
        self.http.request("GET", f"/?{parts.query}")
        answer = self.http.getresponse()
        answer.read()
        self.cookie = (answer.headers["Set-Cookie"] or "").split(";")[0]

    def get(self, name: str, **params: str) -> bytes:
        """The body of an answer."""
        self.http.request("GET", f"/api/{name}?{urlencode(params)}", headers={"Cookie": self.cookie})
        return self.http.getresponse().read()


def measure(pid: int, ask: Callable[[int], object]) -> tuple[float, float]:
    """Medians of a request, in ms: the server's CPU, and the time until its answer."""
    spent, took = [], []
    for number in range(ROUNDS):
        before, began = cpu(pid), time.perf_counter()
        ask(number)
        took.append((time.perf_counter() - began) * 1000)
        spent.append((cpu(pid) - before) * 1000)
    return statistics.median(spent), statistics.median(took)


def raw(con: duckdb.DuckDBPyConnection, query: str) -> float:
    """The median CPU of a query in this process, in ms."""
    spent = []
    for _ in range(ROUNDS):
        before = time.process_time()
        con.execute(query).fetchall()
        spent.append((time.process_time() - before) * 1000)
    return statistics.median(spent)


def main(folder: Path, rollouts: int, chromium: bool = False) -> None:
    """Measure, and print a table."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.toml").write_text(RECIPE, encoding="utf-8")
    root = folder / "workspace"
    if not (root / "verdicts").is_dir():
        generate(root, rollouts)
        subprocess.run([sys.executable, "-m", "rolloutops", "compact", "recipe.toml"], cwd=folder, check=True)
    size = sum(file.stat().st_size for file in root.rglob("*.parquet"))
    words = [sys.executable, "-m", "rolloutops", "view", "recipe.toml", "--port=0", "--no-open"]
    began = time.perf_counter()
    server = subprocess.Popen(words, cwd=folder, stdout=subprocess.PIPE, text=True)
    try:
        report(server, began, root, rollouts, size, chromium)
    finally:
        server.send_signal(signal.SIGINT)
        server.wait()


def report(server: subprocess.Popen[str], began: float, root: Path, rollouts: int, size: int, chromium: bool) -> None:
    """Ask a server that has just been started, and print what its answers cost."""
    assert server.stdout is not None
    link = server.stdout.readline().strip()
    print(f"{rollouts:,} rollouts, {size / 1e6:,.0f} MB of Parquet")
    start = f"start: {time.perf_counter() - began:.1f} s, {cpu(server.pid):.1f} s of CPU"
    print(f"{start}, {memory(server.pid, 'VmRSS')} MB, {memory(server.pid, 'VmHWM')} MB at most")
    if chromium:
        print("| in Chromium | ms | longest |\n|---|---|---|")
        for name, took, longest in view_chromium.measure(link):
            print(f"| {name} | {took:,.0f} | {longest:,.0f} |")
    else:
        report_requests(server, link, root, rollouts)
    print(f"\nin the end {memory(server.pid, 'VmRSS')} MB, {memory(server.pid, 'VmHWM')} MB at most")


def report_requests(server: subprocess.Popen[str], link: str, root: Path, rollouts: int) -> None:
    """Ask a server for each page, and print what its answers cost beside the raw queries."""
    con = duckdb.connect()
    files = {table: f"read_parquet('{root}/{table}/large/*.parquet')" for table in ("tasks", "attempts", "verdicts")}
    verdicts = f"(SELECT attempt_id, reward FROM {files['verdicts']}) AS v"
    columns = "a.attempt_id, policy, reward, output_tokens, finish_reason"
    con.execute(
        f"CREATE TABLE small AS SELECT {columns} FROM {files['attempts']} AS a JOIN {verdicts} USING (attempt_id)"
    )
    client = Client(link)
    attempts = [f"{RUN}-{number * rollouts // ROUNDS:08}" for number in range(ROUNDS)]
    middle = f'["0.5", "{attempts[5]}", "large"]'
    deep = f"(reward < 0.5 OR (reward = 0.5 AND attempt_id > '{attempts[5]}'))"
    by_reward = "ORDER BY reward DESC, attempt_id LIMIT 100"
    one = f"SELECT completion, response FROM {files['attempts']} WHERE attempt_id = '{attempts[5]}'"
    cases: list[tuple[str, Callable[[int], object], str]] = [
        ("first page", lambda _: client.get("rows"), "FROM small ORDER BY attempt_id DESC LIMIT 100"),
        ("first page by reward", lambda _: client.get("rows", sort="-reward"), f"FROM small {by_reward}"),
        (
            "a page in the middle",
            lambda _: client.get("rows", sort="-reward", key=middle),
            f"FROM small WHERE {deep} {by_reward}",
        ),
        ("facets and total", lambda _: client.get("totals"), "SELECT policy, count(*) FROM small GROUP BY policy"),
        (
            "facets under a condition",
            lambda n: client.get("totals", where=f"output_tokens > {n}"),
            "SELECT policy, count(*) FROM small WHERE output_tokens > 5 GROUP BY policy",
        ),
        ("histogram", lambda _: client.get("histogram"), "SELECT reward, count(*) FROM small GROUP BY reward"),
        ("a rollout", lambda n: client.get("rollout", of="large", attempt=attempts[n]), one),
        (
            "its neighbors",
            lambda n: client.get("neighbors", of="large", attempt=attempts[n], sort="-reward"),
            f"FROM small WHERE {deep} {by_reward}",
        ),
        (
            "two policies",
            lambda _: client.get("compare", a="a", b="b"),
            "SELECT policy, avg(reward) FROM small GROUP BY policy",
        ),
        ("runs", lambda _: client.get("runs"), "SELECT policy, count(*) FROM small GROUP BY policy"),
        ("failures", lambda _: client.get("failures"), "SELECT 1"),
        (
            "a condition over texts",
            lambda n: client.get("totals", where=f"text LIKE '%{n}abc%'"),
            f"SELECT count(*) FROM {files['attempts']} WHERE text LIKE '%abc%'",
        ),
    ]
    print("| request | server, CPU ms | raw query, CPU ms | ms until the answer |\n|---|---|---|---|")
    for name, ask, query in cases:
        spent, took = measure(server.pid, ask)
        print(f"| {name} | {spent:,.0f} | {raw(con, query):,.0f} | {took:,.0f} |")


if __name__ == "__main__":
    words = [word for word in sys.argv[1:] if word != "--chromium"]
    main(Path(words[0]), int(words[1]) if len(words) > 1 else 1_000_000, "--chromium" in sys.argv)
