# make lenet, make bitstream and make test set everything up by themselves, in .venv, from PyPI.
#   PYTHON=python3.12 make test    uses another Python (3.11 or later) for .venv

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

# Which Python .venv is made of matters only when one was asked for.
ifeq ($(origin PYTHON),undefined)
PYTHON := python3
MADE := .venv/.made
else
MADE := .venv/.made-$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || echo none)
endif

BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install -qq --editable
TEST_JOBS ?= 2
IMAGES ?= 10
CONFIG ?= base
BOARD ?= ulx3s-25f

.PHONY: help lenet bitstream setup test test-full lint format clean

help:  ## show this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

lenet: .venv/.installed  ## run LeNet-5 on the engine, cycle by cycle, every byte checked (IMAGES=10 CONFIG=base)
	@$(BIN)/systolith run lenet5 --config $(CONFIG) --images $(IMAGES)

bitstream: .venv/.installed-fpga  ## LeNet-5 for a board, by synthesis, place and route (BOARD=ulx3s-25f), into build/
	@$(BIN)/systolith bitstream lenet5 --board $(BOARD) -o build

setup: .venv/.installed-dev  ## install the package and everything its tests need into .venv

lint: .venv/.installed-dev  ## style, types and the arrows between packages
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint  ## everything that a change must pass
	$(BIN)/pytest -n $(TEST_JOBS)

test-full: lint  ## the same, and the long campaigns
	$(BIN)/pytest -n $(TEST_JOBS) -m ""

format: .venv/.installed-dev  ## rewrite the sources in the house format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove .venv and everything else that was made here
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis *.egg-info
	find accel rtl sim tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp is touched only after everything before it succeeded; an install cut short is taken up again.

$(MADE):
	@command -v $(PYTHON) >/dev/null || { echo "systolith: $(PYTHON) is not there; install Python 3.11 or later, or name one: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "systolith: $(PYTHON) is $$($(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])'), but 3.11 or later is needed; name one: make PYTHON=python3.12" >&2; exit 1; }
	@command -v "$${CXX:-g++}" g++ clang++ >/dev/null || \
	  echo "systolith: there is no C++ compiler, so simulation will be slow; your system's package manager has one (g++)" >&2
	@echo "making .venv with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv --clear .venv || \
	  { echo "systolith: $(PYTHON) could not make a virtual environment; on Debian and Ubuntu install python3-venv" >&2; rm -rf .venv; exit 1; }
	@touch .venv/.made $@

.venv/.installed: $(MADE) pyproject.toml
	@echo "installing the package into .venv (about a minute the first time)"
	@$(PIP) . || { echo "systolith: the packages could not be installed; see above, and run the same command again" >&2; exit 1; }
	@touch $@

.venv/.installed-fpga: $(MADE) pyproject.toml
	@echo "installing the package and the tools for FPGAs into .venv (some minutes the first time)"
	@$(PIP) '.[fpga]' || { echo "systolith: the packages could not be installed; see above, and run the same command again" >&2; exit 1; }
	@touch .venv/.installed $@

.venv/.installed-dev: $(MADE) pyproject.toml
	@echo "installing the package and its test tools into .venv"
	@$(PIP) '.[dev]' || { echo "systolith: the packages could not be installed; see above, and run the same command again" >&2; exit 1; }
	@touch .venv/.installed .venv/.installed-fpga $@
