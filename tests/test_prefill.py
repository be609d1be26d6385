"""An answer that continues the assistant's turn with which its prompt ends is one message in every build."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from tests.helpers import read_jsonl, rolloutops, write_jsonl
from tests.test_lint import linted

PREFILL = "The result is: "
SINGLE = (
    *("sft_messages", "sft_prompt_completion", "sharegpt", "llamafactory_v1", "openai_sft", "alpaca", "ms_swift"),
    *("sft_input_output", "verl_sft", "kto", "llamafactory_kto", "ms_swift_kto"),
)
PAIRS = ("dpo_messages", "dpo_strings", "reward_model", "openai_preference", "openrlhf", "llamafactory_preference")


def recipe(folder: Path) -> None:
    """A recipe whose tasks begin the answer, with all these builds."""
    write_jsonl(
        folder / "tasks.jsonl",
        [
            {
                "messages": [{"role": "user", "content": f"2+{n}?"}, {"role": "assistant", "content": PREFILL}],
                "answer": str(2 + n),
            }
            for n in range(4)
        ],
    )
    steps = [("build", name, "min_reward = -inf") for name in SINGLE]
    steps += [("pair", "best_worst", ""), *(("build", name, 'from = "best_worst"') for name in PAIRS)]
    (folder / "r.toml").write_text(
        '[datasets.d]\ninput = "tasks.jsonl"\nenvironment = "exact_match"\n[collect]\nengine = "scripted"\n'
        'model = "scripted"\nnum_repeats = 6\nengine_args = { correct = 0.5 }\n'
        + "".join(
            f'[[steps]]\nkind = "{kind}"\nname = "{name}"\nuse = "{kind}/{name}"\n{more}\n'
            + (f'output = "{name}"\n' if kind == "build" else "")
            for kind, name, more in steps
        )
    )


def lines(folder: Path, name: str) -> list[dict[str, Any]]:
    """The lines of a build."""
    if (folder / name / "train.parquet").exists():
        return pq.read_table(folder / name / "train.parquet").to_pylist()  # type: ignore[no-any-return]
    found = folder / name / "train.jsonl"
    return read_jsonl(found) if found.exists() else json.loads((folder / name / "train.json").read_text())  # type: ignore[no-any-return]


def turns(value: Any) -> list[list[str]]:
    """Who speaks, of each list of messages in a line; keys of one line that follow each other are one list."""
    if isinstance(value, list) and value and all(isinstance(m, dict) and ("role" in m or "from" in m) for m in value):
        return [[str(m.get("role") or m["from"]) for m in value]]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [found for each in inner for found in turns(each)]


def test_a_prefilled_turn_and_its_answer_are_one_message_in_every_build(tmp_path: Path) -> None:
    recipe(tmp_path)
    rolloutops("run", "r.toml", "--data=w", cwd=tmp_path)
    for name in (*SINGLE, *PAIRS):
        made = lines(tmp_path, name)
        assert made, name
        for line in made:
            text = json.dumps(line)
            sides = 2 if name in PAIRS else 1
            assert text.count(PREFILL) == sides, f"{name}: {text}"
            for roles in turns(line):
                spoken = " ".join(roles)
                assert not re.search("assistant assistant|gpt gpt", spoken), f"{name}: {text}"
            if "completion" in line and isinstance(line["completion"], list):
                assert line["prompt"][-1]["role"] == "user"
                assert line["completion"][0]["content"].startswith(PREFILL)


def test_the_linters_see_two_turns_in_a_row() -> None:
    talk = [{"role": "user", "content": "2+3?"}, *({"role": "assistant", "content": c} for c in ("It is", "5"))]
    for target in ("sft_messages", "verl", "openai_sft"):
        found = linted(target, [json.dumps({"messages": talk})])
        assert any("two assistant turns in a row" in fault for _, _, fault in found), target
