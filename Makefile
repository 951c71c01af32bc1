# Every target works in a fresh clone: it makes .venv and installs what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= 2

.PHONY: help demo test coverage mutants lint types bench docs build dist-test matrix lowest clean

help:
	@echo "make demo   train on real data and draw a picture (docs/examples/digits.py)"
	@echo "make test   all tests"
	@echo "make coverage  all tests, and which branches of src none of them takes"
	@echo "make mutants  which small changes of src no test notices (tests/mutants/README.md)"
	@echo "make lint   ruff: rules and formatting"
	@echo "make types  pyright (strict) on src, pyright and mypy on tests/typing"
	@echo "make bench  benchmarks against twins and peers, into benchmarks/RESULTS.md and docs/figures"
	@echo "make docs   the documentation, into site/"
	@echo "make build  the wheel and the sdist, into dist/"
	@echo "make dist-test  the wheel in an empty environment, with the tests of the sdist"
	@echo "make matrix all tests, with every Python and the oldest and newest dependencies"
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

coverage: $(VENV)/.extra-test $(VENV)/.extra-coverage
	mkdir -p out
	$(BIN)/python -m pytest -q -n $(WORKERS) --cov --cov-report=term

mutants: $(VENV)/.extra-test $(VENV)/.extra-mutants
	nice $(BIN)/python tests/mutants/campaign.py --workers $(WORKERS)

lint: $(VENV)/.extra-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.extra-lint
	$(BIN)/pyright
	$(BIN)/pyright -p tests/typing
	$(BIN)/mypy --config-file tests/typing/mypy.ini tests/typing

bench: $(VENV)/.extra-bench
	$(BIN)/python -m pytest benchmarks -q -p no:xdist --benchmark-only --benchmark-disable-gc

# Not --quiet: it keeps warnings from being counted, and --strict from refusing them.
docs: $(VENV)/.extra-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

build: $(VENV)/.extra-test
	rm -rf dist
	$(BIN)/python -m hatchling build -d dist

# As strangers get it: nothing is there but what the index has and the sdist tests with.
dist-test: build
	rm -rf .venv-dist out/dist
	mkdir -p out/dist
	tar -xf dist/*.tar.gz -C out/dist --strip-components 1 --exclude "*/src"
	$(PYTHON) -m venv .venv-dist
	.venv-dist/bin/python -m pip install --quiet "$$(ls dist/*.whl)[test]"
	cd out/dist && ../../.venv-dist/bin/python -m pytest -q -n $(WORKERS) tests

# Which tests run where is in noxfile.py; MATRIX passes options on: MATRIX="-s newest-3.13".
matrix: $(VENV)/.extra-matrix
	WORKERS=$(WORKERS) $(BIN)/nox $(MATRIX)

lowest: $(VENV)/.extra-matrix
	WORKERS=$(WORKERS) $(BIN)/nox -s lowest $(MATRIX)

clean:
	rm -rf $(VENV) .venv-dist .nox site out .pytest_cache .hypothesis .mypy_cache .ruff_cache build dist
