# Two commands for everyone: `make demo` and `make test`. Each makes its own .venv and installs what it needs.
PYTHON ?= python3
BIN := .venv/bin
TORCH ?= torch

.PHONY: demo test test-train check format bench corpus corpus-data corpus-check corpus-report clean

demo: .venv/.demo  ## route real conversations through the gateway with the embedded router; no key
	$(BIN)/pointsman demo

test: .venv/.dev  ## the whole suite
	$(BIN)/pytest

test-train: .venv/.train  ## the tests of training, which `make test` skips: they need torch (TORCH: which one to install)
	$(BIN)/pytest tests/training

check: .venv/.dev  ## lint, types, layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports

format: .venv/.dev  ## rewrite to the house style
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: .venv/.dev  ## measure: decision latency, then the gateway beside nginx (needs nginx, wrk and gcc)
	$(BIN)/python benches/decision/bench.py
	$(BIN)/python benches/gateway/bench.py

corpus: .venv/.dev  ## all that is made of the written corpus, into build/corpus: train/, heldout/, policies/
	$(BIN)/pointsman corpus build corpus --out build/corpus

corpus-data: .venv/.dev  ## corpus/data anew from what is written: after an edit of corpus/{taxonomy,written,sets}
	$(BIN)/pointsman corpus build corpus --written-only --out corpus/data

corpus-check: .venv/.dev  ## duplicates, contamination, languages, personal data ...; AGAINST=FOLDER of other data sets
	$(BIN)/pointsman corpus check corpus $(if $(AGAINST),--against $(AGAINST))

corpus-report: .venv/.dev  ## the tables and plots of corpus/README.md
	$(BIN)/pointsman corpus report corpus

clean:
	rm -rf .venv dist build .pytest_cache .ruff_cache .hypothesis

.venv/.python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Pointsman needs Python 3.11 or newer; run make with PYTHON=python3.12 or the like")'
	$(PYTHON) -m venv .venv
	touch $@

.venv/.demo: .venv/.python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[demo]'
	touch $@

.venv/.dev: .venv/.python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

.venv/.train: .venv/.dev pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check '$(TORCH)'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev,train]'
	touch $@
