"""What fails: each failure is a row, is tried again as it deserves, and a run that fails as a whole ends at once."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path

import pytest

from rolloutops.config.resources import shipped
from rolloutops.errors import FAILURES
from tests.helpers import query, rolloutops, sums, write_jsonl
from tests.loopback import serving

FAST = ("--retry_seconds=0.01", "--num_samples_in_parallel=16")
SUMMARY = "SELECT (SELECT count(*) FROM rollouts), (SELECT count(*) FROM pending), (SELECT count(*) FROM given_up)"


def collect(folder: Path, url: str, *words: str, code: int = 0) -> str:
    """Collect the tasks of a folder from an endpoint; what was said on stderr."""
    given = (
        "--data=w",
        "--engine=openai",
        "--model=m",
        f"--base_url={url}",
        "--endpoint=chat",
        *FAST,
        "--max_given_up=1",
    )
    return rolloutops("collect", *given, *words, cwd=folder, code=code).stderr


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_jsonl(tmp_path / "tasks.jsonl", sums(200))
    recipe = '[datasets.sums]\ninput = "tasks.jsonl"\nenvironment = "exact_match"\n'
    (tmp_path / "r.toml").write_text(f'data = "w"\n{recipe}')
    rolloutops("chunk", "r.toml", cwd=tmp_path)
    return tmp_path


def test_each_fault_ends_in_a_rollout_or_a_typed_failure(folder: Path) -> None:
    faults = "400:0.02,429:0.03,500:0.02,truncated:0.02,reset:0.02,refuse:0.02,hang:0.02,context:0.02"
    with serving(faults=faults) as server:
        collect(folder, server.url, "--request_timeout=1.5")
    refused = {key for name, key in server.failed if name in ("400", "context")}
    healed = {key for name, key in server.failed} - refused
    assert len(refused) >= 3
    assert len(healed) >= 8
    assert query(folder / "w", SUMMARY) == [(200 - len(refused), 0, len(refused))]
    kinds = {kind for (kind,) in query(folder / "w", "SELECT DISTINCT error FROM failures")}
    assert kinds >= {
        "bad_request",
        "context_length",
        "rate_limited",
        "server_error",
        "bad_response",
        "connection",
        "timeout",
    }
    assert kinds <= set(FAILURES)
    raw = query(folder / "w", "SELECT count(*) FROM failures WHERE error = 'bad_response' AND response IS NULL")
    assert raw == [(0,)], "an answer that cannot be read is kept"
    slowest = query(folder / "w", "SELECT max(seconds) FROM attempts")[0][0]
    assert slowest < 1.5 + 5, "no request outlives its deadline"


def given_up(folder: Path, kind: str) -> int:
    """Rollouts that are given up for a kind of failure."""
    return query(folder / "w", f"SELECT count(*) FROM given_up WHERE last_error = '{kind}'")[0][0]


def test_what_was_given_up_is_pending_again_on_purpose_only(folder: Path) -> None:
    with serving(faults="400:0.05,500-final:0.05") as server:
        collect(folder, server.url)
    bad, broken = given_up(folder, "bad_request"), given_up(folder, "server_error")
    assert bad > 0
    assert broken > 0
    with serving() as server:
        collect(folder, server.url)
        assert server.seen == 0
        collect(folder, server.url, "--retry=bad_request")
        assert server.seen == bad
        collect(folder, server.url)
        assert server.seen == bad, "what an earlier run was told to retry is not retried for ever"
        assert query(folder / "w", SUMMARY) == [(200 - broken, 0, broken)]
        assert "did you mean 'server_error'" in collect(folder, server.url, "--retry=server_eror", code=2)
        collect(folder, server.url, "--retry=timeout,server_error")
    assert query(folder / "w", SUMMARY) == [(200, 0, 0)]


def test_what_is_given_up_is_never_shown_as_done(folder: Path) -> None:
    with serving(faults="400:0.05,500-final:0.05") as server:
        collect(folder, server.url)
    refused, broken = given_up(folder, "bad_request"), given_up(folder, "server_error")
    failures = json.loads(rolloutops("status", "--data=w", "--json", cwd=folder).stdout)["failures"]
    assert {row["error"]: row["given_up"] for row in failures} == {"bad_request": refused, "server_error": broken}
    with serving() as server:
        said = collect(folder, server.url, "--retry=bad_request")
    assert f"\n{200 - broken}/200 rollouts" in f"\n{said}"


def test_rollouts_that_could_not_be_verified_are_told(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "tasks.jsonl", sums(12))
    (tmp_path / "own.py").write_text(
        "class Own:\n    def verify(self, task, rollout): return 1 // (task.row['n'] % 4)\ndef make(): return Own()\n"
    )
    words = ("collect", "--input=tasks.jsonl", "--environment=own.py", "--engine=scripted", "--data=w")
    said = rolloutops(*words, cwd=tmp_path).stderr
    assert "failed attempts" not in said
    assert (
        "without a reward: 3 verifier_error; run status for the reasons; verify --retry_errors verifies them again"
        in said
    )
    reported = json.loads(rolloutops("status", "--data=w", "--json", cwd=tmp_path).stdout)["unrewarded"]
    why = "verify raised ZeroDivisionError: integer division or modulo by zero"
    assert reported == [{"dataset": "tasks", "without_reward": "verifier_error", "rollouts": 3, "example": why}]


def test_limits_of_a_dataset_are_its_own(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_jsonl(tmp_path / f"{name}.jsonl", sums(60))
    with serving(latency=0.02) as server:
        own = "max_tokens_total = 100, num_samples_in_parallel = 1"
        (tmp_path / "r.toml").write_text(
            f"""
            data = "w"
            [datasets.a]
            input = "a.jsonl"
            [datasets.b]
            input = "b.jsonl"
            collect = {{ {own} }}
            [collect]
            engine = "openai"
            model = "m"
            base_url = "{server.url}"
            """
        )
        rolloutops("chunk", "r.toml", cwd=tmp_path)
        rolloutops("collect", "r.toml", cwd=tmp_path, code=2)
    spent = dict(query(tmp_path / "w", "SELECT dataset, sum(input_tokens + output_tokens) FROM rollouts GROUP BY ALL"))
    assert spent["a"] > 500
    assert 80 <= spent["b"] <= 100


def test_a_dead_server_ends_the_run_and_nothing_is_given_up(folder: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    began = time.monotonic()
    said = collect(folder, url, code=2)
    assert time.monotonic() - began < 60
    assert "10 of the last 10 attempts failed (10 unreachable)" in said
    assert "Connect call failed" in said
    assert query(folder / "w", SUMMARY) == [(0, 200, 0)]
    with serving() as server:
        collect(folder, server.url)
    assert query(folder / "w", SUMMARY) == [(200, 0, 0)]


def test_a_parameter_that_is_wrong_for_all_ends_the_run_and_nothing_is_given_up(folder: Path) -> None:
    with serving(faults="400") as server:
        said = collect(folder, server.url, code=2)
        assert server.seen <= 10 + 16
    assert "bad_request" in said
    assert "no such parameter" in said
    assert query(folder / "w", SUMMARY) == [(0, 200, 0)]


def test_a_wrong_key_ends_the_run_at_once(folder: Path) -> None:
    with serving(faults="401") as server:
        said = collect(folder, server.url, code=2)
        assert server.seen <= 16
    assert "the key is wrong" in said
    assert query(folder / "w", SUMMARY) == [(0, 200, 0)]


def test_a_share_of_failures_may_end_the_run(folder: Path) -> None:
    with serving(faults="500:3") as server:
        said = collect(folder, server.url, "--max_failure_rate=0.2", "--max_attempts=9", code=2)
    assert "of the last 100 attempts failed" in said
    done, pending, given_up = query(folder / "w", SUMMARY)[0]
    assert done > 50
    assert pending == 200 - done
    assert given_up == 0


def test_failures_that_are_no_tries_are_the_same_in_sql_and_python() -> None:
    free = sorted(kind for kind, failure in FAILURES.items() if not failure.counted)
    assert f"NOT IN ({', '.join(repr(kind) for kind in free)})" in (shipped("sql") / "views.sql").read_text()
