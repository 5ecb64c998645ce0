# Everything a developer or a fresh machine runs. `make demo` and `make test` need Python >= 3.11, make and the
# package registries, and set up the rest themselves in .venv.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3.14 python3; do \
	command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PACKAGES := router classifier cache
# Processes that share the tests: some of them wait for a server most of their time, so never one alone.
WORKERS ?= $(shell n=$$(nproc 2>/dev/null || echo 2); echo $$((n < 2 ? 2 : n > 4 ? 4 : n)))

.PHONY: help setup demo test unit lint bench serve protos lock clean

help: ## Show this list.
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 16

setup: $(READY) ## Make .venv from requirements.lock, hashes checked.

# Debian splits the venv module off; a root user of a fresh machine gets it installed, others are told its name.
$(READY): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python >= 3.11 is needed and was not found on PATH" >&2; exit 1; }
	@rm -rf $(VENV)
	@$(PYTHON) -m venv $(VENV) 2>/dev/null || { \
		rm -rf $(VENV); \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			echo "python3-venv is missing: installing it"; \
			apt-get update -qq && apt-get install -y -qq python3-venv >/dev/null; \
		else echo "the venv module is missing: install the package python3-venv" >&2; exit 1; fi; \
		$(PYTHON) -m venv $(VENV); }
	@echo "installing the locked dependencies into $(VENV) (about a minute, once)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $(READY)

demo: $(READY) ## Run the shipped workload end to end on the built-in sandbox and print the bill.
	@$(BIN)/hybrid-router demo

# Tests of the ledger start a PostgreSQL server of their own. A root user of a fresh machine gets its programs, and no
# cluster of the system's; whoever cannot have them has those tests skipped, which they say.
.PHONY: postgresql
postgresql:
	@if ! command -v initdb >/dev/null && ! ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 \
		&& [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "PostgreSQL is missing: installing its programs for the tests of the ledger"; \
		export DEBIAN_FRONTEND=noninteractive; \
		{ apt-get update -qq && apt-get install -y -qq --no-install-recommends postgresql-common >/dev/null \
			&& { grep -qs '^create_main_cluster' /etc/postgresql-common/createcluster.conf \
				|| echo 'create_main_cluster = false' >>/etc/postgresql-common/createcluster.conf; } \
			&& apt-get install -y -qq --no-install-recommends postgresql >/dev/null; } \
		|| echo "it could not be installed: those tests will be skipped" >&2; fi

test: $(READY) postgresql ## Run the whole test suite.
	@OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest -p no:cacheprovider \
		-n $(WORKERS) --dist loadfile $(PYTEST_ARGS)

unit: $(READY) ## Run the fast tests only.
	@$(BIN)/python -m pytest -p no:cacheprovider -m "not e2e and not slow" $(PYTEST_ARGS)

lint: $(READY) ## ruff, mypy --strict, and buf where npm is at hand.
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .
	@$(BIN)/mypy
	@if ! command -v npx >/dev/null; then echo "buf lint: skipped, npm is not here"; \
	elif ! npx --yes @bufbuild/buf@1.75.0 --version >/dev/null 2>&1; then \
		echo "buf lint: skipped, the npm registry is out of reach"; \
	else cd protos && npx --yes @bufbuild/buf@1.75.0 lint && echo "buf lint: clean"; fi

bench: $(READY) ## Measure the full path against its floors; writes bench-results/.
	@$(BIN)/python -m tests.benchmarks.run

serve: $(READY) ## Serve on the built-in sandbox, no keys needed.
	@$(BIN)/hybrid-router serve --sandbox

protos: $(READY) ## Regenerate router/v1 from protos/.
	@$(BIN)/python -m tests.protos_generate .

lock: $(READY) ## Resolve requirements.lock anew from pyproject.toml, and the image's part of it.
	@$(BIN)/uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --quiet --custom-compile-command "make lock" --upgrade -o requirements.lock
	@$(BIN)/uv pip compile pyproject.toml --extra postgres --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--quiet --custom-compile-command "make lock" --constraint requirements.lock -o deploy/requirements.lock

clean: ## Remove what make made.
	@rm -rf $(VENV) bench-results .mypy_cache .ruff_cache .pytest_cache .hypothesis
