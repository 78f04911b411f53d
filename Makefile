# Everything a stranger needs: `make demo` (Python 3.11+) and `make test` (and Java 17+, Maven). `make help` lists all.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
BIN := $(VENV)/bin
UV_VERSION := 0.13.8
# The numeric libraries' own threads would fight with the workers for the cores.
export OMP_NUM_THREADS ?= 1
export PEER_PYTHON

# Installs a lock file and this package: uv takes seconds where pip takes minutes, and pip serves where uv is not.
define install
@if [ -x $(BIN)/uv ]; then install="$(BIN)/uv pip install --quiet --python $(BIN)/python"; \
else install="$(BIN)/python -m pip install --quiet"; fi; \
$$install --require-hashes -r $(1); \
$$install --no-deps --editable .
endef

.PHONY: help
help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 16

.PHONY: demo
demo: $(VENV)/.runtime ## install, then replay 628 real patients through the whole path (ARGS="..." is passed on)
	$(BIN)/oncotwin demo $(ARGS)

.PHONY: test
test: $(VENV)/.dev kafka ## install, fetch Kafka, then lint and run every test, Kafka and PostgreSQL included
	$(MAKE) lint
ifdef ARGS
	$(BIN)/pytest $(ARGS)
else
	$(BIN)/pytest -n 2 --dist loadfile -m "not alone"
	$(BIN)/pytest -m alone
endif

.PHONY: check
check: $(VENV)/.dev lint ## lint, types, layers and the fast tests, in under three minutes
	$(BIN)/pytest -m "not slow" tests/unit tests/properties tests/reference tests/architecture $(ARGS)

.PHONY: lint
lint: $(VENV)/.dev ## ruff, mypy --strict, import-linter
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

.PHONY: bench
bench: $(VENV)/.dev kafka ## run every benchmark, peers in environments of their own; writes docs/benchmarks.{json,md}
	failed=""; \
	for script in tests/benchmarks/bench_*.py; do \
	    echo "== $$script"; \
	    $(BIN)/python -m "tests.benchmarks.$$(basename "$$script" .py)" || failed="$$failed $$script"; \
	done; \
	$(BIN)/python -m tests.benchmarks.render; \
	if [ -n "$$failed" ]; then echo "failed:$$failed" >&2; exit 1; fi

.PHONY: bench-spatial
bench-spatial: $(VENV)/.dev ## sections and slides beside their peers, which want Python 3.12 (found, or PEER_PYTHON=...)
	failed=""; \
	for script in tests/benchmarks/bench_spatial_*.py tests/benchmarks/bench_slide*.py; do \
	    echo "== $$script"; \
	    $(BIN)/python -m "tests.benchmarks.$$(basename "$$script" .py)" || failed="$$failed $$script"; \
	done; \
	$(BIN)/python -m tests.benchmarks.render; \
	if [ -n "$$failed" ]; then echo "failed:$$failed" >&2; exit 1; fi

.PHONY: faults
faults: $(VENV)/.dev kafka ## SIMULATED=10000 seeds of simulated faults and N=200 with real parts, from SEED=1 on; runs add up in var/
	failed=""; \
	$(BIN)/python -m tests.faults.simulation --first $(or $(SEED),1) --n $(or $(SIMULATED),10000) || failed=" simulated"; \
	$(BIN)/python -m tests.faults.real_parts --seed $(or $(SEED),1) --n $(or $(N),200) || failed="$$failed real"; \
	if [ -n "$$failed" ]; then echo "failed:$$failed" >&2; exit 1; fi

.PHONY: fuzz
fuzz: $(VENV)/.dev ## feed N=1000000 inputs to everything that reads bytes from outside, guided by coverage (SEED=1)
	$(BIN)/python -m tests.faults.fuzz --n $(or $(N),1000000) --seed $(or $(SEED),1) $(ARGS)

.PHONY: kafka
kafka: $(VENV)/.dev ## fetch the Kafka broker for tests by Maven (needs Java 17+ and Maven)
	@$(BIN)/python -m oncotwin.testing.servers --fetch

.PHONY: lock
lock: $(VENV)/.uv ## resolve requirements*.in anew into the lock files
	for name in requirements requirements-dev; do \
	    UV_CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/uv pip compile --quiet --universal --python-version 3.11 \
	        --fork-strategy fewest --generate-hashes --no-emit-index-url --no-annotate $(ARGS) \
	        $$name.in --output-file $$name.lock; \
	done

.PHONY: clean
clean: ## remove the environment, fetched jars, caches and run-time data
	rm -rf $(VENV) *.egg-info build dist deploy/kafka/libs var .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find platform flows services tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.runtime: $(VENV)/.uv requirements.lock pyproject.toml
	@echo "installing the pinned packages (1.5 GB on disk, a minute or two the first time) ..." >&2
	$(call install,requirements.lock)
	@touch $@

$(VENV)/.dev: $(VENV)/.uv requirements-dev.lock pyproject.toml
	@echo "installing the pinned packages and the test tools (3.1 GB on disk, a few minutes the first time) ..." >&2
	$(call install,requirements-dev.lock)
	@touch $@ $(VENV)/.runtime

# PYTHON=... chooses another interpreter; by default the first of these that is new enough and can make environments.
$(VENV)/.uv:
	@found=""; \
	for candidate in $(or $(PYTHON),python3.11 python3.12 python3.13 python3 python); do \
	    if "$$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	        found="$$candidate"; break; \
	    fi; \
	done; \
	if [ -z "$$found" ]; then \
	    echo "no Python 3.11 or later with the venv module was found; install one (on Debian and Ubuntu also" >&2; \
	    echo "python3-venv), or name it: make demo PYTHON=/path/to/python3.11" >&2; \
	    exit 1; \
	fi; \
	echo "making $(VENV) with $$("$$found" --version)" >&2; \
	"$$found" -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check "uv==$(UV_VERSION)" \
	    || echo "uv cannot be installed here; pip will do its work, more slowly" >&2
	@touch $@
