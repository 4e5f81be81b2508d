# `make help` lists the targets. Each sets up what it needs first (see tools/setup.py) and says so.
PYTHON ?= python3
VENV := .venv/bin
SETUP := $(PYTHON) tools/setup.py
ARGS ?=
MINUTES ?= 10

.DEFAULT_GOAL := help
.PHONY: help demo test check format bench fuzz soak lock clean

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo:  ## Connect this machine to a little cluster, show what works, and put everything back (root)
	@$(SETUP) demo
	@$(VENV)/python examples/demo.py $(ARGS)

test:  ## Run the tests: unit, conformance, integration (root); ARGS="-k dns" picks some
	@$(SETUP) test
	@$(VENV)/python -m pytest $(ARGS)

check:  ## Format, lint, types for three platforms, layers, documents, pins
	@$(SETUP) check
	@$(VENV)/python tools/check.py

format:  ## Format the code and fix what can be fixed
	@$(SETUP) check
	@$(VENV)/ruff format . && $(VENV)/ruff check --fix .

bench:  ## Measure inroad beside a direct path and C relays (root); ARGS="--rounds 5"
	@$(SETUP) bench
	@$(VENV)/python -m bench $(ARGS)

fuzz:  ## Feed a million mutated inputs to each parser (minutes); ARGS="--inputs 20000" is quick
	@$(SETUP) test
	@for parser in packets tunnel dns; do $(VENV)/python tests/fuzz/fuzz_$$parser.py $(ARGS) || exit 1; done

soak:  ## Ten minutes of random flows, every byte checked, then memory and descriptors (root); MINUTES=1 is quick
	@$(SETUP) test
	@$(VENV)/python -m pytest tests/integration/test_soak.py -s --soak-minutes $(MINUTES) $(ARGS)

lock:  ## Pin the dependencies anew; ARGS=--upgrade takes the newest
	@$(SETUP) check
	@$(VENV)/python tools/lock.py $(ARGS)

clean:  ## Remove what the other targets made in this directory
	@rm -rf .venv dist build bench/results .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

-include tests/e2e/e2e.mk
