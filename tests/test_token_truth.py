"""Token ids and log-probs are, bit for bit, what the server gave: in its answer, in the journal, in Parquet."""

from __future__ import annotations

import json
import random
import struct
from array import array
from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet as pq
import pytest

from rolloutops.collect.attempt import _token_turns
from rolloutops.errors import AttemptFailed
from rolloutops.formats import openai_replies
from rolloutops.store.journal import Journal, seal_orphans
from rolloutops.store.workspace import open_workspace
from tests import given
from tests.helpers import query, rolloutops, sums, write_jsonl
from tests.loopback import serving


def singles(count: int, seed: int = 0) -> list[float]:
    """Finite float32 numbers of all sizes, as the float64 that JSON writes of them."""
    rng = random.Random(seed)
    drawn = array("f", struct.pack(f"{count}I", *(rng.getrandbits(32) for _ in range(count)))).tolist()
    return [0.0, -0.0, -9999.0, 1.401298464324817e-45, *(x for x in drawn if abs(x) < 3.4e38)]


def completion(ids: list[int], log_probs: list[float], **more: Any) -> dict[str, Any]:
    content = [{"token": "t", "logprob": p, "bytes": [116], "top_logprobs": [{"logprob": 1.0}]} for p in log_probs]
    choice = {"message": {"role": "assistant", "content": "x"}, "finish_reason": "stop", "token_ids": ids}
    return {
        "model": "m",
        "prompt_token_ids": [1, 2**31 - 1],
        "choices": [{**choice, "logprobs": {"content": content}}],
    } | more


def test_bit_exact_through_answer_journal_and_parquet(tmp_path: Path) -> None:
    numbers = singles(2000)
    ids = [random.Random(n).getrandbits(31) for n in range(len(numbers))]
    answer = openai_replies.read_chat(json.dumps(completion(ids, numbers)).encode(), token_ids=True)
    workspace = open_workspace(tmp_path / "w", create=True)
    names = {"dataset": "d", "task_id": "t", "row_hash": "h", "policy": "p", "rollout_index": 0, "attempt": 1}
    row = {**names, "attempt_id": "a", "run_id": "r", "final": True, "token_turns": _token_turns([answer])}
    closed = Journal(workspace, "closed")
    closed.append("attempts", row)
    closed.close()
    left = tmp_path / "w" / "journals" / "killed-0000.jsonl"  # as a killed process leaves it
    left.write_bytes(orjson.dumps({"attempts": row}) + b"\n")
    assert seal_orphans(workspace) == 1
    for path in (tmp_path / "w" / "attempts" / "d").glob("*.parquet"):
        (turn,) = pq.read_table(path).column("token_turns").to_pylist()[0]
        assert turn["prompt_token_ids"] == [1, 2**31 - 1]
        assert turn["generation_token_ids"] == ids
        assert array("d", turn["generation_log_probs"]).tobytes() == array("d", numbers).tobytes(), "signs of zero too"


BODIES: list[Any] = [
    completion([1, 2], [-0.5, -1]),
    completion([1], []),
    completion([], []),
    completion([1, 2], [-0.5]),
    completion([1], [-0.5], choices=None),
    completion([1], [-0.5], error={"message": "it broke", "code": "server_error"}),
    completion([1], [-0.5], usage={"prompt_tokens": 3, "completion_tokens": 12}),
    completion([2**31], [-0.5]),
    completion([1], [None]),  # type: ignore[list-item]
    completion([1], [float("nan")]),
    completion([1], [-0.5]) | {"model": 7},
    {"choices": [{"message": {"content": "a", "tool_calls": None}, "logprobs": None, "token_ids": [3]}]},
    {"choices": [{"message": {"content": "a"}, "prompt_token_ids": [1], "token_ids": [3], "logprobs": {}}]},
    {"choices": [{"message": None}]},
    {"choices": "none"},
    ["no object"],
]  # fmt: skip


@pytest.mark.parametrize("body", BODIES, ids=range(len(BODIES)))
def test_the_fast_reader_reads_what_the_general_one_reads(body: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("msgspec")

    def read(data: bytes) -> Any:
        try:
            return openai_replies.read_chat(data, model="asked", token_ids=True)
        except AttemptFailed as failed:
            return failed.kind, failed.final

    for data in (json.dumps(body).encode(), json.dumps(body).encode()[:-3], b""):
        fast = read(data)
        with monkeypatch.context() as patch:
            patch.setattr(openai_replies, "_typed", lambda: None)
            assert fast == read(data)


@pytest.mark.parametrize("endpoint", ["chat", "responses"])
def test_captured_by_a_collection(endpoint: str, tmp_path: Path) -> None:
    """What the server told is what the metric counts and the filter keeps."""
    tasks = write_jsonl(tmp_path / "sums.jsonl", sums(6))
    with serving(token_ids=True, answer=lambda _: "forty two") as server:
        flags = [f"--input={tasks}", "--data=w", "--model=m", f"--base_url={server.url}", f"--endpoint={endpoint}"]
        rolloutops("collect", "--engine=openai", "--token_ids", *flags, cwd=tmp_path)
    turns = query(
        tmp_path / "w",
        "SELECT DISTINCT turn.generation_log_probs FROM (SELECT unnest(token_turns) AS turn FROM rollouts)",
    )
    assert turns == [([-0.5, -0.625],)]
    reported = json.loads(
        rolloutops("metrics", "--data=w", "--step=metrics/token_truth", "--json", cwd=tmp_path).stdout
    )
    (row,) = reported["metrics/token_truth"]
    assert (row["with_tokens"], row["calls_with_log_probs"], row["generated_tokens"]) == (6, 6, 12)
    assert (row["without_tokens"], row["discontinuities"]) == (0, 0)


def test_real_rollouts_with_and_without_ids() -> None:
    """Of NeMo Gym's own files, one has ids and log-probs of equal length on ten items, another has empty lists."""
    servers = given.SHARED / "gym" / "resources_servers"
    path = servers / "competitive_coding_challenges" / "data" / "example_rollouts.jsonl"
    if not path.exists():
        pytest.skip(f"no {path}")
    read = with_ids = 0
    for line in path.read_text(encoding="utf-8").splitlines():
        response = json.loads(line)["response"]
        answer = openai_replies.read_responses(json.dumps(response).encode(), token_ids=True)
        last = next((i for i in reversed(response["output"]) if i.get("generation_token_ids")), None)
        read += 1
        if last is not None:
            with_ids += 1
            assert answer.generation_token_ids == last["generation_token_ids"]
            assert answer.generation_log_probs == last["generation_log_probs"]
            exact = array("f", answer.generation_log_probs or ()).tolist()
            assert exact == answer.generation_log_probs, "what vLLM gives is float32"
    assert read
    assert with_ids
