# Every target works in a fresh clone: it makes .venv and installs what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= 2

.PHONY: help demo test lint types bench docs lowest clean

help:
	@echo "make demo   train on real data and draw a picture (docs/examples/digits.py)"
	@echo "make test   all tests"
	@echo "make lint   ruff: rules and formatting"
	@echo "make types  pyright (strict) on src, pyright and mypy on tests/typing"
	@echo "make bench  benchmarks against hand-written twins"
	@echo "make docs   the documentation, into site/"
	@echo "make lowest all tests, with the lowest versions that pyproject.toml allows"

# One stamp for each extra: installed again only when pyproject.toml changes.
$(VENV)/.made:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	@touch $@

$(VENV)/.extra-%: pyproject.toml | $(VENV)/.made
	$(BIN)/python -m pip install --quiet --editable ".[$*]"
	@touch $@

demo: $(VENV)/.extra-demo
	$(BIN)/python docs/examples/digits.py

test: $(VENV)/.extra-test
	$(BIN)/python -m pytest -q -n $(WORKERS)

lint: $(VENV)/.extra-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.extra-lint
	$(BIN)/pyright
	$(BIN)/pyright -p tests/typing
	$(BIN)/mypy --config-file tests/typing/mypy.ini tests/typing

bench: $(VENV)/.extra-bench
	$(BIN)/python -m pytest benchmarks -q -p no:xdist --benchmark-only --benchmark-disable-gc

docs: $(VENV)/.extra-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# The lower bounds as pins: every ">=" of the run-time dependencies read as "==".
LOWEST = import tomllib; \
  print(*(d.replace(">=", "==") for d in tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"]))

.venv-lowest/.made: pyproject.toml
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet --upgrade pip
	.venv-lowest/bin/python -m pip install --quiet --editable ".[test]" $$($(PYTHON) -c '$(LOWEST)')
	@touch $@

lowest: .venv-lowest/.made
	.venv-lowest/bin/python -m pytest -q -n $(WORKERS)

clean:
	rm -rf $(VENV) .venv-lowest site out .pytest_cache .hypothesis .mypy_cache .ruff_cache build dist
