# Every target makes and reuses .venv; each works as the first command ever run in a clone.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
UV := $(shell command -v uv 2>/dev/null)
CONFIG ?= configs/recipes/quick/spair.yaml
# processes that share the tests, by files, as some of these set up what all their tests use
WORKERS ?= 2
# one thread for each process unless the caller says otherwise: two processes on two cores must not fight
export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: help install fit test test-slow test-minimum check format bench docs clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

install: $(STAMP) ## set up .venv with everything

$(STAMP): pyproject.toml
ifdef UV
	test -x $(BIN)/python || $(UV) venv --python $(PYTHON) $(VENV)
	$(UV) pip install --python $(BIN)/python -e '.[dev]'
else
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -q -e '.[dev]'
endif
	@touch $@

fit: $(STAMP) ## train the quick SPAIR and test it: some 10 minutes on one core (CONFIG=... for another)
	$(BIN)/python -m zoo fit --config $(CONFIG)

test: $(STAMP) ## lint, type-check and run the tests (WORKERS=2 processes)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

test-slow: $(STAMP) ## the tests that take minutes each, such as two steps of every configuration
	$(BIN)/python -m pytest -m slow

test-minimum: ## the tests with the oldest releases that pyproject.toml admits (needs uv)
	uv venv --clear --python 3.11 .venv-minimum
	uv pip install --python .venv-minimum/bin/python --resolution lowest-direct -e '.[dev]'
	.venv-minimum/bin/python -m pytest

check: $(STAMP) ## lint and type-check only
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP) ## format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(STAMP) ## time and memory against straightforward forms
	for script in tests/benchmarks/bench_*.py; do $(BIN)/python $$script || exit 1; done

docs: $(STAMP) ## the documentation as a site, in build/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict --config-file .docs/mkdocs.yml

clean: ## remove .venv, caches and build files; runs and data stay
	rm -rf $(VENV) .venv-minimum build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
