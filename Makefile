PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
WORKERS ?= 2
EXACT = rewards_core/http/calls.py,rewards_core/backoff.py,rewards_core/http/transport.py,original_async/signature.py,enkash_async/tokens.py,webhooks/receiver.py,webhooks/completions.py,payouts/ledger.py

.DEFAULT_GOAL := help
.PHONY: help demo test check lint types contracts unit soak mutants bench clean

help: ## list what can be made
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

demo: $(STAMP) ## run the whole job against a sandboxed vendor on a bad day
	$(BIN)/python examples/demo.py

test: check unit ## everything that must hold before a change lands

check: lint types contracts ## static checks alone

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy
	$(BIN)/basedpyright

contracts: $(STAMP)
	$(BIN)/lint-imports

unit: $(STAMP)
	@tests/install_system_parts.sh
	$(BIN)/python -m coverage erase
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal --cov --cov-report= $(PYTEST_ARGS)
	$(BIN)/python -m coverage report --fail-under=95
	$(BIN)/python -m coverage report --fail-under=100 --include='$(EXACT)'

soak: $(STAMP) ## the long runs
	@tests/install_system_parts.sh
	$(BIN)/python -m pytest -n $(WORKERS) --soak $(PYTEST_ARGS)

mutants: $(STAMP) ## plant each known fault in a copy and see its test turn red
	$(BIN)/python tests/mutants/run.py $(MUTANTS)

bench: $(STAMP) ## print the benchmarks' table and their JSON
	$(BIN)/python -m benchmarks

clean: ## remove what was built
	rm -rf $(VENV) build dist .coverage .coverage.* .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
