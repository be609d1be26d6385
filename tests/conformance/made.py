"""Builds of a few rollouts with text, tools, reasoning, several turns and odd content; and a small tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rolloutops.build.build import build
from rolloutops.config.recipe import StepUse
from rolloutops.steps.selection import select
from tests.given import dump, workspace

ODD = ["\u2028 \u2029 \x85", "😀 \U0010ffff é", "</script> \\ \" '", "line\nline\r\n\ttab", "x" * 3000]

TEMPLATE = """{%- if tools %}<|im_start|>system
{{ tools | tojson }}<|im_end|>
{% endif %}{%- for m in messages %}<|im_start|>{{ m.role }}
{% if m.role == 'assistant' %}{% generation %}{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>
{% endif %}{{ m.content }}{% for c in m.tool_calls or [] %}<tool_call>{{ c.function.name }} \
{{ c.function.arguments if c.function.arguments is string else c.function.arguments | tojson }}</tool_call>{% endfor %}\
<|im_end|>{% endgeneration %}{% else %}{{ m.content }}<|im_end|>{% endif %}
{% endfor %}{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def tool(name: str, argument: str) -> dict[str, Any]:
    """A tool with one argument; no two of them have the same keys."""
    parameters = {"type": "object", "properties": {argument: {"type": "string"}}, "required": [argument]}
    return {"type": "function", "function": {"name": name, "description": "d", "parameters": parameters}}


def rollouts(plain: bool) -> list[dict[str, Any]]:
    """Two rollouts of each task, one good. plain: one turn of text only."""
    made = []
    for task, odd in enumerate(ODD):
        for index, said in enumerate(("yes", "no")):
            answer = {"role": "assistant", "content": f"{said} {odd}"}
            row: dict[str, Any] = {"task_id": f"t{task}", "rollout_index": index, "reward": 1.0 - index, "answer": "4"}
            row |= {"text": answer["content"], "completion": dump([answer]), "request": dump({"temperature": 1.0})}
            row["prompt"] = dump([{"role": "system", "content": odd}, {"role": "user", "content": f"{task}? {odd}"}])
            row["row"] = dump({"responses_create_params": {"input": odd}, "agent_ref": {"name": "a"}, "answer": "4"})
            ids = {
                "prompt_token_ids": [5, 6, task],
                "generation_token_ids": [7, 8],
                "generation_log_probs": [-0.5, -1.0],
            }
            row["token_turns"] = [ids]
            if task % 2 and not plain:
                call = {"name": f"f{task}", "arguments": json.dumps({f"a{task}": odd})}
                requested = {"role": "assistant", "content": "", "reasoning_content": f"so {odd}"}
                requested["tool_calls"] = [{"id": "c1", "type": "function", "function": call}]
                row["completion"] = dump([requested, {"role": "tool", "tool_call_id": "c1", "content": odd}, answer])
                row["tools"] = dump([tool(f"f{task}", f"a{task}")])
            made.append(row)
    return made


def built(name: str, folder: Path, plain: bool = False, **keys: Any) -> list[Path]:
    """The data files of a build. Nothing is dropped: what a linter finds stops it."""
    use, con = f"build/{name}", workspace(rollouts(plain))
    pairs = name in ("dpo_messages", "dpo_strings", "reward_model", "openrlhf", "tinker") or "preference" in name
    steps = [StepUse("pair", "best", "pair/best_worst", {})] if pairs else []
    report = build(con, StepUse("build", "it", use, keys), Path(), folder / name, select(con, steps, Path()))
    return sorted(path for path in report.output.iterdir() if path.name.startswith("train"))


def tokenizer() -> Any:
    """One token a byte, and a chat template that says what is trained."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    words = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    model = Tokenizer(models.BPE(vocab={word: number for number, word in enumerate(words)}, merges=[]))
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = decoders.ByteLevel()
    model.add_special_tokens(special)
    made = PreTrainedTokenizerFast(tokenizer_object=model, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    made.chat_template = TEMPLATE
    return made


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of a JSONL file."""
    return [json.loads(line) for line in path.read_bytes().split(b"\n") if line]
