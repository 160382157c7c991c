# make run: install what the main job needs and do it.  make test, make lint: likewise.  All lives in .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt
SCENARIOS ?= SingleStream MultiStream Server Offline
TIME ?= 10

.PHONY: run test lint clean

run: $(VENV)/.run
	@for scenario in $(SCENARIOS); do \
		$(BIN)/drumfire run onnxruntime digits cpu --scenario $$scenario --time $(TIME) || exit; \
	done

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

$(VENV)/.test: $(BIN)/python pyproject.toml constraints.txt
	$(PIP) --editable '.[onnx-cpu,tritonclient,test]'
	@touch $@

$(VENV)/.lint: $(BIN)/python pyproject.toml constraints.txt
	$(PIP) --editable '.[lint,test]'
	@touch $@
