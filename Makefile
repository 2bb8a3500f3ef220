# Every target works from a clean clone: what it needs is set up first, into .venv.
PYTHON ?= python3
WORKERS ?= 2
# Packages uploaded after this day are not looked at by `make lock`. To upgrade: set a later day.
LOCK_DATE := 2026-11-21

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
SETUP := requirements/install.sh requirements/torch.txt requirements/lock.txt pyproject.toml

# One thread a worker, no hub, no screen.
TEST_ENV := OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 MPLBACKEND=Agg
PYTEST := $(TEST_ENV) $(BIN)/python -m pytest -n $(WORKERS)

# The npm packages of the page in examples/web and of tests/runtimes. Their install scripts only fetch GPU libraries.
WEB := examples/web
NPM_READY := $(WEB)/node_modules/.package-lock.json

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help venv demo test test-slow test-runtimes lint format types check lock clean clean-all

help: ## list the targets
	@echo "make TARGET [PYTHON=python3] [WORKERS=2] [ARGS=...]"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' Makefile

# An environment that was moved or copied here, or has lost its Python, is made anew.
ifneq "$(shell test -x $(BIN)/python && cat $(READY) 2>/dev/null)" "$(CURDIR)"
.PHONY: $(READY)
endif

$(READY): $(SETUP)
	@requirements/install.sh "$(PYTHON)" $(VENV) $(READY)

venv: $(READY) ## set up or refresh .venv

demo: $(READY) ## label two texts with a shipped model; quantise, train, export and verify a small network
	@$(BIN)/sxq classify "a gorgeous, witty film" "two hours that nobody will give back"
	@$(BIN)/sxq demo $(ARGS)

test: $(READY) ## run the tests but the slow ones; ARGS go to pytest
	@$(PYTEST) -m "not slow" $(ARGS)

test-slow: $(READY) ## run all tests
	@$(PYTEST) $(ARGS)

$(NPM_READY): $(WEB)/package.json $(WEB)/package-lock.json
	@command -v npm >/dev/null || { echo "npm is missing: install Node.js 20 or newer" >&2; exit 1; }
	@cd $(WEB) && npm ci --ignore-scripts --no-audit --no-fund
	@touch $@

test-runtimes: $(READY) $(NPM_READY) ## run the files in onnxruntime-node and -web; needs Node.js and Chromium
	@SXQ_RUNTIMES=required $(PYTEST) -m "not slow" tests/runtimes $(ARGS)

lint: $(READY) ## style, formatting, import layers
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports --no-cache --no-logo

format: $(READY) ## format, and fix what ruff can fix
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

types: $(READY) ## mypy --strict on the packages
	@$(BIN)/python -m mypy

check: lint types test ## lint, types and test

lock: ## write requirements/lock.txt anew
	@requirements/lock.sh "$(PYTHON)" $(LOCK_DATE)

clean: ## remove caches and build products
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

clean-all: clean ## remove the virtual environment too
	rm -rf $(VENV) $(VENV)-unfinished $(VENV)-setup.log
