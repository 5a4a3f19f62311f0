# Two commands are all a fresh machine needs: `make demo` and `make test`. Both set everything up first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help setup demo up notebook test soak lint bench clean

help: ## list the commands
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 10

setup: $(VENV)/.ready ## create .venv with the locked packages

demo: setup ## run the main job on real data: half a year of it, with FULL=1 the whole
	$(BIN)/headwater demo $(if $(FULL),--full)

up: setup ## open the web UI on 127.0.0.1 with sensors and automation on
	$(BIN)/headwater up

notebook: setup ## open JupyterLab on 127.0.0.1 with the tutorial
	$(BIN)/python -m ml_assets.notebooks.lab

test: lint ## lint, type-check and run every test (three at a time: many wait for services most of their time)
	$(BIN)/pytest -n 3 --dist loadgroup --no-loadscope-reorder

soak: setup ## draw new examples, replay 300 schedules of automation, kill a recovery 8 times, and the demo of servers
	HEADWATER_TEST_SOAK=1 $(BIN)/pytest -n 2 -m hypothesis
	HEADWATER_TEST_SOAK=1 HEADWATER_TEST_SCHEDULES=300 $(BIN)/pytest -n 2 --dist loadgroup \
	  tests/automation tests/test_recovery.py tests/test_demo_on_servers.py

lint: setup ## check style, types and which way imports run
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: setup ## measure against the named alternatives (minutes; installs one of them, in a place of its own)
	$(BIN)/python -m tests.benchmarks
	$(BIN)/python -m tests.benchmarks.features --feast-duckdb
	$(BIN)/python -m tests.benchmarks.online
	$(BIN)/python -W "ignore:Parameter" -m tests.benchmarks.pricing
	$(BIN)/python -m tests.benchmarks.storage

clean: ## remove the environment and all state
	rm -rf $(VENV) .headwater

$(VENV)/.ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
	  || { echo "Headwater needs Python 3.11 to 3.13; name one: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -P platform_assets/instance/installation.py
	@touch $@
