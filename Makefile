# One environment (.venv), made on first use and again whenever pyproject.toml changes.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: run gen check-gen fmt lint type test test-slow bench clean

$(READY): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	touch $(READY)

run: $(READY)  ## start the gateway on the demo model and every provider whose key is in the environment
	$(BIN)/trunkline serve $(ARGS)

gen: $(READY)  ## generate the contract's Python code
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python proto/generate.py

check-gen: gen  ## fail when the committed generated code is not what the contract gives
	@test -z "$$(git status --porcelain -- proto)" || { git --no-pager diff --stat -- proto; git status --short -- proto; echo "run 'make gen' and commit"; exit 1; }

fmt: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: $(READY) check-gen
	$(BIN)/buf lint
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports

type: $(READY)
	$(BIN)/mypy

test: $(READY)
	$(BIN)/python -m pytest

test-slow: $(READY)
	$(BIN)/python -m pytest -m slow --timeout=1800

bench: $(READY)
	$(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
