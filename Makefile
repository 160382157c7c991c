# make run: install what the main job needs and do it.  make train, make test, make lint: likewise.  All lives in .venv.
# An INVALID run, status 1, does not keep the other scenarios from theirs; it is told at the end.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt
SCENARIOS ?= SingleStream MultiStream Server Offline
TIME ?= 10
NPROC ?= 1
RUNS ?= 5

.PHONY: run train test lint clean

run: $(VENV)/.run
	@status=0; for scenario in $(SCENARIOS); do \
		$(BIN)/drumfire run onnxruntime digits cpu --scenario $$scenario --time $(TIME) || status=$$?; \
		[ $$status -le 1 ] || exit $$status; \
	done; exit $$status

train: $(VENV)/.train
	$(BIN)/python -m training.benchmark shapes --runs $(RUNS) --nproc-per-node $(NPROC)

test: $(VENV)/.test
	$(BIN)/python -m pytest

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

$(VENV)/.lint: $(BIN)/python pyproject.toml constraints.txt
	$(PIP) --editable '.[lint,test]'
	@touch $@
