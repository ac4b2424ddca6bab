# make demo | test    each makes the .venv it needs, then runs. `make help` lists the rest.

SHELL := /bin/sh
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# PYTHON=/path/to/python3 chooses the interpreter; by default the first from 3.11 on that can make an environment.
PYTEST := $(BIN)/python -m pytest

.PHONY: help venv demo test check format bench simulate chaos clean
.DELETE_ON_ERROR:

help:
	@echo "make demo      start a fleet, analyse Python's standard library on it, check the result, clean up"
	@echo "make test      all tests"
	@echo "make check     what CI runs: format, lint, types, import contracts, tests"
	@echo "make bench     throughput, latency, memory and idle cost of a fleet on this machine"
	@echo "make simulate  whole fleets on simulated clocks, networks and disks, by seed (SEEDS=n)"
	@echo "make chaos     real daemons under kills, freezes and a Redis that goes away"
	@echo "make format    format the code and fix what can be fixed"
	@echo "make venv      only make $(VENV)"

venv: $(STAMP)

$(STAMP): pyproject.toml .ci/make-venv
	@PYTHON="$(PYTHON)" .ci/make-venv "$(VENV)"
	@touch $@

demo: $(STAMP)
	$(BIN)/a2actl demo $(ARGS)

test: $(STAMP)
	$(PYTEST) $(ARGS)

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(PYTEST) $(ARGS)

format: $(STAMP)
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

bench: $(STAMP)
	$(BIN)/a2actl bench $(ARGS)

simulate: $(STAMP)
	$(PYTEST) tests/simulation $(ARGS)

chaos: $(STAMP)
	$(PYTEST) tests/fault $(ARGS)

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
