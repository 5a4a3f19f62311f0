# Two commands are all a fresh machine needs: `make demo` and `make test`. Both set everything up first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help setup demo up notebook test lint bench clean

help: ## list the commands
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 10

setup: $(VENV)/.ready ## create .venv with the locked packages

demo: setup ## run the main job on real data
	$(BIN)/headwater demo

up: setup ## open the web UI on 127.0.0.1 with sensors and automation on
	$(BIN)/headwater up

notebook: setup ## open JupyterLab on 127.0.0.1 with the tutorial
	$(BIN)/python -m ml_assets.notebooks.lab

test: lint ## lint, type-check and run every test
	$(BIN)/pytest -n 2 --dist loadgroup --no-loadscope-reorder

lint: setup ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: setup ## measure against the named alternatives (minutes; installs one of them, in a place of its own)
	$(BIN)/python -m tests.benchmarks
	$(BIN)/python -m tests.benchmarks.features --feast-duckdb
	$(BIN)/python -m tests.benchmarks.online
	$(BIN)/python -W "ignore:Parameter" -m tests.benchmarks.pricing

clean: ## remove the environment and all state
	rm -rf $(VENV) .headwater

$(VENV)/.ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
	  || { echo "Headwater needs Python 3.11 to 3.13; name one: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@
