# make train: the main job on a fresh machine. make test: lint, types and all tests.
# Needs only Python 3.10 or newer and the network of its package index.
PYTHON ?= python3
VENV := .venv
DONE := $(VENV)/.installed

.PHONY: train test lint clean

train: $(DONE)
	$(VENV)/bin/cellwright train

test: $(DONE) lint
	$(VENV)/bin/python -m pytest

lint: $(DONE)
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/ruff check
	$(VENV)/bin/mypy

$(DONE): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install -c constraints.txt -e ".[dev]"
	touch $(DONE)

clean:
	rm -rf $(VENV)
