"""Refusals: which belong to a prompt and which to the run, why, and what else comes while a run ends."""

from __future__ import annotations

import asyncio
import json
import ssl
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rolloutops.collect.attempt import of_repeat
from rolloutops.config.plugins import find
from rolloutops.engines.openai import OpenAIEngine
from rolloutops.environments.llm_judge import make as make_judge
from rolloutops.environments.verification import StoredRollout, VerifierRunner
from rolloutops.errors import AttemptFailed, EngineError, UsageError
from rolloutops.formats.finish_reasons import finish_reason, is_cut_off
from rolloutops.formats.openai_replies import failure, read_chat, read_responses
from rolloutops.limits.circuit_breaker import FORBIDDEN, CircuitBreaker
from rolloutops.types import ModelCall, Rollout, Task
from tests.helpers import query, rolloutops, write_jsonl
from tests.loopback import Loopback, serving

STATES = "SELECT (SELECT count(*) FROM rollouts), (SELECT count(*) FROM pending), (SELECT count(*) FROM given_up)"
WAF = b"<!DOCTYPE html><html><head><title>Access denied</title></head><body><p>Rule 942100</p></body></html>"


def body(value: Any) -> bytes:
    """JSON as it is sent."""
    return json.dumps(value).encode()


class Firewall(Loopback):
    """Answers 403 to prompts that `refuses` names, and 401 to those that `ends` names; the others as Loopback does."""

    refuses: Callable[[str, int], bool] = staticmethod(lambda key, number: False)
    ends: str = "revoked"

    def _fault(self, number: int, key: str) -> Any:
        if self.ends in key:
            return "401"
        return (403, {"Content-Type": "text/html"}, WAF) if self.refuses(key, number) else None


def collect(folder: Path, url: str, *words: str, code: int = 0, width: int = 4) -> str:
    """Collect a folder's tasks.jsonl from an endpoint; what was said."""
    given = ("--input=tasks.jsonl", "--data=w", "--engine=openai", "--model=m", f"--base_url={url}", "--endpoint=chat")
    more = ("--retry_seconds=0.01", f"--num_samples_in_parallel={width}")
    return rolloutops("collect", *given, *more, *words, cwd=folder, code=code).stderr


def tasks(folder: Path, prompts: list[str]) -> Path:
    """A folder with tasks."""
    write_jsonl(folder / "tasks.jsonl", [{"id": str(n), "prompt": prompt} for n, prompt in enumerate(prompts)])
    return folder


FLAGGED = [
    (400, {"error": {"code": "content_policy_violation", "message": "rejected"}}),
    (400, {"error": {"code": None, "message": "bad", "innererror": {"code": "ResponsibleAIPolicyViolation"}}}),
    (403, {"error": {"code": 403, "message": "no", "metadata": {"reasons": ["x"], "flagged_input": "y"}}}),
    (400, {"error": {"type": "invalid_request_error", "message": "Output blocked by content filtering policy"}}),
    (400, [{"error": {"code": 400, "status": "FAILED", "details": [{"blockReason": "PROHIBITED_CONTENT"}]}}]),
    (400, {"code": "data_inspection_failed", "message": "Input data may contain inappropriate content."}),
    (500, {"detail": '{"error": {"code": "content_filter", "message": "filtered"}}'}),
]  # fmt: skip
OF_THE_RUN = [
    (401, {"error": {"message": "no"}}),
    (402, {"error": {"message": "Insufficient Balance"}}),
    (429, {"error": {"code": "insufficient_quota", "message": "no"}}),
    (403, {"error": {"type": "new_api_error", "code": "insufficient_user_quota", "message": "no"}}),
    (400, {"type": "error", "error": {"message": "Your credit balance is too low to access the Anthropic API."}}),
    (500, {"detail": '{"error": {"code": "billing_hard_limit_reached", "message": "no"}}'}),
]
OTHERS = [
    (403, {"error": {"message": "Your account was flagged: it violates our usage policies"}}, "forbidden"),
    (403, {}, "forbidden"),
    (429, {"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "message": "check your plan"}}, "rate_limited"),
    (400, {"error": {"message": "messages.0.content: text content violates the schema"}}, "bad_request"),
]


@pytest.mark.parametrize(
    ("status", "sent", "kind"),
    [*((*one, "content_filter") for one in FLAGGED), *((*one, "unauthorized") for one in OF_THE_RUN), *OTHERS],
)
def test_a_refusal_is_the_prompts_or_the_runs(status: int, sent: Any, kind: str) -> None:
    failed = failure(status, {"x-should-retry": "true"}, body(sent))
    assert failed.kind == kind
    assert failed.raw == body(sent).decode()
    assert failed.final == (kind in ("content_filter", "unauthorized", "forbidden"))


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        ({"message": {"detail": [{"loc": ["body", "top_k"], "msg": "Extra inputs"}]}}, "body.top_k: Extra inputs"),
        (
            {"error": {"message": "Upstream", "details": ["first", {"description": "second"}]}},
            "Upstream; first; second",
        ),
        ({"errors": [{"message": "the tools are wrong"}]}, "the tools are wrong"),
        ({"error": "no such thing"}, "no such thing"),
        ({"odd": 1}, '{"odd":1}'),
    ],
)
def test_the_reason_is_found_wherever_it_stands(sent: Any, said: str) -> None:
    assert failure(400, {}, body(sent)).message == f"400: {said}"


def test_a_page_is_told_by_its_title() -> None:
    assert failure(403, {}, WAF).message == "403: Access denied: Rule 942100"


@pytest.mark.parametrize(
    ("sent", "seconds"),
    [
        ({"error": {"details": [{"@type": "google.rpc.RetryInfo", "retryDelay": "34.5s"}]}}, 34.5),
        ({"error": {"message": "Rate limit reached. Please try again in 6m0.5s. Visit us"}}, 360.5),
        ({"error": {"message": "Please try again in 20ms."}}, 0.02),
        ({"error": {"message": "Please retry after 10 seconds."}}, 10.0),
        ({"error": {"metadata": {"raw": '{"retry_after": "3"}'}}}, 3.0),
        ({"error": "loading", "estimated_time": 20.25}, 20.25),
        ({"error": {"message": "Try 3 other models"}}, None),
    ],
)
def test_a_pause_in_the_body_is_heeded(sent: Any, seconds: float | None) -> None:
    assert failure(429, {}, body(sent)).retry_after == seconds
    assert failure(429, {"retry-after": "7"}, body(sent)).retry_after == 7.0, "that of the headers comes first"


def chat(finish: Any, text: str = "some text", **more: Any) -> bytes:
    """A Chat completion."""
    return body({"choices": [{"message": {"role": "assistant", "content": text, **more}, "finish_reason": finish}]})


@pytest.mark.parametrize(
    ("received", "expected"),
    [
        ("stop", "stop"), ("end_turn", "stop"), ("eos_token", "stop"), ("COMPLETE", "stop"), ("STOP", "stop"),
        ("model_length", "length"), ("MAX_TOKENS", "length"), ({"type": "length", "length": 9}, "length"),
        ("model_context_window_exceeded", "length"), ("ERROR_TOXIC", "content_filter"), ("refusal", "content_filter"),
        ("content_filter: SPII", "content_filter"), ("MALFORMED_FUNCTION_CALL", "MALFORMED_FUNCTION_CALL"),
        ("pause_turn", "pause_turn"), ("a_new_one", "a_new_one"), ("tool_use", "tool_calls"),
    ],
)  # fmt: skip
def test_a_finish_reason_is_known_or_kept(received: Any, expected: str) -> None:
    assert read_chat(chat(received)).finish_reason == expected
    assert is_cut_off(expected) == (expected not in ("stop", "tool_calls"))
    assert finish_reason("eos", called=True) == "tool_calls"
    response = {"output": [], "status": "incomplete", "incomplete_details": {"reason": "a_new_one"}}
    assert read_responses(body(response)).finish_reason == "a_new_one"


@pytest.mark.parametrize("received", ["abort", "insufficient_system_resource", "error"])
def test_an_answer_that_the_server_broke_off_is_tried_again(received: str) -> None:
    with pytest.raises(AttemptFailed) as caught:
        read_chat(chat(received))
    assert (caught.value.kind, caught.value.final) == ("server_error", False)


@pytest.mark.parametrize(
    "sent",
    [
        body({"choices": [{"finish_reason": "SAFETY"}]}),
        body({"choices": [], "promptFeedback": {"blockReason": "BLOCKLIST"}}),
        body({"error": {"code": "invalid_prompt", "message": "flagged"}}),
        chat("content_filter", text=""),
    ],
)
def test_an_answer_of_which_a_filter_left_nothing_is_a_refusal(sent: bytes) -> None:
    with pytest.raises(AttemptFailed) as caught:
        read_chat(sent)
    assert (caught.value.kind, caught.value.final) == ("content_filter", True)
    assert caught.value.raw
    assert caught.value.answer is None or caught.value.answer.finish_reason == "content_filter"
    assert read_chat(chat("SAFETY")).finish_reason == "content_filter", "what it left is an answer"


def test_unknown_reasons_are_unfinished_in_sql(tmp_path: Path) -> None:
    tasks(tmp_path, ["a", "b"])
    with serving(finish="a_new_one") as server:
        collect(tmp_path, server.url)
    assert query(tmp_path / "w", "SELECT DISTINCT finish_reason FROM rollouts") == [("a_new_one",)]
    reported = rolloutops("metrics", "--data=w", "--step=tokens", "--json", cwd=tmp_path).stdout
    assert '"cut_off":1' in reported.replace(" ", "")


def test_a_403_among_successes_is_the_prompts(tmp_path: Path) -> None:
    """The first three prompts and the last are refused; the others are answered."""
    tasks(tmp_path, [f"DROP TABLE {n}" for n in range(3)] + [f"good {n}" for n in range(30)] + ["DROP TABLE x"])
    with serving(Firewall, latency=0.02) as server:
        server.refuses = lambda key, number: "DROP" in key
        collect(tmp_path, server.url, code=4)
        assert query(tmp_path / "w", STATES) == [(30, 0, 4)]
        seen = server.seen
        collect(tmp_path, server.url, code=4)
        assert server.seen == seen
    rows = query(tmp_path / "w", "SELECT DISTINCT error, final, error_message, response FROM failures")
    assert rows == [("forbidden", True, "403: Access denied: Rule 942100", WAF.decode())]


def test_a_403_that_nothing_came_after_is_verified_at_the_end(tmp_path: Path) -> None:
    tasks(tmp_path, ["slow", "DROP TABLE x"])

    class Slow(Firewall):
        async def _answer(self, request: Any, number: int, sent: Any, endpoint: str, said: Any, key: str) -> Any:
            await asyncio.sleep(0.5 if key == "slow" else 0.0)
            return await super()._answer(request, number, sent, endpoint, said, key)

    with serving(Slow) as server:
        server.refuses = lambda key, number: "DROP" in key
        collect(tmp_path, server.url, code=4)
    assert query(tmp_path / "w", STATES) == [(1, 0, 1)]


def test_403_for_all_is_the_keys(tmp_path: Path) -> None:
    tasks(tmp_path, [f"good {n}" for n in range(7)])
    with serving(Firewall) as server:
        server.refuses = lambda key, number: True
        for _ in range(4):  # more runs than max_attempts
            said = collect(tmp_path, server.url, code=2)
    assert "7 answers 403 and no success between them" in said
    assert query(tmp_path / "w", STATES) == [(0, 7, 0)]
    with serving() as server:
        collect(tmp_path, server.url)
    assert query(tmp_path / "w", STATES) == [(7, 0, 0)]


def test_a_key_that_is_refused_from_some_time_on_gives_nothing_up(tmp_path: Path) -> None:
    tasks(tmp_path, [f"good {n}" for n in range(200)])
    with serving(Firewall, latency=0.02, spread=0.1) as server:
        server.refuses = lambda key, number: number >= 60
        said = collect(tmp_path, server.url, code=2, width=16)
        assert server.seen < 150, "late successes lie between some of them"
    assert "answers 403 and no success between them" in said
    assert query(tmp_path / "w", STATES) == [(60, 140, 0)]


def test_refused_prompts_at_the_head_of_the_queue_end_one_run_and_not_each(tmp_path: Path) -> None:
    """The next run asks for others between them, so that it tells the prompts' refusals from the key's."""
    tasks(tmp_path, [f"DROP TABLE {n}" for n in range(25)] + [f"good {n}" for n in range(300)])
    with serving(Firewall, latency=0.02) as server:
        server.refuses = lambda key, number: "DROP" in key
        said = collect(tmp_path, server.url, code=2)
        assert "20 answers 403 and no success between them" in said
        assert query(tmp_path / "w", STATES)[0][1] >= 300, "nothing was given up"
        collect(tmp_path, server.url, code=4)
    assert query(tmp_path / "w", STATES) == [(300, 0, 25)]


def test_what_is_in_flight_when_a_run_ends_is_kept(tmp_path: Path) -> None:
    """The last of eight in flight is answered 401 at once, the others come half a second later."""
    tasks(tmp_path, [f"slow {n}" for n in range(7)] + ["revoked"] + [f"never {n}" for n in range(50)])

    class Slow(Firewall):
        async def _answer(self, request: Any, number: int, sent: Any, endpoint: str, said: Any, key: str) -> Any:
            await asyncio.sleep(0.5 if "slow" in key else 0.1)
            return await super()._answer(request, number, sent, endpoint, said, key)

    with serving(Slow) as server:
        said = collect(tmp_path, server.url, code=2, width=8)
        assert server.seen == 8, "nothing new is sent"
    assert "No rollout was given up; fix the cause and rerun" in said
    assert query(tmp_path / "w", STATES) == [(7, 51, 0)]
    assert query(tmp_path / "w", "SELECT error, final FROM failures") == [("unauthorized", False)]


def test_health_verifies_403_apart() -> None:
    breaker = CircuitBreaker()
    for _ in range(FORBIDDEN - 1):
        breaker.attempted("forbidden", "no")
        breaker.attempted("content_filter", "no")
    breaker.attempted(None, None)
    for _ in range(FORBIDDEN - 1):
        breaker.attempted("forbidden", "no")
    with pytest.raises(EngineError, match="20 answers 403"):
        breaker.attempted("forbidden", "no")


def test_a_judge_is_refused_one_rollout_or_all(tmp_path: Path) -> None:
    async def judged(url: str, texts: list[str]) -> list[Any]:
        verifier = make_judge("openai", "j", engine_args={"base_url": url, "endpoint": "chat"}, max_attempts=2)
        work = (
            verifier.verify(Task("d", text, {}, [{"role": "user", "content": "q"}], None, None), Rollout([], text))
            for text in texts
        )
        try:
            return await asyncio.gather(*work, return_exceptions=True)
        finally:
            await verifier.close()

    with serving(Firewall, answer=lambda _: '{"reward": 1}') as server:
        server.refuses = lambda key, number: "DROP" in key
        one, two = asyncio.run(judged(server.url, ["fine", "DROP TABLE"]))
        assert one["reward"] == 1.0
        assert two["reward"] is None
        assert "forbidden: 403: Access denied" in two["error"]
        assert all(isinstance(each, EngineError) for each in asyncio.run(judged(server.url, ["DROP"] * 8)))


def test_verdicts_under_way_are_kept_when_a_judge_ends(tmp_path: Path) -> None:
    """Of twenty, four at a time, the fourth ends the judge: the three beside it are kept, the others not begun."""
    (tmp_path / "own.py").write_text(
        "import asyncio\nfrom rolloutops.errors import EngineError\n"
        "class Own:\n    parallel = 4\n    begun = 0\n    async def verify(self, task, rollout):\n"
        "        self.begun += 1\n        if rollout.text == '3': raise EngineError('the key is refused')\n"
        "        await asyncio.sleep(0.1)\n        return 1.0\ndef make(): return Own()\n"
    )
    plugin = find("environment", f"{tmp_path}/own.py:make")
    verifier = VerifierRunner(plugin.make({}), plugin, {})
    stored = ((n, StoredRollout("d", str(n), "{}", "[]", None, None, "[]", str(n), "stop")) for n in range(20))
    kept: list[int] = []

    async def judge_them() -> None:
        try:
            async for ended in verifier.verify_all(stored, 20):
                kept.extend(n for n, verdict in ended if verdict.reward == 1.0)
        finally:
            await verifier.close()

    with pytest.raises(EngineError, match="the key is refused"):
        asyncio.run(judge_them())
    assert sorted(kept) == [0, 1, 2]
    assert verifier.environment.begun == 4


@pytest.mark.parametrize("scheme", ["https", "http"])
def test_a_wrong_scheme_is_named_at_once(tmp_path: Path, scheme: str) -> None:
    async def asked(port: int) -> list[Any]:
        engine = OpenAIEngine("m", base_url=f"{scheme}://127.0.0.1:{port}/v1", endpoint="chat")
        await engine.start()
        call = ModelCall([{"role": "user", "content": "x"}], None, {})
        try:
            return await asyncio.gather(*(engine.answer(call) for _ in range(3)), return_exceptions=True)
        finally:
            await engine.stop()

    async def hangs_up() -> list[Any]:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(tmp_path / "c.pem", tmp_path / "k.pem")
        listener = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0, ssl=tls)
        async with listener:
            return await asked(listener.sockets[0].getsockname()[1])

    began = time.monotonic()
    if scheme == "https":
        with serving() as server:
            found = asyncio.run(asked(int(server.url.split(":")[2].removesuffix("/v1"))))
    else:
        made = ("-newkey", "rsa:2048", "-nodes", "-keyout", "k.pem", "-out", "c.pem", "-subj", "/CN=x")
        subprocess.run(["openssl", "req", "-x509", *made], cwd=tmp_path, check=True, capture_output=True)
        found = asyncio.run(hangs_up())
    other = "http" if scheme == "https" else "https"
    assert all(
        isinstance(one, EngineError) and f"write {other}:// in place of {scheme}://" in str(one) for one in found
    )
    assert time.monotonic() - began < 30


def test_a_key_goes_into_the_header_that_is_named(tmp_path: Path) -> None:
    tasks(tmp_path, ["a"])
    secret = "azure-key-0123456789abcdef"
    with serving() as server:
        words = ("--input=tasks.jsonl", "--data=w", "--engine=openai", "--model=m", f"--base_url={server.url}")
        rolloutops(
            *("collect", *words, "--api_key_env=OWN", "--api_key_header=x-goog-api-key"), cwd=tmp_path, OWN=secret
        )
        (sent,) = server.headers
    assert {name.lower(): value for name, value in sent.items()}["x-goog-api-key"] == secret
    assert "Authorization" not in sent
    with pytest.raises(UsageError, match="api_key_header must be the name of a header"):
        OpenAIEngine("m", base_url="http://localhost/v1", api_key_header=f"api-key: {secret}")


def test_a_seed_moves_on_with_the_repeats(tmp_path: Path) -> None:
    tasks(tmp_path, ["a"])
    with serving() as server:
        collect(tmp_path, server.url, "--num_repeats=3", "--responses_create_params.seed=40")
        assert sorted(sent["seed"] for sent in server.bodies) == [40, 41, 42]
        said = collect(tmp_path, server.url, "--responses_create_params.n=4", "--policy=q", code=2)
    assert "n must be 1, not 4: a rollout has one answer" in said
    assert of_repeat({"extra_body": {"seed": 1, "top_k": 2}}, 2) == {"extra_body": {"seed": 3, "top_k": 2}}
    assert of_repeat({"seed": True}, 2) == {"seed": True}
