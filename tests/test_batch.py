"""Collection by batches: paid once, whatever dies; nothing that was paid is lost, and nothing is pending silently."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import re
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from rolloutops.cli.commands.chunk import chunk_inputs
from rolloutops.config.plan import make_plan
from rolloutops.config.recipe_file import load
from rolloutops.config.resources import shipped
from rolloutops.engines.batch import OpenAIBatches
from rolloutops.errors import AttemptFailed, UsageError
from rolloutops.store.workspace import open_workspace, try_lock
from rolloutops.types import ModelAnswer
from tests.batch_server import BatchServer, serving
from tests.helpers import query, sums, write_jsonl

RECIPE = """
data = "w"
[datasets.sums]
input = "tasks.jsonl"
environment = "exact_match"
[chunk]
rows_per_part = 5
[collect]
engine = "batch"
model = "m"
api_key_env = "TEST_KEY"
base_url = "{url}"
max_attempts = 2
max_given_up = 1.0
[collect.responses_create_params]
temperature = 0.7
[collect.engine_args]
requests_per_batch = 6
settle_seconds = 0.05
poll_seconds = 0.02
"""
KEY = "sk-secret-of-the-test"
TASKS = sums(16)
PROMPTS = Counter(task["prompt"] for task in TASKS)
WAIT = "--engine_args.wait=true"

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(
    ["tests.test_batch", "rolloutops.build.build", "rolloutops.collect.batch", "openai.resources.batches"]
)


def _run(words: list[str], folder: str, log: str, die_at: str) -> None:
    """The command line, in a process that dies at a point: `NAME:before` and `NAME:after` a part file whose path holds
    NAME is in its place, or `journal:N`, after so many lines."""
    os.chdir(folder)
    os.environ["TEST_KEY"] = KEY
    fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    name, _, when = die_at.partition(":")
    if name == "journal":
        from rolloutops.store.journal import Journal

        append, lines = Journal.append, [0]

        def counted(self: Journal, table: str, row: dict[str, Any]) -> None:
            append(self, table, row)
            lines[0] += 1
            if lines[0] == int(when):
                os.kill(os.getpid(), signal.SIGKILL)

        Journal.append = counted  # type: ignore[method-assign]
    elif name:
        replace = os.replace

        def dying(source: Any, target: Any) -> None:
            if when == "before" and name in str(target):
                os.kill(os.getpid(), signal.SIGKILL)
            replace(source, target)
            if name in str(target):
                os.kill(os.getpid(), signal.SIGKILL)

        os.replace = dying  # type: ignore[assignment]
    from rolloutops.cli.main import main

    sys.exit(main(words))


def rolloutops(*words: str, cwd: Path, code: int = 0, die_at: str = "", server: BatchServer | None = None) -> str:
    """Run a command as a process and expect an exit code, -9 for one that is killed. Returns all that it wrote."""
    log = cwd / "log.txt"
    process = processes.Process(target=_run, args=(list(words), str(cwd), str(log), die_at))
    process.start()
    if server is not None:
        server.victim = process.pid or 0
    process.join(120)
    said = log.read_text() if log.exists() else ""
    assert process.exitcode == code, f"exit {process.exitcode}, not {code}:\n{said}"
    assert "Traceback" not in said
    return said


def project(folder: Path, server: BatchServer, tasks: list[dict[str, Any]] = TASKS, recipe: str = RECIPE) -> Path:
    """A workspace with tasks, whose recipe asks a server."""
    gold = {task["prompt"]: task["answer"] for task in tasks}
    server.answer = lambda prompt: gold[prompt]
    write_jsonl(folder / "tasks.jsonl", tasks)
    (folder / "recipe.toml").write_text(recipe.format(url=server.url))
    chunk(folder)
    return folder


def chunk(folder: Path) -> None:
    """Input files -> tasks, without a process of its own."""
    with contextlib.chdir(folder):
        chunk_inputs(make_plan(load("recipe.toml")))


def rows(folder: Path, text: str) -> list[tuple[Any, ...]]:
    return query(folder / "w", text)


def assert_sound(folder: Path) -> None:
    """Every wanted rollout is exactly one of done, pending, submitted and given up; the key is nowhere."""
    assert rows(folder, (shipped("sql") / "checks" / "invariant.sql").read_text().strip().rstrip(";")) == []
    for path in (folder / "w").rglob("*"):
        assert not path.is_file() or KEY.encode() not in path.read_bytes(), path


def assert_paid_once(folder: Path, server: BatchServer) -> None:
    """All is there, verified and right, and each task was paid once."""
    assert_sound(folder)
    assert rows(folder, "SELECT count(*), count(DISTINCT task_id), avg(reward) FROM rollouts") == [(16, 16, 1.0)]
    assert rows(folder, "SELECT count(*), count(DISTINCT attempt_id) FROM attempts") == [(16, 16)]
    assert rows(folder, "SELECT count(*) FROM open_jobs") == [(0,)]
    assert server.paid == PROMPTS


def test_submit_and_exit_then_collect(tmp_path: Path) -> None:
    with serving(looks=1) as server:
        folder = project(tmp_path, server)
        said = rolloutops("collect", "recipe.toml", cwd=folder, code=3)
        assert "3 batch jobs submitted for 16 rollouts" in said
        assert server.log == ["upload", "create"] * 3
        assert rows(folder, "SELECT status, count(*) FROM wanted_states GROUP BY status") == [("submitted", 16)]
        assert rows(folder, "SELECT state, requests FROM open_jobs ORDER BY job_id") == [
            *(("submitted", 6), ("submitted", 6), ("submitted", 4))
        ]
        assert_sound(folder)
        rolloutops("collect", "recipe.toml", cwd=folder, code=3)
        assert server.log[6:] == ["look"] * 3, "what is under way is not submitted again"
        said = rolloutops("collect", "recipe.toml", cwd=folder)
        assert "16 rollouts collected" in said
        assert_paid_once(folder, server)
        rolloutops("collect", "recipe.toml", cwd=folder)
        assert server.paid == PROMPTS
        assert {entry["Authorization"] for entry in server.headers} == {f"Bearer {KEY}"}
    bodies = [
        json.loads(line) for name, data in server.files.values() if "rolloutops" in name for line in data.splitlines()
    ]
    attempt = "SELECT attempt_id, request::VARCHAR, text, turns, input_tokens, seconds, epoch(started_at), response"
    found = {row[0]: row[1:] for row in rows(folder, f"{attempt} FROM attempts")}
    assert {body["custom_id"] for body in bodies} == set(found), "a request's custom id is its attempt's id"
    for body in bodies:
        assert body["body"]["temperature"] == 0.7
        request, text, turns, tokens, seconds, started, response = found[body["custom_id"]]
        assert (json.loads(request), turns, tokens, seconds) == ({"temperature": 0.7}, 1, 5, 60.0)
        assert started in (1_000_000, 1_000_001, 1_000_002)
        assert text == server.answer(body["body"]["input"][-1]["content"])
        assert response.startswith('[{"id": "r"'), "the answer is kept byte for byte"
        assert '"cost": 1e-05' in response


KILLS: dict[str, list[tuple[str, str]]] = {
    "before the upload": [("upload", "kill")],
    "after the upload": [("upload", "kill-done")],
    "before the batch is made": [("create", "kill")],
    "after the batch is made": [("create", "kill-done")],
    "after the second batch is made": [("create", ""), ("create", "kill-done")],
    "before it is looked up": [("create", "kill-done"), ("list", "kill")],
    "after it is looked up": [("create", "kill-done"), ("list", "kill-done")],
    "before it is looked at": [("look", "kill")],
    "before the download": [("download", "kill")],
    "before the second download": [("download", ""), ("download", "kill-done")],
}


@pytest.mark.parametrize("point", KILLS)
def test_killed_between_requests_pays_once(tmp_path: Path, point: str) -> None:
    with serving(faults=list(KILLS[point]), unlisted=1) as server:
        folder = project(tmp_path, server)
        for _ in [fault for _, fault in KILLS[point] if fault]:
            rolloutops("collect", "recipe.toml", WAIT, cwd=folder, code=-signal.SIGKILL, server=server)
            assert_sound(folder)
        assert not server.faults
        rolloutops("collect", "recipe.toml", WAIT, cwd=folder)
        assert_paid_once(folder, server)


POINTS = ("uploaded:before", "submitted:before", "/attempts/:before", "/attempts/:after", "ended:before", "ended:after")


def test_killed_at_every_commit_pays_once(tmp_path: Path) -> None:
    with serving() as server:
        folder = project(tmp_path, server, recipe=RECIPE.replace("requests_per_batch = 6", "requests_per_batch = 2"))
        for point in ("intended:before", "intended:after", *POINTS, "journal:1", "journal:3"):
            rolloutops("collect", "recipe.toml", WAIT, cwd=folder, code=-signal.SIGKILL, die_at=point)
            assert_sound(folder)
        rolloutops("collect", "recipe.toml", WAIT, cwd=folder)
        assert_paid_once(folder, server)


@pytest.mark.parametrize("fault", ["500", "500-done", "reset", "reset-done", "429", "401"])
def test_a_request_for_a_batch_that_gets_no_answer_is_not_just_repeated(tmp_path: Path, fault: str) -> None:
    with serving(faults=[("create", fault)], unlisted=1) as server:
        folder = project(tmp_path, server)
        said = rolloutops("collect", "recipe.toml", WAIT, cwd=folder, code=2 if fault == "401" else 0)
        if fault == "401":
            assert "refuses to create a batch" in said
            assert "[key]" in said
            assert KEY not in said
            assert rows(folder, "SELECT count(*) FROM pending") == [(16,)]
            rolloutops("collect", "recipe.toml", WAIT, cwd=folder)
        assert_paid_once(folder, server)


def test_what_expired_is_pending_again_and_the_rest_is_kept(tmp_path: Path) -> None:
    late = {task["prompt"] for task in TASKS[:5]}
    with serving(status="expired", fate=lambda prompt: "expired" if prompt in late else "ok") as server:
        folder = project(tmp_path, server)
        rolloutops("collect", "recipe.toml", cwd=folder, code=3)
        server.looks = 1
        rolloutops("collect", "recipe.toml", cwd=folder, code=3)
        server.looks, server.status, server.fate = 0, "completed", lambda prompt: "ok"
        said = rolloutops("collect", "recipe.toml", cwd=folder, code=0 if not late else 3)
        assert "5" in said
        assert rows(folder, "SELECT count(*) FROM rollouts") == [(11,)]
        failures = "SELECT error, final, error_message LIKE '%completion window expired%' FROM failures"
        assert rows(folder, failures) == [("timeout", False, True)] * 5
        assert rows(folder, "SELECT count(*), min(attempt) FROM under_way") == [(5, 2)]
        assert_sound(folder)
        rolloutops("collect", "recipe.toml", cwd=folder)
        assert server.paid == PROMPTS
        assert rows(folder, "SELECT count(*), avg(reward) FROM rollouts") == [(16, 1.0)]


def test_each_line_of_both_files_is_accounted_for(tmp_path: Path) -> None:
    fates = dict(zip((task["prompt"] for task in TASKS), ["error", "refused", "missing", "twice", "cut"], strict=False))
    with serving(fate=lambda prompt: fates.get(prompt, "ok")) as server:
        folder = project(tmp_path, server)
        rolloutops("collect", "recipe.toml", cwd=folder, code=3)
        server.fate = lambda prompt: "ok"
        said = rolloutops("collect", "recipe.toml", WAIT, cwd=folder)
        assert "1 duplicate lines" in said
        assert "1 unreadable lines" in said
        assert "unknown lines" in said
        found = rows(folder, "SELECT error, final, healed, error_message FROM failures ORDER BY error, error_message")
        assert [row[:3] for row in found] == [
            ("bad_request", True, False),
            *[("bad_response", False, True)] * 2,
            ("server_error", False, True),
        ]
        assert "it was refused" in found[0][3]
        assert "has status completed and no line for this request" in found[1][3]
        assert rows(folder, "SELECT count(*), avg(reward) FROM rollouts") == [(15, 1.0)]
        assert rows(folder, "SELECT count(*) FROM given_up") == [(1,)]
        assert rows(folder, "SELECT sum((counts->>'duplicate_lines')::INT) FROM jobs") == [(1,)]
        assert_sound(folder)


def test_refused_prompts_are_given_up_and_a_refused_key_ends_the_run(tmp_path: Path) -> None:
    fates = dict(zip((task["prompt"] for task in TASKS), ["forbidden", "filtered"], strict=False))
    with serving(fate=lambda prompt: "forbidden") as server:
        folder = project(tmp_path, server)
        said = rolloutops("collect", "recipe.toml", WAIT, cwd=folder, code=2)
        assert "requests were refused, the last one with: 403: it was forbidden. No rollout was given up" in said
        server.fate = lambda prompt: "unpaid"
        for _ in range(3):
            said = rolloutops("collect", "recipe.toml", WAIT, cwd=folder, code=2)
        assert "429 insufficient_quota: it was unpaid. No rollout was given up" in said
        assert rows(folder, "SELECT count(*) FROM pending") == [(16,)]
        server.fate = lambda prompt: fates.get(prompt, "ok")
        rolloutops("collect", "recipe.toml", WAIT, cwd=folder)
    found = rows(folder, "SELECT last_error, count(*) FROM given_up GROUP BY ALL ORDER BY ALL")
    assert found == [("content_filter", 1), ("forbidden", 1)]
    assert rows(folder, "SELECT count(*) FROM rollouts") == [(14,)]


def test_a_refused_batch_gives_up_the_lines_that_are_to_blame(tmp_path: Path) -> None:
    blame = [{"code": "invalid_request", "message": "no such thing", "line": 2, "param": None}]
    with serving(refusals=[blame]) as server:
        folder = project(tmp_path, server)
        said = rolloutops("collect", "recipe.toml", WAIT, cwd=folder)
        assert "1 of its requests is given up, the others are submitted again" in said
        assert rows(folder, "SELECT error, final, error_message FROM failures") == [
            ("bad_request", True, "batch batch_0000, line 2: invalid_request: no such thing")
        ]
        assert rows(folder, "SELECT count(*), avg(attempt) FROM rollouts") == [(15, 1.0)], "not tried is no attempt"
        assert sum(server.paid.values()) == 15
        assert_sound(folder)


def test_a_batch_that_is_refused_as_a_whole_stops_the_run_and_says_why(tmp_path: Path) -> None:
    blame = [{"code": "model_not_found", "message": "no model m in batches", "line": 1, "param": None}]
    with serving(refusals=[blame] * 3) as server:
        folder = project(tmp_path, server)
        said = rolloutops("collect", "recipe.toml", WAIT, cwd=folder, code=2)
        assert re.search(
            r"batch batch_000. was refused: model_not_found: no model m in batches; fix the cause and rerun", said
        )
        assert server.log.count("create") == 3
        assert rows(folder, "SELECT error, final, count(*) FROM failures GROUP BY ALL") == [("bad_request", False, 16)]
        assert rows(folder, "SELECT count(*) FROM pending") == [(16,)]
        rolloutops("collect", "recipe.toml", WAIT, cwd=folder)
        assert server.paid == PROMPTS
        assert_sound(folder)


def test_a_full_queue_is_waited_for_in_batches_that_fit(tmp_path: Path) -> None:
    with serving(room=5, looks=2) as server:
        folder = project(tmp_path, server)
        said = rolloutops("collect", "recipe.toml", WAIT, cwd=folder)
        assert "token_limit_exceeded" in said
        assert rows(folder, "SELECT count(*) FROM failures") == [(0,)], "a full queue costs no attempt"
        assert_paid_once(folder, server)


def test_a_budget_is_kept_before_anything_is_submitted(tmp_path: Path) -> None:
    """Each request is expected to take some 30 tokens of prompt and, as it says, at most 100 of an answer."""
    limited = RECIPE.replace("temperature = 0.7", "max_output_tokens = 100")
    with serving(looks=1) as server:
        folder = project(tmp_path, server, recipe=limited)
        said = rolloutops("collect", "recipe.toml", "--max_tokens_total=1000", cwd=folder, code=3)
        assert "no more is submitted" in said
        requested = rows(folder, "SELECT count(*) FROM under_way")[0][0]
        assert 5 <= requested <= 8
        rolloutops("collect", "recipe.toml", "--max_tokens_total=1000", cwd=folder, code=3)
        assert rows(folder, "SELECT count(*) FROM under_way") == [(requested,)], "what is under way counts as expected"
        rolloutops("collect", "recipe.toml", "--max_tokens_total=1000", cwd=folder, code=3)
        spent = rows(folder, "SELECT sum(input_tokens + output_tokens) FROM attempts")[0][0]
        assert spent == 8 * requested, "what has ended counts as it was"
        rolloutops("collect", "recipe.toml", "--max_tokens_total=1000", WAIT, cwd=folder)
        assert rows(folder, "SELECT sum(input_tokens + output_tokens), count(*) FROM attempts") == [(128, 16)]
    assert server.paid == PROMPTS


def test_money_is_kept_at_the_price_of_batches(tmp_path: Path) -> None:
    (tmp_path / "prices.toml").write_text("[m]\ninput = 1000\noutput = 1000\n")
    given = ("collect", "recipe.toml", "--prices=prices.toml", "--max_cost=0.6")
    with serving() as server:
        folder = project(tmp_path, server, recipe=RECIPE.replace("temperature = 0.7", "max_output_tokens = 100"))
        said = rolloutops(*given, cwd=folder, code=2)
        assert "needs the price of 'm' at the tier 'batch'" in said
        assert server.log == []
        (tmp_path / "prices.toml").write_text("[m.batch]\ninput = 500\noutput = 500\n")
        rolloutops(*given, cwd=folder, code=3)
        requested = rows(folder, "SELECT count(*) FROM under_way")[0][0]
        assert 7 <= requested <= 10
        rolloutops(*given, cwd=folder, code=3)
        (one,) = json.loads(rolloutops("status", "--data=w", "--json", cwd=folder))["spending"]
        assert (one["tier"], one["attempts"]) == ("batch", requested)
        assert one["cost"] == pytest.approx(requested * 8 * 500 / 1e6)


def test_ctrl_c_while_waiting_says_130_and_loses_nothing(tmp_path: Path) -> None:
    with serving(looks=10**6) as server:
        folder = project(tmp_path, server)
        words = (["collect", "recipe.toml", WAIT], str(folder), str(folder / "log.txt"), "")
        process = processes.Process(target=_run, args=words)
        process.start()
        while "look" not in server.log:
            assert process.is_alive()
            time.sleep(0.01)
        os.kill(process.pid or 0, signal.SIGINT)
        process.join(60)
        assert process.exitcode == 130
        assert "Traceback" not in (folder / "log.txt").read_text()
        server.looks = 0
        rolloutops("collect", "recipe.toml", WAIT, cwd=folder)
        assert_paid_once(folder, server)


def test_two_processes_do_not_submit_the_same(tmp_path: Path) -> None:
    with serving() as server:
        folder = project(tmp_path, server)
        with try_lock(open_workspace(folder / "w"), "batches"):
            said = rolloutops("collect", "recipe.toml", cwd=folder, code=3)
        assert "another process is handling this workspace's batches" in said
        assert server.log == []
        rolloutops("collect", "recipe.toml", WAIT, cwd=folder)
        assert_paid_once(folder, server)


def test_tool_calls_end_the_rollout_and_chat_works(tmp_path: Path) -> None:
    tool = {"type": "function", "name": "add", "description": "", "parameters": {"type": "object", "properties": {}}}
    params = {"input": "What is 1 + 1?", "tools": [tool]}
    with serving() as server:
        folder = project(tmp_path, server)
        write_jsonl(folder / "tasks.jsonl", [{"responses_create_params": params, "expected_answer": "2"}])
        server.answer = "{}".format
        chunk(folder)
        rolloutops("collect", "recipe.toml", WAIT, cwd=folder)
        found = rows(folder, "SELECT finish_reason, tool_calls, turns, completion::VARCHAR FROM rollouts")
        assert [row[:3] for row in found] == [("tool_calls", 0, 1)]
        assert json.loads(found[0][3])[0]["tool_calls"][0]["function"] == {"name": "add", "arguments": '{"a": 1}'}
    with serving() as server:
        chat = project(tmp_path / "chat", server)
        rolloutops("collect", "recipe.toml", WAIT, "--endpoint=chat", cwd=chat)
        assert_paid_once(chat, server)
        assert {batch["endpoint"] for batch in server.batches.values()} == {"/v1/chat/completions"}


def test_jobs_are_split_by_size_and_what_never_fits_is_a_failure(tmp_path: Path) -> None:
    huge = {"n": 99, "prompt": "x" * 3000, "answer": "0"}
    with serving() as server:
        folder = project(tmp_path, server, [*TASKS, huge])
        rolloutops("collect", "recipe.toml", WAIT, "--engine_args.bytes_per_batch=900", cwd=folder)
        sent = [data for name, data in server.files.values() if name.startswith("rolloutops-")]
        assert len(sent) > 4
        assert max(map(len, sent)) <= 900
        assert server.paid == PROMPTS
        assert rows(folder, "SELECT error, final, error_message FROM failures") == [
            ("bad_request", True, "the request alone is larger than 900 bytes")
        ]
        assert_sound(folder)


def test_a_policy_may_not_change_while_its_batches_are_under_way(tmp_path: Path) -> None:
    with serving() as server:
        folder = project(tmp_path, server)
        rolloutops("collect", "recipe.toml", cwd=folder, code=3)
        warmer = ("collect", "recipe.toml", "--responses_create_params.temperature=1.5")
        assert "responses_create_params.temperature was 0.7, is 1.5" in rolloutops(*warmer, cwd=folder, code=2)
        rolloutops(*warmer, "--allow_policy_change", cwd=folder)
        assert rows(folder, "SELECT DISTINCT request::VARCHAR FROM rollouts") == [('{"temperature":0.7}',)]


def test_an_edited_task_is_pending_while_its_old_self_is_under_way(tmp_path: Path) -> None:
    with serving() as server:
        folder = project(tmp_path, server, recipe=RECIPE.replace("[chunk]", 'id = "n"\n[chunk]'))
        rolloutops("collect", "recipe.toml", cwd=folder, code=3)
        edited = {**TASKS[0], "prompt": "What is 2 + 2?", "answer": "4"}
        write_jsonl(folder / "tasks.jsonl", [edited, *TASKS[1:]])
        chunk(folder)
        assert rows(folder, "SELECT status, count(*) FROM wanted_states GROUP BY status ORDER BY status DESC") == [
            *(("submitted", 15), ("pending", 1))
        ]
        server.answer = {task["prompt"]: task["answer"] for task in [*TASKS, edited]}.__getitem__
        rolloutops("collect", "recipe.toml", WAIT, cwd=folder)
        assert server.paid == PROMPTS + Counter(["What is 2 + 2?"])
        assert rows(folder, "SELECT count(*), avg(reward) FROM rollouts") == [(16, 1.0)]
        assert rows(folder, "SELECT count(*) FROM attempts") == [(17,)], "what was paid is kept"
        assert_sound(folder)


def test_the_engine_reads_lines_and_refuses_what_it_cannot_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_KEY", KEY)
    engine = OpenAIBatches("m", base_url="http://127.0.0.1:9/v1", api_key_env="TEST_KEY")
    assert KEY not in repr(engine)
    body = '{"status": "completed", "output": [], "usage": {"input_tokens": 1e0},  "x": "' + KEY + '"}'
    line = '{"id":"1","custom_id":"c","response":{"status_code":200,"body":  ' + body + '},"error":null}'
    answer = engine.read(line.encode(), "/v1/responses")
    assert isinstance(answer, ModelAnswer)
    assert answer.raw == body.replace(KEY, "[key]")
    kinds = {
        '{"error": {"code": "batch_expired", "message": "late"}, "response": null}': ("timeout", False),
        '{"error": {"code": "batch_cancelled", "message": "stopped"}}': ("server_error", False),
        '{"error": {"code": "odd", "message": "?"}}': ("server_error", False),
        '{"error": "odd"}': ("bad_response", False),
        '{"response": {"status_code": 429, "body": {"error": {"message": "slow down"}}}}': ("rate_limited", False),
        '{"response": {"status_code": 400, "body": {"error": {"code": "context_length_exceeded"}}}}': (
            "context_length",
            True,
        ),
        '{"response": {"status_code": 200, "body": {"output": 7}}}': ("bad_response", False),
        '{"response": null}': ("bad_response", False),
        "[]": ("bad_response", False),
    }
    for text, (kind, final) in kinds.items():
        with pytest.raises(AttemptFailed) as failed:
            engine.read(text.encode(), "/v1/responses")
        assert (failed.value.kind, failed.value.final) == (kind, final), text
    for wrong in ({"requests_per_batch": 50_001}, {"bytes_per_batch": 0}, {"poll_seconds": 0}):
        with pytest.raises(UsageError, match=next(iter(wrong))):
            OpenAIBatches("m", base_url="http://127.0.0.1:9/v1", **wrong)  # type: ignore[arg-type]
