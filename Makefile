# Everything a newcomer needs; every target works in a fresh clone with only Python 3.11 and make.
# TORCH_INDEX=URL installs torch from another index (for instance PyTorch's index of CPU builds).
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PEERS := $(VENV)/peers
JOBS ?= auto
SOURCES := elasticvit server device_agent android_bench tests benchmarks

.DEFAULT_GOAL := help
.PHONY: help setup run demo test test-all test-fast check bench load format

help:  ## Show these targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

setup: $(STAMP)  ## Make .venv and install everything into it

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || \
	  { echo "Python 3.11 is needed; set PYTHON=/path/to/python3.11" >&2; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing pip, then torch, then the rest (about two minutes)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip==26.3
	@$(BIN)/python -m pip install --quiet -c constraints.txt $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch==2.13.0
	@$(BIN)/python -m pip install --quiet -c constraints.txt --config-settings editable_mode=compat -e '.[all]'
	@touch $@

run: $(STAMP)  ## Serve on http://127.0.0.1:8000 with this machine as device `host`
	@exec $(BIN)/elasticvit up

demo: $(STAMP)  ## One search, measured on this machine, against a server of its own
	@$(BIN)/elasticvit demo

# In random order, on all cores; `pytest -p randomly --randomly-seed=N` repeats the order of a run. A file's tests share what they
# set up, so one process runs them. Services are tested alone, one after another, because each takes a core.
SPREAD := -n $(JOBS) --dist loadfile --no-loadscope-reorder --ignore tests/service

test: $(STAMP)  ## Run the tests, but for the longest
	@$(BIN)/python -m pytest $(SPREAD)
	@$(BIN)/python -m pytest tests/service

test-all: $(STAMP)  ## Run all tests
	@ELASTICVIT_TEST_LONG=1 $(MAKE) test

test-fast: $(STAMP)  ## Run the tests that take less than a third of a second each
	@$(BIN)/python -m pytest $(SPREAD) -m "not slow and not medium"

check: $(STAMP)  ## Lint, types, import rules
	@$(BIN)/ruff check $(SOURCES)
	@$(BIN)/ruff format --check $(SOURCES)
	@$(BIN)/mypy
	@$(BIN)/python -m pytest -q tests/test_imports.py

bench: $(PEERS)/.installed  ## Print the figures of docs/figures.md that need no server
	@ELASTICVIT_PEERS=$(PEERS) $(BIN)/python -m benchmarks

load: $(STAMP)  ## Print how the service holds under load, against a bare app (about ten minutes)
	@$(BIN)/python -m benchmarks.load

# Networks to be timed against. Without what they ask for: torchvision wants another build of torch, and both stay out of the way.
$(PEERS)/.installed: $(STAMP)
	@echo "installing the peers of the benchmarks"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target $(PEERS) timm==1.0.31 torchvision==0.29.2
	@touch $@

format: $(STAMP)  ## Format the sources
	@$(BIN)/ruff check --fix $(SOURCES)
	@$(BIN)/ruff format $(SOURCES)
