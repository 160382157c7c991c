# make run: install what the main job needs and do it.  make train, make test, make lint: likewise.  All lives in .venv.
# make test-all runs the slow tests too: every reference case, a real Triton, ranks, hosts, the peers.
# make gpu-proof: what can be shown on an NVIDIA GPU, in eight minutes; DEVICE=cpu: the same, small.
# make run goes through all scenarios even if one is INVALID; its status says so at the end.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LINT := $(VENV)/lint
INSTALL := pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable
NEEDED := Drumfire needs Python 3.11 or newer, which make PYTHON=... names
SCENARIOS ?= SingleStream MultiStream Server Offline
TIME ?= 10
NPROC ?= 1
RUNS ?= 5
TESTS ?= tests
DEVICE ?= gpu
OUTPUT ?= runs/gpu-proof
# One more than the cores of a small machine: tests also wait.
WORKERS ?= 3
PYTEST := $(BIN)/python -m pytest --durations=15
# For test-all: each call runs whatever the other found.  Status 5: it had no test to run, as with a TESTS of one file.
tests = $(PYTEST) --hypothesis-profile thorough $(1) $(TESTS) || [ $$? -eq 5 ] || status=1

.PHONY: run train test test-all gpu-proof lint docs clean

# Tests start hundreds of processes: compiled once, even where the environment says that nothing is kept.
test test-all: export PYTHONDONTWRITEBYTECODE :=

run: $(VENV)/.run
	@$(BIN)/python -P -m drumfire.bench.commands.scenarios --scenarios "$(SCENARIOS)" onnxruntime digits cpu --time $(TIME)

train: $(VENV)/.train
	$(BIN)/python -m drumfire.training.benchmark shapes --runs $(RUNS) --nproc-per-node $(NPROC)

test: $(VENV)/.test
	$(PYTEST) --numprocesses $(WORKERS) --dist worksteal $(TESTS)

test-all: $(VENV)/.test-all
	@status=0; \
	$(call tests,--numprocesses $(WORKERS) --dist worksteal -m 'not serial'); \
	$(call tests,-m serial); \
	exit $$status

# On a GPU with the Python that is there, whose torch fits its driver: nothing is installed.
gpu-proof: PROOF = -m drumfire.bench.peers.gpu --device $(DEVICE) --output $(OUTPUT)
ifeq ($(DEVICE),cpu)
gpu-proof: $(VENV)/.gpu-proof
	@$(BIN)/python -P $(PROOF)
else
gpu-proof:
	@PYTHONPATH="$(CURDIR)$${PYTHONPATH:+:$$PYTHONPATH}" "$(PYTHON)" -P $(PROOF)
endif

lint: $(LINT)/.lint
	$(LINT)/bin/ruff check .
	$(LINT)/bin/ruff format --check .
	$(LINT)/bin/mypy
	$(LINT)/bin/lint-imports

# The variable leaves out an advertisement.
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) site

# venv writes activate last: an environment without it was broken off, and is made anew.
%/bin/activate:
	@"$(PYTHON)" -c '' 2>/dev/null || { echo '$(PYTHON) does not run here: $(NEEDED)' >&2; exit 2; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11) and "$(PYTHON) is Python %d.%d: $(NEEDED)" % sys.version_info[:2])'
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { echo '$(PYTHON) has no venv: install it (Debian, Ubuntu: apt install python3-venv)' >&2; exit 2; }
	"$(PYTHON)" -m venv --clear $*

$(VENV)/.base: $(BIN)/activate pyproject.toml constraints.txt
	$(BIN)/$(INSTALL) .
	@touch $@

$(VENV)/.run: $(BIN)/activate pyproject.toml constraints.txt
	$(BIN)/$(INSTALL) '.[onnx-cpu]'
	@touch $@

$(VENV)/.train: $(BIN)/activate pyproject.toml constraints.txt
	$(BIN)/$(INSTALL) '.[train]'
	@touch $@

$(VENV)/.test: $(BIN)/activate pyproject.toml constraints.txt
	$(BIN)/$(INSTALL) '.[onnx-cpu,tritonclient,train,test]'
	@touch $@

$(VENV)/.test-all: $(BIN)/activate pyproject.toml constraints.txt
	$(BIN)/$(INSTALL) '.[onnx-cpu,tritonclient,train,multihost,test]'
	@touch $@

$(VENV)/.gpu-proof: $(BIN)/activate pyproject.toml constraints.txt
	$(BIN)/$(INSTALL) '.[pytorch,minilm,train,test]'
	@touch $@

$(VENV)/.docs: $(BIN)/activate pyproject.toml constraints.txt
	$(BIN)/$(INSTALL) '.[docs]'
	@touch $@

# In an environment of its own: what else is installed would change what mypy sees.
$(LINT)/.lint: $(LINT)/bin/activate pyproject.toml constraints.txt
	$(LINT)/bin/$(INSTALL) '.[lint]'
	@touch $@

$(LINT)/bin/activate: | $(BIN)/activate
