# Everything runs in a virtual environment of its own, made on first use: `make demo`, `make test`.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# One Ray and two processes share the cores; more threads a process would only fight.
export OMP_NUM_THREADS ?= 1

.PHONY: demo test lint format figures clean install help

help: ## List what can be made
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):[^#]*## /\1\t/' | expand -t 12

demo: $(STAMP) ## Watch the whole of it on real images (a few minutes on two cores)
	$(BIN)/ray-app demo --fresh

test: $(STAMP) ## Prove it
	$(BIN)/python -m pytest

lint: $(STAMP) ## Format, style, types, who may import whom
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP) ## Format and mend what a machine can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

figures: $(STAMP) ## Measure the figures of the README
	$(BIN)/python -m benchmarks.evaluate

install: $(STAMP) ## Only install

# The constraints pin a tested set; torch and torchvision among them fit one another (see constraints.txt).
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test,lint,bench]'
	$(BIN)/python -c 'import torch, torchvision, timm; torchvision.ops.nms' 
	touch $@

clean: ## Delete what was made
	rm -rf $(VENV) runs build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
