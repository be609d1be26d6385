"""Tool data through real chat templates, those of TRL's wheel: what `datasets` loads of each file renders to the truth.

The truth is the conversation as Python has it, rendered by transformers with the same template. Where a template cannot
render it (Llama 3.1 takes one call a turn), neither can be rendered, with the same reason.
"""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from rolloutops.build.build import build
from rolloutops.config.recipe import StepUse
from rolloutops.errors import StepError
from rolloutops.formats.chat import to_chat
from rolloutops.steps.selection import select
from tests.conformance.made import tokenizer, tool
from tests.given import dump, workspace

pytestmark = pytest.mark.filterwarnings("ignore")  # those of the trainers are theirs
pytest.importorskip("trl", reason="TRL is not installed: make conformance")
datasets = pytest.importorskip("datasets")

TEMPLATES = (
    "qwen2_5_training", "qwen3_training", "qwen3_5_think_training", "qwen3_8_training", "llama3_1", "gptoss_training",
    "deepseekv3_training", "glm4moe_training", "nemotron_3_nano_training", "gemma4", "lfm2_training",
)  # fmt: skip


def called(*calls: tuple[str, str]) -> list[dict[str, Any]]:
    """A turn with calls, their answers, and the last word."""
    made = [{"id": f"c{n}", "type": "function", "function": {"name": name, "arguments": text}}
            for n, (name, text) in enumerate(calls)]  # fmt: skip
    answers = [{"role": "tool", "content": f"{n} ok", "tool_call_id": f"c{n}", "name": name}
               for n, (name, _) in enumerate(calls)]  # fmt: skip
    return [
        {"role": "assistant", "content": "", "tool_calls": made},
        *answers,
        {"role": "assistant", "content": "done é"},
    ]


TALKS: list[tuple[list[dict[str, Any]], list[dict[str, Any]]]] = [
    ([{"role": "assistant", "content": "plain"}], []),
    (called(("add", '{"a": 1, "b": {"c": [1, 2.5, "x"]}}')), [tool("add", "a"), tool("look", "q")]),
    (called(("look", '{"q": "caf\\u00e9", "n": null}')), [tool("look", "q"), tool("now", "zone")]),
    (called(("now", "{}")), [tool("now", "zone")]),
    (called(("add", '{"a": 1}'), ("look", '{"q": "x"}')), [tool("look", "q"), tool("add", "a")]),
]


def rollouts() -> list[dict[str, Any]]:
    """A good and a bad rollout of each talk; the tasks ask in the middle of a conversation with calls."""
    found = []
    for number, (completion, tools) in enumerate(TALKS):
        prompt = [{"role": "system", "content": "s"}, {"role": "user", "content": f"{number}?"}]
        prompt += [*completion, {"role": "user", "content": "And?"}] if tools else []
        for index, said in enumerate((completion, [{"role": "assistant", "content": "no"}])):
            row = {"task_id": f"t{number}", "rollout_index": index, "reward": 1.0 - index, "answer": "4", "text": "x"}
            row |= {"prompt": dump(prompt), "completion": dump(said)} | ({"tools": dump(tools)} if tools else {})
            found.append(row)
    return found


def loaded(name: str, form: str, folder: Path) -> list[dict[str, Any]]:
    """The rows of a build as `datasets` loads them, in the order of the tasks."""
    con = workspace(rollouts())
    steps = [StepUse("pair", "best", "pair/best_worst", {})] if name in ("dpo_messages", "reward_model") else []
    report = build(con, StepUse("build", "it", f"build/{name}", {"format": form}), Path(), folder / "out",
                   select(con, steps, Path()))  # fmt: skip
    kind = {"jsonl": "json", "parquet": "parquet"}[form]
    files = sorted(str(path) for path in report.output.glob("train*"))
    rows = datasets.load_dataset(kind, data_files=files, split="train", cache_dir=str(folder / "cache"))
    return sorted(rows, key=lambda row: next(m["content"] for m in whole(row) if m["role"] == "user"))


def whole(row: dict[str, Any]) -> list[dict[str, Any]]:
    """The messages of a row, in whatever keys."""
    if row.get("messages"):
        return list(row["messages"])
    return [*(row.get("prompt") or []), *(row.get("completion") or row.get("chosen") or [])]


def rendered(template: str, messages: list[dict[str, Any]], tools: Any) -> Any:
    """Token ids and the assistant's mask; of what the template refuses, the reason."""
    made = tokenizer()
    text = (resources.files("trl") / "chat_templates" / f"{template}.jinja").read_text(encoding="utf-8")
    made.chat_template = text
    try:
        found = made.apply_chat_template(
            messages, tools=tools or None, return_dict=True, return_assistant_tokens_mask="endgeneration" in text
        )
    except Exception as error:
        return str(error)
    return found["input_ids"], found.get("assistant_masks")


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
@pytest.mark.parametrize(
    "name", ["sft_messages", "sft_prompt_completion", "kto", "dpo_messages", "reward_model", "rl_prompts", "verl"]
)
def test_each_template_renders_the_truth(name: str, form: str, tmp_path: Path) -> None:
    rows = loaded(name, form, tmp_path)
    rows = [row for row in rows if row.get("label", True)]
    assert len(rows) == len(TALKS)
    tasks_only = name in ("rl_prompts", "verl")
    for row, given in zip(rows, rollouts()[::2], strict=True):
        spoken = json.loads(given["prompt"]) + ([] if tasks_only else json.loads(given["completion"]))
        truth, tools = to_chat(spoken, "object"), json.loads(given.get("tools", "null"))
        assert whole(row) == truth
        assert name == "verl" or (row.get("tools") or None) == tools
        for template in TEMPLATES:
            assert rendered(template, whole(row), row.get("tools")) == rendered(
                template, truth, None if name == "verl" else tools
            ), template


def test_most_templates_render_the_truth_and_train_some_of_it() -> None:
    """So that the test above does not compare refusals."""
    for template in TEMPLATES:
        made = [rendered(template, to_chat(json.loads(row["prompt"]) + json.loads(row["completion"]), "object"),
                         json.loads(row.get("tools", "null"))) for row in rollouts()[::2]]  # fmt: skip
        fine = [one for one in made if not isinstance(one, str)]
        assert len(fine) >= (3 if template == "llama3_1" else len(TALKS)), (template, made)
        assert all(any(mask) for _, mask in fine if mask is not None), template


def test_verl_sft_refuses_what_its_loader_would_show_with_nulls(tmp_path: Path) -> None:
    con = workspace(rollouts())
    with pytest.raises(StepError, match="which Parquet fills with nulls"):
        build(con, StepUse("build", "it", "build/verl_sft"), Path(), tmp_path / "out", select(con, [], Path()))
    use = StepUse("build", "it", "build/verl_sft", {"drop_unfit": True})
    report = build(con, use, Path(), tmp_path / "out", select(con, [], Path()))
    assert report.rollouts_used == 1
