"""TRL takes each file, trains a step on it, and sees the very tokens of the plain rollouts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rolloutops.formats.chat import to_chat
from tests.conformance.made import built, read, rollouts, tokenizer

pytestmark = pytest.mark.filterwarnings("ignore")  # those of the trainers are theirs
trl = pytest.importorskip("trl", reason="TRL is not installed: make conformance")
datasets = pytest.importorskip("datasets")


def load(path: Path, cache: Path) -> Any:
    """A file as `datasets` reads it, without what an earlier test cached."""
    kind = "parquet" if path.suffix == ".parquet" else "json"
    return datasets.load_dataset(kind, data_files=str(path), split="train", cache_dir=str(cache))


def model(head: str = "CausalLM") -> Any:
    """One layer, made from a config."""
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer()), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, pad_token_id=0, **({} if head == "CausalLM" else {"num_labels": 1}),
    )  # fmt: skip
    return getattr(transformers, f"LlamaFor{head}")(config)


def settings(kind: Any, folder: Path, **more: Any) -> Any:
    """One step on the CPU, and nothing written or sent."""
    return kind(
        output_dir=str(folder / "trained"), max_steps=1, per_device_train_batch_size=2, report_to=[], use_cpu=True,
        bf16=False, save_strategy="no", dataloader_pin_memory=False, **more,
    )  # fmt: skip


def tokens(paths: list[Path], folder: Path, **more: Any) -> list[tuple[int, int]]:
    """(tokens, trained tokens) of each line as SFTTrainer makes them; it trains a step on each file."""
    config = settings(trl.SFTConfig, folder, max_length=None, **more)
    found = []
    for path in paths:
        data = load(path, folder / "cache")
        trainer = trl.SFTTrainer(model(), args=config, train_dataset=data, processing_class=tokenizer())
        trainer.train()
        for row in trainer.train_dataset:
            mask = row.get("assistant_masks") or row.get("completion_mask") or [x != -100 for x in row["labels"]]
            found.append((len(row["input_ids"]), sum(map(int, mask))))
    return sorted(found)


def plain(folder: Path) -> list[Path]:
    """The rollouts as Python writes them: what the builds are compared with."""
    path = folder / "plain.jsonl"
    good = [row for row in rollouts(False) if row["reward"] == 1.0]
    lines = [
        {
            "messages": to_chat(json.loads(row["prompt"]) + json.loads(row["completion"]), "object"),
            "tools": json.loads(row.get("tools", "null")),
        }
        for row in good
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return [path]


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_sft_trains_the_tokens_of_the_plain_rollouts(form: str, tmp_path: Path) -> None:
    wanted = tokens(plain(tmp_path), tmp_path, assistant_only_loss=True)
    assert tokens(built("sft_messages", tmp_path, format=form), tmp_path / form, assistant_only_loss=True) == wanted


def test_prompt_completion_and_pretokenized(tmp_path: Path) -> None:
    whole = [total for total, _ in tokens(built("sft_messages", tmp_path), tmp_path, assistant_only_loss=True)]
    split = tokens(built("sft_prompt_completion", tmp_path), tmp_path / "split")
    assert [total for total, _ in split] == whole
    assert tokens(built("pretokenized", tmp_path), tmp_path / "ids") == [(5, 2)] * 5


def test_dpo(tmp_path: Path) -> None:
    data = load(built("dpo_messages", tmp_path)[0], tmp_path / "cache")
    args = settings(trl.DPOConfig, tmp_path)
    trl.DPOTrainer(model(), ref_model=model(), args=args, train_dataset=data, processing_class=tokenizer()).train()


def test_kto(tmp_path: Path) -> None:
    data = load(built("kto", tmp_path)[0], tmp_path / "cache")
    kind = getattr(trl, "KTOTrainer", None) or pytest.importorskip("trl.experimental.kto").KTOTrainer
    config = getattr(trl, "KTOConfig", None) or pytest.importorskip("trl.experimental.kto").KTOConfig
    args = settings(config, tmp_path)
    kind(model(), ref_model=model(), args=args, train_dataset=data, processing_class=tokenizer()).train()


@pytest.mark.parametrize("name", ["sft_messages", "sft_prompt_completion", "dpo_messages", "kto", "reward_model"])
def test_arguments_as_objects_come_back_without_padding(name: str, tmp_path: Path) -> None:
    """No two calls have the same keys, and `datasets` gives each back as its line has it."""
    (path,) = built(name, tmp_path, arguments="object")
    lines = read(path)
    assert '"arguments":{' in path.read_text()
    assert [{key: value for key, value in row.items() if value is not None} for row in load(path, tmp_path)] == lines


def test_reward_model(tmp_path: Path) -> None:
    data = load(built("reward_model", tmp_path)[0], tmp_path / "cache")
    args = settings(trl.RewardConfig, tmp_path, max_length=None)
    made = model("SequenceClassification")
    trl.RewardTrainer(made, args=args, train_dataset=data, processing_class=tokenizer()).train()


def test_grpo_hands_every_column_to_the_reward(tmp_path: Path) -> None:
    seen: dict[str, Any] = {}

    def reward(completions: list[Any], **columns: Any) -> list[float]:
        seen.update(columns)
        return [float(number) for number in range(len(completions))]

    data = load(built("rl_prompts", tmp_path)[0], tmp_path / "cache")
    args = settings(trl.GRPOConfig, tmp_path, num_generations=2, max_completion_length=4)
    trainer = trl.GRPOTrainer(model(), reward_funcs=reward, args=args, train_dataset=data, processing_class=tokenizer())
    trainer.train()
    assert {"data_source", "answer", "reward_model", "extra_info"} <= set(seen)
    assert set(seen["answer"]) == {"4"}
