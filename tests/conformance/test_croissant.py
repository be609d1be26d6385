"""croissant.json and README.md of real builds, read by their own readers: mlcroissant, huggingface_hub and datasets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rolloutops.build.build import build
from rolloutops.config.recipe import StepUse
from rolloutops.steps.selection import select
from tests.given import dump, workspace

pytestmark = pytest.mark.filterwarnings("ignore")  # those of the readers are theirs

CALL = [
    {"role": "assistant", "content": "", "tool_calls": [call]}
    for call in [{"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}]
]
TOOLS = [
    {
        "type": "function",
        "function": {"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}},
    }
]


def rollouts() -> list[dict[str, Any]]:
    """Text and tool calls, with content that readers trip over."""
    odd = [
        "plain",
        "\u2028 separators \u2029",
        "😀 \U0010ffff",
        "</script> & <b>",
        "2024-01-01T00:00:00Z",
        "12345678901234567890",
    ]
    made = []
    for task in range(12):
        for index in range(2):
            row: dict[str, Any] = {
                **{"task_id": f"t{task}", "rollout_index": index, "reward": float(index)},
                "text": f"{odd[task % len(odd)]} {index}",
            }
            if task % 3 == 0:
                reported = [*CALL, {"role": "tool", "tool_call_id": "c", "content": "2"}]
                row["completion"] = dump([*reported, {"role": "assistant", "content": row["text"]}])
                row["tools"] = dump(TOOLS)
            made.append(row)
    return made


BUILDS = [
    ("build/sft_messages", [], {"min_reward": 0.0, "validation": 0.3}),
    ("build/sft_messages", [], {"min_reward": 0.0, "max_shard_rows": 5}),
    ("build/sft_messages", [], {"min_reward": 0.0, "format": "parquet"}),
    ("build/sft_input_output", [], {"min_reward": 0.0, "compression": "gzip"}),
    ("build/dpo_messages", [StepUse("pair", "best", "pair/best_worst", {})], {}),
    ("build/rl_prompts", [], {}),
]


@pytest.fixture(params=BUILDS, ids=lambda given: f"{given[0]} {given[2]}")
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    use, steps, keys = request.param
    rows = [row for row in rollouts() if use != "build/sft_input_output" or "tools" not in row]
    con = workspace(rows)
    build(con, StepUse("build", "it", use, keys), Path(), tmp_path / "out", select(con, steps, Path()))
    return tmp_path / "out"


def test_mlcroissant_accepts_the_description_and_reads_every_row(folder: Path) -> None:
    mlcroissant = pytest.importorskip("mlcroissant", reason="mlcroissant is not installed")
    dataset = mlcroissant.Dataset(jsonld=str(folder / "croissant.json"))
    assert not dataset.metadata.ctx.issues.errors
    rows = {file["name"]: file["rows"] for file in json.loads((folder / "manifest.json").read_text())["files"]}
    for records in dataset.metadata.record_sets:
        own = [name for name in rows if name.split(".")[0] == records.id]
        assert len(list(dataset.records(records.id))) == rows[own[0]]


def test_the_hub_reads_the_card_and_datasets_the_folder(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    card = hub.DatasetCard.load(folder / "README.md")
    assert card.data.configs[0]["config_name"] == "default"
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
    infos = card.data.dataset_info
    for info in infos if isinstance(infos, list) else [infos]:
        loaded = datasets.load_dataset(str(folder), info["config_name"], cache_dir=str(tmp_path / "cache"))
        reported = {one["name"]: one["num_examples"] for one in info["splits"]}
        assert {split: len(rows) for split, rows in loaded.items()} == reported
