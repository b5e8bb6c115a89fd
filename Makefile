# `make demo` and `make test` do all their own set-up; the rest is for people who work on Mailboat.
.DEFAULT_GOAL := help
BIN := .venv/bin
# Each process that the tests start would compile what it imports again.
unexport PYTHONDONTWRITEBYTECODE
# Neighbouring tests share what they stand on: each worker takes a stretch of them, then helps out.
PYTEST := $(BIN)/python -m pytest -q -n auto --dist worksteal

.PHONY: help setup demo test test-all test-faults check lint types contracts docs format schemas lock clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

setup: .venv/.ready ## virtual environment, dependencies, system packages (apt when root)

.venv/.ready: requirements/dev.lock pyproject.toml .ci/setup
	@sh .ci/setup
	@touch $@

demo: setup ## the whole story on this machine: a broker, a controller, six agents
	@$(BIN)/mailboat demo $(DEMO)

test: setup ## the quick suite, about three minutes on two cores
	@$(PYTEST) -m "not slow" $(ARGS)

test-all: setup ## every test, the slow ones too
	@$(PYTEST) $(ARGS)

check: lint types contracts test-all ## what must hold before a change lands

lint: setup ## ruff
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: setup ## mypy --strict
	@$(BIN)/mypy

contracts: setup ## which package may import which
	@$(BIN)/lint-imports

docs: setup ## the documents as a site, in .cache/site
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

format: setup ## rewrite the code as ruff wants it
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

test-faults: setup ## crashes, refusals and power cuts at every point, and the defects they must see
	@PYTHONPATH=.:tests/support $(BIN)/python -m tests.faults $(ARGS)

schemas: setup ## write contract (JSON Schema, AsyncAPI, OpenAPI), command reference and man pages again
	@$(BIN)/python docs/contract/write.py

# Images install only what their part needs, in the very versions that the tests ran with.
COMPILE := $(BIN)/uv pip compile --generate-hashes --universal --python-version 3.11 \
  --no-emit-index-url --custom-compile-command 'make lock' -q
PINNED := -c requirements/dev.lock

lock: ## resolve the dependencies again into requirements/*.lock
	@$(BIN)/python -m pip install -q uv
	@$(COMPILE) pyproject.toml --extra demo --group dev --upgrade -o requirements/dev.lock
	@$(COMPILE) pyproject.toml --extra agent --extra inspect $(PINNED) -o requirements/agent.lock
	@$(COMPILE) pyproject.toml --extra controller --extra postgres --extra s3 --extra hsm $(PINNED) \
	  -o requirements/controller.lock
	@$(COMPILE) pyproject.toml --extra model --extra s3 --extra hsm $(PINNED) \
	  -o requirements/authority.lock
	@echo hatchling | $(COMPILE) - $(PINNED) -o requirements/build.lock

clean: ## remove what set-up made
	rm -rf .venv .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis
