# Everything here sets itself up: the first call of any target makes .venv and installs what constraints.txt pins.
#   make demo        flow videos of the shipped clips, by the shipped weights
#   make test        the tests, without the slow ones
#   make coverage    the same, and which lines of deqflow/ they miss
#   make test-slow   the slow ones: killed processes, the wheel in an empty environment
#   make test-all    both in one go
#   make lint        ruff and mypy
#   make docs        the documentation as web pages in site/, an error for every warning
#   make install     all that the above need, in one go
# PYTHON=/path/to/python3.11 chooses the interpreter, DEMO_OUTPUT the folder that the demo writes to. Tests run in as
# many processes as there are cores, four at most; PYTEST_ARGS="-n 0" runs them in one.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.PHONY: demo test coverage test-slow test-all lint docs install clean

DEMO_OUTPUT ?= output/demo
PIP := .venv/bin/python -m pip --disable-pip-version-check
# Tests go out in order, half to each process, so that fixtures of a module are made once; who is done takes some of
# another's.
PYTEST := .venv/bin/python -m pytest -n logical --maxprocesses 4 --dist worksteal
# They write thousands of small files, each of which waits for the disk: in memory, where there is plenty of it (Linux).
PLENTY = $(shell df -Pk /dev/shm 2>/dev/null | cat - /proc/meminfo 2>/dev/null | awk '$$6 == "/dev/shm" && $$4 > 8e6 {n++} \
  $$1 == "MemAvailable:" && $$2 > 12e6 {n++} END {if (n == 2) print "-p /dev/shm"}')
WITH_FILES = files=$$(mktemp -d $(PLENTY)); trap 'rm -rf "$$files"' EXIT; TMPDIR=$$files
CANDIDATES := $(PYTHON) python3.11 python3.12 python3.13 python3 python

demo: .venv/installed
	.venv/bin/deqflow demo --output $(DEMO_OUTPUT)

test: .venv/installed-dev
	$(WITH_FILES) $(PYTEST) -m "not slow" $(PYTEST_ARGS)

coverage: .venv/installed-dev
	$(WITH_FILES) $(PYTEST) -m "not slow" --cov --cov-report=term $(PYTEST_ARGS)

test-slow: .venv/installed-dev
	$(WITH_FILES) $(PYTEST) -m slow $(PYTEST_ARGS)

test-all: .venv/installed-dev
	$(WITH_FILES) $(PYTEST) $(PYTEST_ARGS)

lint: .venv/installed-dev
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

docs: .venv/installed-docs
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict

install: .venv/created pyproject.toml constraints.txt
	$(PIP) install --quiet -c constraints.txt -e '.[dev,docs]'
	@touch .venv/installed .venv/installed-dev .venv/installed-docs

clean:
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis site

# An interpreter counts only if it runs (a pyenv shim may not), is new enough and can make virtual environments.
.venv/created:
	@for python in $(CANDIDATES); do \
	  if "$$python" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	    echo "Making .venv with $$("$$python" --version) ($$python)"; \
	    rm -rf .venv; "$$python" -m venv .venv; touch $@; exit 0; \
	  fi; \
	done; \
	echo "Python 3.11 or newer with its venv module was not found; install it (Debian, Ubuntu: python3-venv) or say" \
	     "make PYTHON=/path/to/python3.11" >&2; exit 1

.venv/installed: .venv/created pyproject.toml constraints.txt
	$(PIP) install --quiet -c constraints.txt -e .
	@touch $@

.venv/installed-dev: .venv/created pyproject.toml constraints.txt
	$(PIP) install --quiet -c constraints.txt -e '.[dev]'
	@touch .venv/installed $@

.venv/installed-docs: .venv/created pyproject.toml constraints.txt
	$(PIP) install --quiet -c constraints.txt -e '.[docs]'
	@touch $@
