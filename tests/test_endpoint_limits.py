"""What an endpoint leaves open: a model that still loads, replies without usage, more requests than files."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest

from rolloutops.cli.commands.collect import REMEDIES
from rolloutops.errors import FAILURES
from rolloutops.formats.loading import is_loading
from rolloutops.formats.openai_replies import failure
from rolloutops.limits.token_estimate import estimate, estimate_prompts
from tests.helpers import command, environ, query, rolloutops, sums, write_jsonl
from tests.loopback import Loopback, Reply, serving

GIVEN = ("collect", "--data=w", "--engine=openai", "--endpoint=chat", "--model=m", "--input=tasks.jsonl")


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (503, "Loading model"),
        (503, "Model meta-llama/Llama-3.1-8B is currently loading"),
        (503, "process can not ProxyRequest, state is starting"),
        (503, "The model is warming up, try again"),
        (503, "Server is still initializing"),
        (503, "no healthy upstream"),
        (503, "No available workers"),
        (500, "llm server loading model"),
        (429, "ModelNotReadyException: the model is not ready for inference"),
    ],
)
def test_servers_say_that_they_are_loading(status: int, text: str) -> None:
    assert is_loading(status, text)


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (503, "Service Unavailable"),
        (500, "llama runner process has terminated: error loading model"),
        (503, "failed to load model"),
        (400, "model is loading"),
        (429, "Rate limit reached for requests"),
        (503, "server busy, please try again. maximum pending requests exceeded"),
        (500, "CUDA out of memory while loading"),
    ],
)
def test_other_failures_are_not_taken_for_it(status: int, text: str) -> None:
    assert not is_loading(status, text)


def test_an_estimate_is_believed_for_a_minute() -> None:
    bodies = [
        {"error": "Model x is currently loading", **more}
        for more in ({"estimated_time": 20.5}, {"estimated_time": 1e9}, {})
    ]
    failures = [failure(503, {}, json.dumps(body).encode()) for body in bodies]
    assert [(one.kind, one.retry_after) for one in failures] == [
        ("loading", 20.5),
        ("loading", 60.0),
        ("loading", None),
    ]


def loading(message: str, **more: Any) -> Reply:
    return 503, {"Content-Type": "application/json"}, json.dumps({"error": message, **more}).encode()


@pytest.mark.parametrize("before", [0, 30], ids=["at the start", "in mid-run"])
def test_a_model_that_loads_is_waited_for(tmp_path: Path, before: int) -> None:
    """More refusals than would end a run, and than a rollout has attempts: none is given up, none counts."""
    write_jsonl(tmp_path / "tasks.jsonl", sums(60))
    faults = [None] * before + [loading("Model x is currently loading", estimated_time=0.05)] * 11
    with serving(faults=faults) as server:
        few = ("--num_samples_in_parallel=4", "--retry_seconds=0.01", "--max_attempts=1")
        rolloutops(*GIVEN, *few, f"--base_url={server.url}", cwd=tmp_path)
    assert query(tmp_path / "w", "SELECT count(*) FROM rollouts") == [(60,)]
    assert query(tmp_path / "w", "SELECT DISTINCT error FROM failures") == [("loading",)]
    assert query(tmp_path / "w", "SELECT count(*) FROM given_up") == [(0,)]


def test_what_waited_for_an_endpoint_until_its_deadline_is_given_up_for_that(tmp_path: Path) -> None:
    """Not as rate limited: the remedy is another one. The line above it names the kind to retry."""
    write_jsonl(tmp_path / "tasks.jsonl", sums(12))
    with serving(faults=[loading("Loading model")] * 1000) as server:
        few = ("--num_samples_in_parallel=12", "--retry_seconds=0.1", "--deadline=1.5")
        done = rolloutops(*GIVEN, *few, f"--base_url={server.url}", cwd=tmp_path, code=4)
    assert query(tmp_path / "w", "SELECT DISTINCT error FROM attempts") == [("loading",)]
    assert query(tmp_path / "w", "SELECT count(*) FROM given_up") == [(12,)]
    assert "to fix it, wait until the endpoint has loaded its model, or set a longer deadline" in done.stderr
    assert "with --retry=loading\n" in done.stderr
    assert "requests_per_minute" not in done.stderr
    assert "before that: 503: Loading model" in done.stderr, "the cause is kept"


def test_every_kind_of_which_rollouts_are_given_up_has_a_remedy() -> None:
    assert FAILURES.keys() - REMEDIES.keys() == {"unauthorized"}, "which ends the run"


@dataclass
class Silent(Loopback):
    """Tells no usage."""

    async def _deliver(self, request: Any, status: int, headers: Any, data: bytes, entry: Any) -> Any:
        reply = orjson.loads(data)
        reply.pop("usage", None)
        return await super()._deliver(request, status, headers, orjson.dumps(reply), entry)


def test_a_token_budget_holds_without_usage_over_runs(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "tasks.jsonl", sums(100))
    (tmp_path / "prices.toml").write_text('["m"]\ninput = 1.0\noutput = 10.0\n')
    with serving(Silent) as server:
        words = (*GIVEN, f"--base_url={server.url}", "--num_samples_in_parallel=2")
        limits = ("--max_tokens_total=1500", "--prices=prices.toml")
        said = rolloutops(*words, *limits, cwd=tmp_path, code=2).stderr
        assert said.count("replies without usage") == 1
        assert "the budget is spent" in said
        first = server.seen
        assert 20 <= first <= 60
        rolloutops(*words, *limits, cwd=tmp_path, code=2)
        assert server.seen <= first + 2, "the next run counts what this one took"
        assert "estimated_tokens" in rolloutops("status", "--data=w", cwd=tmp_path).stdout
        assert query(tmp_path / "w", "SELECT count(input_tokens), count(output_tokens) FROM attempts") == [(0, 0)]
        money = ("--max_cost=0.01", "--prices=prices.toml")
        assert "the budget is spent" in rolloutops(*words, *money, cwd=tmp_path, code=2).stderr
    spent = query(tmp_path / "w", "SELECT sum(length(completion)) / 4 * 10 / 1e6 FROM attempts")[0][0]
    assert 0.004 <= spent <= 0.011


def test_an_estimate_counts_each_turn() -> None:
    assert estimate("12345") == 2
    assert estimate_prompts(10, 8, 1) == 10
    assert estimate_prompts(10, 8, 3) == 38


def limited(files: int, *words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A command that may have so many files open."""
    shell = ["bash", "-c", f'ulimit -n {files}; exec "$@"', "-", *command(*words)]
    return subprocess.run(shell, cwd=cwd, env=environ(), capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.parametrize("width", ["500", "auto"])
def test_no_more_in_flight_than_files_may_be_open(tmp_path: Path, width: str) -> None:
    write_jsonl(tmp_path / "tasks.jsonl", sums(600))
    with serving(latency=0.05, keep_bodies=False) as server:
        given = (*GIVEN, f"--base_url={server.url}", f"--num_samples_in_parallel={width}")
        done = limited(160, *given, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert ("160 files open" in done.stderr) == (width == "500")
    assert query(tmp_path / "w", "SELECT count(*), count(*) FILTER (WHERE error IS NULL) FROM attempts") == [(600, 600)]


def test_too_few_files_are_refused_at_the_start(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "tasks.jsonl", sums(5))
    with serving() as server:
        done = limited(50, *GIVEN, f"--base_url={server.url}", "--num_samples_in_parallel=5", cwd=tmp_path)
        assert server.seen == 0
    assert done.returncode == 2
    assert "ulimit -n" in done.stderr
    assert "Traceback" not in done.stderr
