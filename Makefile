# Everything lives in .venv: no root, git, Docker or running Redis is needed. `make` lists what there is.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

# pip builds this package in an environment of its own; the pins hold there too. Old pips read the first, new ones the second.
export PIP_CONSTRAINT := constraints.txt
export PIP_BUILD_CONSTRAINT := constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help setup test test-faults soak demo serve check bench bench-gpu quality clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' Makefile

setup: $(INSTALLED) ## install everything into .venv; does nothing when that is done already

# Written last, so an interrupted set-up is taken up again.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	    echo "'$(PYTHON)' is not Python 3.11 or newer. Name one that is: make setup PYTHON=python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[worker,local,dev]'
	@touch $@

# Two at a time, each computing on one core: most tests wait, or compute too little to fill more.
test: setup ## run the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

# At every stage and for as long as it takes; `make test` has a few of them.
test-faults: setup ## kill, hang and cut off workers and Redis, wherever it hurts
	VXL_TEST_FAULTS=all $(BIN)/python -m pytest -n 2 tests/faults

soak: setup ## twenty minutes of random faults on three workers
	$(BIN)/python -m tests.faults.soak

demo: setup ## restore the sample clip, end to end
	$(BIN)/vxl demo

# exec: no shell stands between a signal and the service.
serve: setup ## run the service on this machine
	exec $(BIN)/vxl serve

check: setup ## lint, formatting, types and the rules of who may import whom
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: setup ## measure seconds per frame
	$(BIN)/python bench/speed.py

# With the PYTHON at hand and what lies beside it: a machine with a GPU may have no network.
bench-gpu: ## the same for SDXL at its full size with random weights, on a GPU
	PYTHONPATH=. $(PYTHON) bench/speed.py --model full-size --device cuda --dtype bfloat16 --size 768x1280 --frames 25

CLIPS ?= app/static/sample.mp4
quality: setup ## measure what comes back, on CLIPS, and draw docs/figures
	$(BIN)/python bench/quality.py $(CLIPS) --show all

clean: ## remove .venv and the caches; clips and results in data/ stay
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +
