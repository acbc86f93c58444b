# The two commands of the README are `make demo` and `make test`; both set up what they need.
.PHONY: help demo test setup setup-dev lint fast bench docs clean
.DEFAULT_GOAL := help

help: ## show these targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: setup ## boot a three-node dual-stack cluster, show both families answering, take it down
	@tools/demo

test: setup-dev lint ## the linters and the whole test suite, with real clusters in network namespaces
	.venv/bin/python -m pytest

fast: setup-dev ## the tests that need no root and take no time
	.venv/bin/python -m pytest -m 'not slow and not kernel and not cluster'

lint: setup-dev ## ruff, mypy --strict, import contracts
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

bench: setup-dev ## all benchmarks: a table here, JSON in bench/results/
	.venv/bin/python -m bench

docs: setup-dev ## write docs/reference anew from the code
	.venv/bin/python tools/reference.py

setup: ## Debian packages and .venv, once
	@tools/setup

setup-dev:
	@tools/setup dev

clean: ## remove what set-up and tests made
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache bench/results
