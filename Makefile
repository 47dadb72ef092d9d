PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
WORKERS ?= 3
FLOOR := .venv-floor
UV := .venv-uv/bin/python -m uv pip install --quiet --python $(FLOOR)/bin/python
FLOOR_TESTS ?= tests/original_async tests/enkash_async tests/rewards_core tests/webhooks tests/payouts tests/test_command_lines.py tests/test_option_messages.py tests/test_finite_options.py tests/test_import_cost.py
EXACT = rewards_core/http/calls.py,rewards_core/http/failures.py,rewards_core/backoff.py,rewards_core/http/transport.py,rewards_core/http/time_limits.py,original_async/signature.py,enkash_async/tokens.py,webhooks/receiver.py,webhooks/delivery_reports.py,webhooks/verification.py,webhooks/completions.py,payouts/ledger/campaign.py,payouts/ledger/sqlite.py,payouts/ledger/writer.py,payouts/ledger/postgres.py,payouts/ledger/postgres_planner.py,payouts/ledger/worker.py

# tests of code that runs in greenlets, which coverage follows at a price
GREENLETS = $(addprefix tests/payouts/test_,$(addsuffix .py,postgres_ledger workers worker_faults worker_partitions work_payouts pay_row shared_locks shared_commands payout_move))

unexport PYTHONDONTWRITEBYTECODE  # hundreds of processes would each compile what they import

.DEFAULT_GOAL := help
.PHONY: help demo demo-fleet test check lint types contracts docs docs-live screenshots unit slow floor wheel-check dist release-check soak mutants bench clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

demo: $(STAMP) ## pay two files against sandboxed vendors on a bad day
	$(BIN)/python examples/demo.py

demo-fleet: $(STAMP) ## the same by a fleet of processes, some of which are killed on the way
	@tests/install_system_parts.sh --fleet
	$(BIN)/python -m examples.fleet

test: check unit ## run the checks, and the quick tests with coverage

check: lint types contracts ## run linters, type checkers and import contracts

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy
	$(BIN)/basedpyright

contracts: $(STAMP)
	$(BIN)/lint-imports

docs: $(STAMP) ## build the documents into docs/_build/html
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going --builder html docs docs/_build/html

docs-live: $(STAMP) ## show the documents in a browser, built again after each change
	$(BIN)/python -m sphinx_autobuild --open-browser --port 0 --watch README.md --watch CHANGELOG.md --watch CONTRIBUTING.md \
		$(addprefix --watch ,rewards_core original_async enkash_async webhooks payouts vendor_sandboxes examples) docs docs/_build/html

screenshots: $(STAMP) ## make the pictures of the documents from real runs
	$(BIN)/python -m docs.screenshots

unit: $(STAMP)
	@tests/install_system_parts.sh
	$(BIN)/python -m coverage erase
	$(BIN)/python -m coverage run -m pytest -n $(WORKERS) --dist worksteal -m 'not slow' $(PYTEST_ARGS) $(addprefix --ignore=,$(GREENLETS))
	$(BIN)/python -m coverage run --concurrency=thread,greenlet -m pytest -n $(WORKERS) --dist worksteal -m 'not slow' $(GREENLETS)
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report --fail-under=95
	$(BIN)/python -m coverage report --fail-under=100 --include='$(EXACT)'

slow: $(STAMP) ## run the tests that take over half a second each
	@tests/install_system_parts.sh
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m slow $(PYTEST_ARGS)

floor: ## test on the lowest declared versions of dependencies
	@tests/install_system_parts.sh
	$(PYTHON) -m venv .venv-uv
	.venv-uv/bin/python -m pip install --quiet uv
	$(PYTHON) -m venv --clear $(FLOOR)
	$(UV) --resolution lowest-direct --editable '.[cli,encryption,metrics,postgres,sqs]'
	$(FLOOR)/bin/python -m pip freeze --exclude-editable > $(FLOOR)/lowest.txt
	$(UV) --constraint $(FLOOR)/lowest.txt --editable '.[test]'
	@cat $(FLOOR)/lowest.txt
	$(FLOOR)/bin/python -m pytest -n $(WORKERS) --dist worksteal $(PYTEST_ARGS) $(FLOOR_TESTS)

wheel-check: $(STAMP) ## install the wheel with each extra from the package index, as users do
	$(BIN)/python -m tests.wheel_check

dist: ## build what a release uploads into dist, check it, and write the SBOM
	rm -rf dist
	$(PYTHON) -m venv --clear .venv-release
	.venv-release/bin/python -m pip install --quiet 'build>=1.2' 'check-wheel-contents>=0.6' 'cyclonedx-bom>=7' 'twine>=6'
	.venv-release/bin/python -m build --outdir dist .
	.venv-release/bin/python -m twine check --strict dist/*
	.venv-release/bin/check-wheel-contents --ignore W009 dist/*.whl
	$(PYTHON) -m venv --clear --without-pip .venv-release/installed
	.venv-release/bin/python -m pip --python .venv-release/installed/bin/python install --quiet "$$(echo dist/*.whl)[cli,encryption,metrics,otel,postgres,sqs,test-kit]"
	.venv-release/bin/cyclonedx-py environment --output-reproducible --pyproject pyproject.toml --output-file dist/rewards-async.cdx.json .venv-release/installed/bin/python

release-check: ## see that TAG names this version and that the changelog has a section for it
	@test '$(TAG)' = "v$$($(PYTHON) -c 'from rewards_core.version import VERSION; print(VERSION)')" || \
	  { echo "The tag '$(TAG)' is not the version of rewards_core/version.py with a v before it." >&2; exit 1; }
	@grep -q '^## \[$(TAG:v%=%)\] - [0-9-]*$$' CHANGELOG.md || \
	  { echo 'CHANGELOG.md has no section for $(TAG:v%=%).' >&2; exit 1; }

soak: $(STAMP) ## run the long versions of the tests
	@tests/install_system_parts.sh --soak
	$(BIN)/python -m pytest -n $(WORKERS) --soak $(PYTEST_ARGS)

mutants: $(STAMP) ## plant each known fault in a copy; its tests must fail
	$(BIN)/python tests/mutants/run.py $(MUTANTS)

bench: $(STAMP) ## run the benchmarks
	$(BIN)/python -m benchmarks

clean: ## remove everything that was built
	rm -rf $(VENV) $(FLOOR) .venv-uv build dist docs/_build .coverage .coverage.* .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
