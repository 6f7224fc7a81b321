# Two commands do everything on a fresh machine with Python 3.11:  make demo   and   make test
PYTHON ?= python3.11
VENV := .venv
RUN := $(VENV)/bin/python
STAMP := $(VENV)/.installed
DEMO ?= runs/demo
AUDIT := .audit

# Tests and demo start hundreds of processes; each would compile the same files again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help env demo test test-fast fuzz lint audit format clean

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
	$(RUN) -m pytest -m "not ray" -n 2 --dist worksteal
	$(RUN) -m pytest -m ray -n 2 --dist loadfile

test-fast: env  ## Tests that start no Ray and take no seconds
	$(RUN) -m pytest -m "not ray and not slow" -n 2 --dist worksteal

fuzz: env  ## The fuzz tests with twenty times as many examples, other ones each time
	COUNTERPOINT_FUZZ=20 $(RUN) -m pytest tests/test_fuzz_*.py

lint: env  ## ruff and mypy
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

# A tool of its own, in an environment of its own: what it needs is not what we pin.
audit:  ## Known vulnerabilities of the pinned versions, where the advisories can be reached
	test -x $(AUDIT)/bin/pip-audit || ($(PYTHON) -m venv $(AUDIT) && $(AUDIT)/bin/pip install --quiet --disable-pip-version-check pip-audit==2.10.1)
	@$(AUDIT)/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip --progress-spinner off > $(AUDIT)/report.txt 2>&1; \
	status=$$?; cat $(AUDIT)/report.txt; \
	if grep -qiE 'could not be audited|connection|failed to resolve|max retries|timed out' $(AUDIT)/report.txt; then \
	  echo 'The advisories of some packages, or of all, could not be reached: THEY WERE NOT CHECKED'; exit 3; \
	fi; exit $$status

format: env  ## Let ruff rewrite
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

clean:  ## Remove .venv, caches and runs
	rm -rf $(VENV) $(AUDIT) runs .pytest_cache .mypy_cache .ruff_cache .hypothesis build *.egg-info
