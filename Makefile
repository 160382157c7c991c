# make run: install what the main job needs and do it.  make train, make test, make lint: likewise.  All lives in .venv.
# make test-all runs the slow tests too: every reference case, a real Triton, ranks, hosts, the peers.
# An INVALID run, status 1, does not keep the other scenarios from theirs; it is told at the end.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt
SCENARIOS ?= SingleStream MultiStream Server Offline
TIME ?= 10
NPROC ?= 1
RUNS ?= 5
TESTS ?= tests
WORKERS ?= 2
PYTEST := $(BIN)/python -m pytest --durations=15
# Each call runs whatever the other found.  Status 5: it had no test to run, as with a TESTS that names one file.
tests = $(PYTEST) $(1) $(TESTS) || [ $$? -eq 5 ] || status=1

.PHONY: run train test test-all lint clean

run: $(VENV)/.run
	@status=0; for scenario in $(SCENARIOS); do \
		$(BIN)/drumfire run onnxruntime digits cpu --scenario $$scenario --time $(TIME) || status=$$?; \
		[ $$status -le 1 ] || exit $$status; \
	done; exit $$status

train: $(VENV)/.train
	$(BIN)/python -m training.benchmark shapes --runs $(RUNS) --nproc-per-node $(NPROC)

test: $(VENV)/.test
	@status=0; \
	$(call tests,--numprocesses $(WORKERS) --dist worksteal -m 'not slow and not serial'); \
	$(call tests,-m 'serial and not slow'); \
	exit $$status

test-all: $(VENV)/.test-all
	@status=0; \
	$(call tests,--hypothesis-profile thorough --numprocesses $(WORKERS) --dist worksteal -m 'not serial'); \
	$(call tests,--hypothesis-profile thorough -m serial); \
	exit $$status

lint: $(VENV)/.lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV)

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: $(BIN)/python pyproject.toml constraints.txt
	$(PIP) --editable '.[onnx-cpu]'
	@touch $@

$(VENV)/.train: $(BIN)/python pyproject.toml constraints.txt
	$(PIP) --editable '.[train]'
	@touch $@

$(VENV)/.test: $(BIN)/python pyproject.toml constraints.txt
	$(PIP) --editable '.[onnx-cpu,tritonclient,train,test]'
	@touch $@

$(VENV)/.test-all: $(BIN)/python pyproject.toml constraints.txt
	$(PIP) --editable '.[onnx-cpu,tritonclient,train,multihost,test]'
	@touch $@

$(VENV)/.lint: $(BIN)/python pyproject.toml constraints.txt
	$(PIP) --editable '.[lint,test]'
	@touch $@
