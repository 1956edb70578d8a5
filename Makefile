# Each target works from a fresh checkout: what it needs is made first.
#   make demo ARGS='--duration 20'      make test ARGS='tests/wire -x'

PYTHON ?= python3
VENV   ?= .venv
ARGS   ?=

BIN   := $(VENV)/bin
STAMP := $(VENV)/.installed

# Debian packages, each with a command that shows it is there.
TEST_NEEDS  := nginx:nginx-light curl:curl h2load:nghttp2-client openssl:openssl
BENCH_NEEDS := $(TEST_NEEDS) haproxy:haproxy nghttpx:nghttp2-proxy

.DEFAULT_GOAL := help
FUZZ_SECONDS ?= 60

.PHONY: help setup compiled demo test lint bench fuzz nightly system system-bench clean

help:
	@echo 'make setup | demo | test | lint | bench | fuzz | nightly | clean      (options: ARGS="...", FUZZ_SECONDS=60)'

setup: $(STAMP)

# The stamp is newer than pyproject.toml when everything it names is installed.
$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo 'conduit needs Python 3.11 or newer: make $(MAKECMDGOALS) PYTHON=python3.x' >&2; exit 1; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv --clear $(VENV)
	@echo 'conduit: installing into $(VENV)' >&2
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[demo,dev]'
	@touch $@

# The proxy's hot modules, where there is a C compiler; says so and goes on where there is none.
compiled: setup
	@$(BIN)/python -m mesh.cli.compiled

demo: compiled
	@$(BIN)/conduit demo $(ARGS) || { code=$$?; test $$code -eq 130 || exit $$code; }  # ^C is how a demo ends

test: system compiled
	$(BIN)/pytest -n 2 --dist loadfile $(ARGS)

lint: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: system-bench compiled
	$(BIN)/python -m bench $(ARGS)

# Each target so long; ARGS names some of them.
fuzz: setup
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[fuzz]'
	$(BIN)/python -m fuzz --seconds $(FUZZ_SECONDS) $(ARGS)

# What is too long for every change.
nightly: lint test fuzz

system:
	@bash .ci/need $(TEST_NEEDS)

system-bench:
	@bash .ci/need $(BENCH_NEEDS)

clean:
	rm -rf $(VENV) dist build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
