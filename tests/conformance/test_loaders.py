"""Each other trainer's own loader reads the file that was built for it, and keeps every row.

Not here, as no package of them can be installed: NeMo RL and slime (only placeholders are published), open-instruct,
prime-rl, and the endpoints of OpenAI.
"""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rolloutops.build.build import build
from rolloutops.config.recipe import StepUse
from rolloutops.steps.selection import select
from tests.conformance.made import ODD, built, read, tokenizer, tool
from tests.given import dump, workspace

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


@pytest.mark.parametrize("name", ["sft_messages", "rl_prompts"])
def test_a_rare_tool_late_in_a_long_file_is_loaded_as_it_is(name: str, tmp_path: Path) -> None:
    """`datasets` takes the types of JSON lines from the first 10 MB: a later line has nulls for what it lacks."""
    common, rare = tool("f", "a"), tool("f", "a")
    common["function"]["parameters"]["properties"]["a"]["enum"] = ["x"]

    def lines(folder: Path, **tools: Any) -> Path:
        rows = [
            {"task_id": f"t{n}", "text": "x", "answer": "1", "reward": 1.0, "tools": dump([tools.get(f"t{n}", common)])}
            | {"prompt": dump([{"role": "user", "content": f"t{n} {'long ' * 4000}"}])}
            for n in range(1200)
        ]
        con = workspace(rows)
        report = build(con, StepUse("build", "it", f"build/{name}", {}), Path(), folder, select(con, [], Path()))
        (path,) = report.output.glob("train*")
        return path

    last = re.findall(rb'"content":"(t\d+) ', lines(tmp_path / "alike").read_bytes())[-1].decode()
    path = lines(tmp_path / "one differs", **{last: rare})
    tools = [(row.get("responses_create_params") or row)["tools"] for row in load(path, tmp_path / "cache")]
    assert tools == [(line.get("responses_create_params") or line)["tools"] for line in read(path)]
    assert sum("enum" not in json.dumps(one) for one in tools) == 1


def test_verl_rl(tmp_path: Path) -> None:
    module, config = needed("verl.utils.dataset.rl_dataset"), needed("omegaconf").OmegaConf
    (path,) = built("verl", tmp_path)
    requested = config.create(
        {"max_prompt_length": 20_000, "filter_overlong_prompts_workers": 1, "cache_dir": str(tmp_path / "cache")}
    )
    made = module.RLHFDataset([str(path)], tokenizer(), requested)
    assert len(made) == GOOD
    assert sorted(made[i]["index"] for i in range(GOOD)) == [f"t{i}" for i in range(GOOD)]
    assert all(made[i]["reward_model"]["ground_truth"] == "4" for i in range(GOOD))


def test_verl_sft_sees_no_padded_tools(tmp_path: Path) -> None:
    """One file for each shape; the tokens are those of the JSON lines, with a template that nulls do not trouble."""
    module, config = needed("verl.utils.dataset.multiturn_sft_dataset"), needed("omegaconf").OmegaConf
    paths = [str(path) for path in built("verl_sft", tmp_path, null_keys=True)]
    requested = config.create({"max_length": 30_000, "truncation": "error", "pad_mode": "no_padding"})
    assert len(paths) == 3
    made = list(module.MultiTurnSFTDataset(paths, tokenizer(), requested))
    lines = read(built("sft_messages", tmp_path / "lines")[0])
    wanted = [
        len(tokenizer().apply_chat_template(one["messages"], tools=one.get("tools"), return_dict=True)["input_ids"])
        for one in lines
    ]
    assert sorted(len(row["input_ids"]) for row in made) == sorted(wanted)
    assert all(row["loss_mask"].sum() > 0 for row in made)


@pytest.mark.parametrize("name", ["sharegpt", "alpaca", "llamafactory_preference", "llamafactory_kto"])
def test_llama_factory_skips_no_row(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISABLE_VERSION_CHECK", "1")
    converter, parser = needed("llamafactory.data.converter"), needed("llamafactory.data.parser")
    (path,) = built(name, tmp_path, plain=name in ("alpaca", "llamafactory_preference"))
    entries = json.loads((path.parent / "dataset_info.json").read_text())
    (entry,) = [entry for entry in entries.values() if entry["file_name"] == path.name]
    attributes = parser.DatasetAttr("file", dataset_name=path.name)
    attributes.join(entry)
    convert = converter.get_dataset_converter(
        attributes.formatting, attributes, needed("llamafactory.hparams").DataArguments()
    )
    rows = load(path, tmp_path / "cache")
    assert len(rows) == (2 * GOOD if name == "llamafactory_kto" else GOOD)
    for row in rows:
        made = convert(row)
        assert made["_prompt"], "LLaMA-Factory skips the row"
        assert len(made["_response"]) == (2 if "_" in name else 1)
        if name == "llamafactory_kto":
            good, bad = (message["content"] for message in made["_response"])
            assert (good[:3], bad) == ("yes", "") if row["kto_tag"] else (good, bad[:2]) == ("", "no")


def test_llama_factory_v1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Qwen3's renderer of v1 trains what the rollout said, and nothing else."""
    monkeypatch.setenv("DISABLE_VERSION_CHECK", "1")
    engine, rendering = needed("llamafactory.v1.core.data_engine"), needed("llamafactory.v1.core.utils.rendering")
    (path,) = built("llamafactory_v1", tmp_path)
    data = engine.DataEngine(str(path))
    samples = [data[i] for i in range(len(data))]
    made = rendering.Renderer("qwen3", tokenizer()).process_samples(samples)
    assert len(made) == GOOD
    for sample, ids in zip(samples, made, strict=True):
        trained = tokenizer().decode([token for token in ids["labels"] if token != -100])
        spoken = [part["value"] for m in sample["messages"] if m["role"] == "assistant" for part in m["content"]]
        assert all(json.dumps(json.loads(one)["arguments"], ensure_ascii=False) in trained if one[:1] == "{" else
                   one.strip("\n") in trained for one in spoken)  # fmt: skip
        assert trained.count("<|im_start|>") == sum(m["role"] == "assistant" for m in sample["messages"])


@pytest.mark.parametrize("name", ["ms_swift", "ms_swift_preference", "ms_swift_kto"])
def test_ms_swift_keeps_every_row(name: str, tmp_path: Path) -> None:
    processor = needed("swift.dataset").AutoPreprocessor
    rows = load(built(name, tmp_path)[0], tmp_path / "cache")
    made = processor()(rows, strict=True, num_proc=1, load_from_cache_file=False)
    assert len(made) == (2 * GOOD if name == "ms_swift_kto" else GOOD)
    assert all(message["content"] is not None for row in made for message in row["messages"])
    if name != "ms_swift_preference":
        assert any("<think>" in message["content"] for row in made for message in row["messages"])
    if name == "ms_swift_kto":  # what its KTO asks of a row; its pipelines patch the trainers of transformers
        assert sorted(row["label"] for row in made) == [False] * GOOD + [True] * GOOD
        assert {row["messages"][-1]["role"] for row in made} == {"assistant"}


def test_ms_swift_grpo_gets_the_answer_as_solution(tmp_path: Path) -> None:
    processor = needed("swift.dataset").AutoPreprocessor
    rows = load(built("open_instruct", tmp_path)[0], tmp_path / "cache")
    made = processor(columns={"ground_truth": "solution"})(rows, strict=True, num_proc=1, load_from_cache_file=False)
    assert [row["solution"] for row in made] == ["4"] * GOOD
    assert {row["messages"][-1]["role"] for row in made} == {"user"}


def test_axolotl_finds_every_answer(tmp_path: Path) -> None:
    strategy = needed("axolotl.prompt_strategies.dpo.chat_template").default
    words = {"chat_template": "jinja", "chat_template_jinja": tokenizer().chat_template, "datasets": [{"path": "it"}]}
    convert, _ = strategy(needed("axolotl.utils.dict").DictDefault(words))
    rows = load(built("axolotl_preference", tmp_path, plain=True)[0], tmp_path / "cache")
    assert len(rows) == GOOD
    for row in rows:
        made = convert(row, tokenizer=tokenizer())
        assert all(message["content"] in made["prompt"] for message in row["messages"])
        for side in ("chosen", "rejected"):
            assert made[side] == f"{row[side]['content']}<|im_end|>"


def test_axolotl_chat_template(tmp_path: Path) -> None:
    """It parses arguments that are text, and sees the reasoning that its config maps."""
    module = needed("axolotl.prompt_strategies.chat_template")
    prompter = module.ChatTemplatePrompter(
        tokenizer(),
        chat_template=tokenizer().chat_template,
        message_property_mappings={"role": "role", "content": "content", "reasoning_content": "reasoning_content"},
        field_messages="messages",
    )
    made = module.ChatTemplateStrategy(
        prompter, tokenizer(), train_on_inputs=False, sequence_len=30_000, roles_to_train=["assistant"]
    )
    for line in read(built("sft_messages", tmp_path)[0]):
        ids = made.tokenize_prompt(line)
        text = tokenizer().decode([token for token in ids["labels"] if token != -100])
        for message in line["messages"]:
            if message["role"] == "assistant":
                assert message["content"] in text
                assert message.get("reasoning_content", "") in text


def strategy(**keys: Any) -> Any:
    """What OpenRLHF's datasets ask of a trainer."""
    data = SimpleNamespace(apply_chat_template=True, tokenizer_chat_template=None, **keys)
    return SimpleNamespace(args=SimpleNamespace(data=data), is_rank_0=lambda: False)


def test_openrlhf(tmp_path: Path) -> None:
    module = needed("openrlhf.datasets")
    cache = tmp_path / "cache"
    talks = load(built("sft_messages", tmp_path, plain=True)[0], cache)
    requested = strategy(input_key="messages", output_key=None)
    made = module.SFTDataset(talks, tokenizer(), 30_000, requested, num_processors=1, multiturn=True)
    assert len(made) == GOOD
    pairs = load(built("openrlhf", tmp_path, plain=True)[0], cache)
    requested = strategy(prompt_key="prompt", chosen_key="chosen", rejected_key="rejected")
    made = module.RewardDataset(pairs, tokenizer(), 30_000, requested, is_dpo=True, num_processors=1)
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
