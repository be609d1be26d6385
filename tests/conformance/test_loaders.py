"""Each other trainer's own loader reads the file that was built for it, and keeps every row.

Not here, as no package of them can be installed: NeMo RL and slime (only placeholders are published), open-instruct,
prime-rl, and the endpoints of OpenAI.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet
import pytest

from tests.conformance.made import ODD, built, read, tokenizer

pytestmark = pytest.mark.filterwarnings("ignore")  # those of the trainers are theirs
GOOD = len(ODD)
"""Lines of an SFT or pair file: one for each task."""


def needed(name: str) -> Any:
    """A trainer's module; the test is skipped, with the reason, where it cannot be imported."""
    try:
        return importlib.import_module(name)
    except Exception as error:
        pytest.skip(f"{name} does not import: {type(error).__name__}: {error}")


def load(path: Path, cache: Path) -> Any:
    """A JSONL file as `datasets` reads it."""
    return needed("datasets").load_dataset("json", data_files=str(path), split="train", cache_dir=str(cache))


def test_verl_rl(tmp_path: Path) -> None:
    module, config = needed("verl.utils.dataset.rl_dataset"), needed("omegaconf").OmegaConf
    (path,) = built("verl", tmp_path)
    asked = config.create(
        {"max_prompt_length": 20_000, "filter_overlong_prompts_workers": 1, "cache_dir": str(tmp_path / "cache")}
    )
    made = module.RLHFDataset([str(path)], tokenizer(), asked)
    assert len(made) == GOOD
    assert sorted(made[i]["index"] for i in range(GOOD)) == [f"t{i}" for i in range(GOOD)]
    assert all(made[i]["reward_model"]["ground_truth"] == "4" for i in range(GOOD))


def test_verl_sft_sees_no_padded_tools(tmp_path: Path) -> None:
    """One file for each list of tools; the tokens are those of the JSON lines.

    Lines without tools are read on their own: beside others verl makes a NaN of their tools, and fails on it.
    """
    module, config = needed("verl.utils.dataset.multiturn_sft_dataset"), needed("omegaconf").OmegaConf
    paths = built("sft_messages", tmp_path, format="parquet")
    asked = config.create({"max_length": 30_000, "truncation": "error", "pad_mode": "no_padding"})
    with_tools = [path for path in paths if "tools" in pyarrow.parquet.read_schema(path).names]
    groups = with_tools, [path for path in paths if path not in with_tools]
    made = [
        row for files in groups for row in module.MultiTurnSFTDataset([str(path) for path in files], tokenizer(), asked)
    ]
    lines = read(built("sft_messages", tmp_path / "lines")[0])
    wanted = [
        len(tokenizer().apply_chat_template(one["messages"], tools=one.get("tools"), return_dict=True)["input_ids"])
        for one in lines
    ]
    assert all(groups)
    assert sorted(len(row["input_ids"]) for row in made) == sorted(wanted)
    assert all(row["loss_mask"].sum() > 0 for row in made)


@pytest.mark.parametrize("name", ["sharegpt", "alpaca", "llamafactory_preference"])
def test_llama_factory_skips_no_row(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISABLE_VERSION_CHECK", "1")
    converter, parser = needed("llamafactory.data.converter"), needed("llamafactory.data.parser")
    (path,) = built(name, tmp_path, plain=name != "sharegpt")
    entries = json.loads((path.parent / "dataset_info.json").read_text())
    (entry,) = [entry for entry in entries.values() if entry["file_name"] == path.name]
    attributes = parser.DatasetAttr("file", dataset_name=path.name)
    attributes.join(entry)
    convert = converter.get_dataset_converter(
        attributes.formatting, attributes, needed("llamafactory.hparams").DataArguments()
    )
    rows = load(path, tmp_path / "cache")
    assert len(rows) == GOOD
    for row in rows:
        made = convert(row)
        assert made["_prompt"], "LLaMA-Factory skips the row"
        assert len(made["_response"]) == (2 if name == "llamafactory_preference" else 1)


@pytest.mark.parametrize("name", ["ms_swift", "ms_swift_preference"])
def test_ms_swift_keeps_every_row(name: str, tmp_path: Path) -> None:
    processor = needed("swift.dataset").AutoPreprocessor
    rows = load(built(name, tmp_path)[0], tmp_path / "cache")
    made = processor()(rows, strict=True, num_proc=1, load_from_cache_file=False)
    assert len(made) == GOOD
    assert all(message["content"] is not None for row in made for message in row["messages"])
    if name == "ms_swift":
        assert any("<think>" in message["content"] for row in made for message in row["messages"])


def strategy(**keys: Any) -> Any:
    """What OpenRLHF's data sets ask of a trainer."""
    data = SimpleNamespace(apply_chat_template=True, tokenizer_chat_template=None, **keys)
    return SimpleNamespace(args=SimpleNamespace(data=data), is_rank_0=lambda: False)


def test_openrlhf(tmp_path: Path) -> None:
    module = needed("openrlhf.datasets")
    cache = tmp_path / "cache"
    talks = load(built("sft_messages", tmp_path, plain=True)[0], cache)
    asked = strategy(input_key="messages", output_key=None)
    made = module.SFTDataset(talks, tokenizer(), 30_000, asked, num_processors=1, multiturn=True)
    assert len(made) == GOOD
    pairs = load(built("openrlhf", tmp_path, plain=True)[0], cache)
    asked = strategy(prompt_key="prompt", chosen_key="chosen", rejected_key="rejected")
    made = module.RewardDataset(pairs, tokenizer(), 30_000, asked, is_dpo=True, num_processors=1)
    assert len(made) == GOOD
    prompts = load(built("slime", tmp_path, plain=True)[0], cache)
    made = module.PromptDataset(prompts, tokenizer(), strategy(input_key="prompt", label_key="label"))
    assert len(made) == GOOD


def test_skyrl(tmp_path: Path) -> None:
    module = needed("skyrl.train.dataset.dataset")
    (path,) = built("skyrl", tmp_path, env_class="gsm8k")
    made = module.PromptDataset(str(path), tokenizer(), 20_000, num_workers=1)
    assert len(made) == GOOD
    assert all(made[i][1] == "gsm8k" for i in range(GOOD))


def test_tinker_comparisons(tmp_path: Path) -> None:
    module = needed("tinker_cookbook.preference.preference_datasets")
    (path,) = built("tinker", tmp_path, plain=True)
    rows, _ = module.ComparisonBuilderFromJsonl(train_path=str(path)).get_train_and_test_datasets()
    assert len(rows) == GOOD
    assert {row["label"] for row in rows} <= {"A", "B"}


def test_tinker_conversations(tmp_path: Path) -> None:
    data, renderers = needed("tinker_cookbook.supervised.data"), needed("tinker_cookbook.renderers")
    for line in read(built("sft_messages", tmp_path, plain=True, reasoning="part")[0]):
        renderer = renderers.get_renderer("role_colon", tokenizer())
        made = data.conversation_to_datum(
            line["messages"], renderer, 30_000, renderers.TrainOnWhat.ALL_ASSISTANT_MESSAGES
        )
        assert sum(made.loss_fn_inputs["weights"].data) > 0
