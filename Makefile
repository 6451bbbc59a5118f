# Two commands do all the set-up: `make demo` and `make test`. Both need python3, make and pip's index only.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO_DIR ?= demo
# Many tests wait for processes: two at a time take half as long. A file stays in one worker, with its fixtures.
TEST_WORKERS ?= 2
# Tests start hundreds of processes: where nothing compiled is kept, each compiles the package again.
export PYTHONDONTWRITEBYTECODE =

.PHONY: help demo test check docs bench bench-peers bench-page soak clean

help:
	@echo "make demo   run the main job against the simulated camera (pictures in $(DEMO_DIR)/)"
	@echo "make test   run the tests"
	@echo "make check  ruff, mypy, import-linter, links between pages"
	@echo "make docs   pages: links, and every block of code run"
	@echo "make bench  speed and memory, as ratios in one run"
	@echo "make bench-peers  the comparison with other programs alone; then make bench-page writes it into the pages"
	@echo "make soak   the long tests"

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed, this is " + sys.version.split()[0] + "; call: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed-%: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[$*]"
	@touch $@

demo: $(VENV)/installed-demo
	$(BIN)/ophyd-timepix demo --directory $(DEMO_DIR)

test: $(VENV)/installed-dev
	$(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadfile --no-loadscope-reorder

soak: $(VENV)/installed-dev
	$(BIN)/python -m pytest -m soak

check: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q tests/docs/test_links.py

docs: $(VENV)/installed-dev
	$(BIN)/python -m pytest tests/docs

bench: $(VENV)/installed-bench
	$(BIN)/python -m pytest tests/benchmarks -m bench

bench-peers: $(VENV)/installed-bench
	$(BIN)/python -m pytest tests/benchmarks/test_peers.py -m bench

# The tables of the last comparison (build/bench/peers.json), into docs/explanations/performance.md and printed.
bench-page: $(VENV)/installed-bench
	$(BIN)/python -m tests.benchmarks.report

clean:
	rm -rf $(VENV) $(DEMO_DIR) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
