# make train: the main job on a fresh machine. make test: lint, types and all tests.
# Needs only Python 3.10 or newer and the network of its package index.
PYTHON ?= python3
VENV := .venv
DONE := $(VENV)/.installed
DATA := $(VENV)/.data

.PHONY: train test lint clean

train: $(DONE)
	$(VENV)/bin/cellwright train

# Two processes share the tests, and what they compile; their threads sleep, not spin, while they wait for each other.
# What measures time runs after them, with nothing beside.
test: $(DONE) $(DATA) lint
	OMP_WAIT_POLICY=passive $(VENV)/bin/python -m pytest -n 2 --dist worksteal -m "not alone"
	$(VENV)/bin/python -m pytest -m alone tests/cpu

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
