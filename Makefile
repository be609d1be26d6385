# A target fails with the exit code of rolloutops: 2, an error or a spent budget; 3, rollouts are pending (run the same
# target again); 4, too many rollouts are given up.
# RECIPE is the recipe and SET holds further flags: make collect RECIPE=recipes/demo.toml SET="--limit=4"
RECIPE ?= recipes/demo.toml
SET ?=
PYTHON := .venv/bin/python
# The tests start some thousand commands, and each takes twice as long where Python may not keep compiled modules.
unexport PYTHONDONTWRITEBYTECODE
ROLLOUTOPS := $(PYTHON) -m rolloutops

.DEFAULT_GOAL := help
.PHONY: help setup demo run check chunk collect verify metrics filter mix build status test conformance lint clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' Makefile

setup: .venv/.ready ## create .venv, with vLLM for the CPU and a small model

.venv/.ready: pyproject.toml scripts/setup.sh scripts/overrides.txt
	scripts/setup.sh .venv
	@touch $@

demo: .venv/.ready ## run the demo recipe, with a small model on the CPU
	$(ROLLOUTOPS) run recipes/demo.toml $(SET)

run: .venv/.ready ## run all stages of RECIPE
	$(ROLLOUTOPS) run $(RECIPE) $(SET)

check: .venv/.ready ## check RECIPE, its files, environments and engine
	$(ROLLOUTOPS) check $(RECIPE) $(SET)

chunk: .venv/.ready ## read input files into tasks
	$(ROLLOUTOPS) chunk $(RECIPE) $(SET)

collect: .venv/.ready ## generate the missing rollouts
	$(ROLLOUTOPS) collect $(RECIPE) $(SET)

verify: .venv/.ready ## verify unverified rollouts
	$(ROLLOUTOPS) verify $(RECIPE) $(SET)

metrics: .venv/.ready ## measure the rollouts
	$(ROLLOUTOPS) metrics $(RECIPE) $(SET)

filter: .venv/.ready ## show what the filters keep and drop
	$(ROLLOUTOPS) filter $(RECIPE) $(SET)

mix: .venv/.ready ## show what the mix keeps and drops
	$(ROLLOUTOPS) mix $(RECIPE) $(SET)

build: .venv/.ready ## write the training files
	$(ROLLOUTOPS) build $(RECIPE) $(SET)

status: .venv/.ready ## show what is done, pending and failing
	$(ROLLOUTOPS) status $(RECIPE) $(SET)

test: .venv/.ready .venv-duckdb15/.ready ## run all tests, and the SQL tests again on DuckDB 1.5
	scripts/chromium.sh
	$(PYTHON) -m pytest -n 2 --dist loadfile
	.venv-duckdb15/bin/python -m pytest tests/test_sql_golden.py

.venv-duckdb15/.ready: .venv/.ready
	.venv/bin/uv venv --quiet --clear --python $(PYTHON) .venv-duckdb15
	.venv/bin/uv pip install --quiet --python .venv-duckdb15 --editable . 'duckdb<2' pytest pytest-timeout hypothesis
	@touch $@

conformance: .venv-conformance/.ready ## read every build with its trainer's own loader
	HF_HUB_OFFLINE=1 DISABLE_VERSION_CHECK=1 .venv-conformance/bin/python -m pytest tests/conformance -rs

.venv-conformance/.ready: .venv/.ready scripts/conformance.sh
	scripts/conformance.sh .venv-conformance
	@touch $@

lint: .venv/.ready ## check format, style and types
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m ruff check .
	$(PYTHON) -m mypy

clean: ## remove the virtual environments and the demo's workspace
	rm -rf .venv .venv-duckdb15 .venv-conformance data/demo
