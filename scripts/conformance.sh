#!/usr/bin/env bash
# Makes .venv-conformance: trainers, for their loaders only, on the CPU. About 3 GB.
# Their requirements are for GPUs and contradict one another, so most of them are installed without, and what their
# loaders import is named here. NeMo RL, slime, open-instruct and prime-rl have no package that could be installed.
set -euo pipefail
cd "$(dirname "$0")/.."

venv=${1:-.venv-conformance}
.venv/bin/uv venv --quiet --clear --python .venv/bin/python "$venv"
install=(.venv/bin/uv pip install --quiet --python "$venv")
read -ra places <<<"${PIP_FIND_LINKS:-}"
for place in "${places[@]}"; do install+=(--find-links "$place"); done

"${install[@]}" 'torch==2.13.0+cpu' || "${install[@]}" --torch-backend cpu 'torch==2.13.0'
"${install[@]}" --editable . pytest pytest-timeout hypothesis 'trl>=1.16' 'datasets>=5' transformers accelerate peft
"${install[@]}" --no-deps verl llamafactory ms-swift openrlhf skyrl axolotl
"${install[@]}" omegaconf ray tensordict codetiming hydra-core cachetools av fire pylatexenc loguru modelscope \
    json_repair dacite colorama pandas addict blobfile mlcroissant tinker-cookbook mistral-common

# The registry's torchaudio is for CUDA and breaks transformers at import; LLaMA-Factory only wants to find one.
packages=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
mkdir -p "$packages/torchaudio"
touch "$packages/torchaudio/__init__.py"
