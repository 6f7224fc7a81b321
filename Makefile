# Two commands do everything on a fresh machine with Python 3.11:  make demo   and   make test
PYTHON ?= python3.11
VENV := .venv
RUN := $(VENV)/bin/python
STAMP := $(VENV)/.installed
DEMO ?= runs/demo

.PHONY: help env demo test test-fast lint format clean

help:  ## Show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12

env: $(STAMP)  ## Build .venv from constraints.txt

# The stamp makes later calls free; a change of what is pinned builds anew.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if (3, 11) <= v < (3, 13) else f"Python 3.11 or 3.12 is needed, $(PYTHON) is {v.major}.{v.minor}")'
	$(PYTHON) -m venv --clear $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt ".[dev]"
	touch $(STAMP)

demo: env  ## Log with known truth -> ESCM2 training on Ray -> fusion weights by ES -> HTML report
	$(RUN) -m jobs.demo --out $(DEMO)

test: env  ## All tests
	$(RUN) -m pytest

test-fast: env  ## Tests that start no Ray and take no seconds
	$(RUN) -m pytest -m "not ray and not slow"

lint: env  ## ruff and mypy
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

format: env  ## Let ruff rewrite
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

clean:  ## Remove .venv, caches and runs
	rm -rf $(VENV) runs .pytest_cache .mypy_cache .ruff_cache .hypothesis build *.egg-info
