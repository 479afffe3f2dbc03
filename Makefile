# make train: the main job on a fresh machine. make test: lint, types and all tests.
# Needs only Python 3.10 or newer and the network of its package index.
PYTHON ?= python3
VENV := .venv
DONE := $(VENV)/.installed
DATA := $(VENV)/.data

.PHONY: train test lint clean

train: $(DONE)
	$(VENV)/bin/cellwright train

test: $(DONE) $(DATA) lint
	$(VENV)/bin/python -m pytest

lint: $(DONE)
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/ruff check
	$(VENV)/bin/mypy

$(DONE): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install -c constraints.txt -e ".[dev]"
	touch $(DONE)

# The texts and sequences of examples lie in packages whose code is not run.
$(DATA): $(DONE)
	$(VENV)/bin/python -m pip install -c constraints.txt --no-deps aeon statsmodels
	touch $(DATA)

clean:
	rm -rf $(VENV)
