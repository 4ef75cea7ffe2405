# `make` lists what can be made. Everything sets up .venv first: once, and again only when the pins change.
.DEFAULT_GOAL := help
.PHONY: help run ui test quick bench bench-elpv recipe check format wheel setup clean
ARGS ?=
export PYTHON

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile
	@echo 'ARGS passes options on: make run ARGS="--set unfreeze.ratio=10", make test ARGS="-k frozen -x"'

run: setup ## set up, bring the data, train in two phases, write the report
	@.venv/bin/thaw run $(ARGS)

ui: setup ## show the runs in the Prefect UI
	@.venv/bin/thaw ui $(ARGS)

test: setup ## set up and run the whole suite
	@.venv/bin/python -m pytest $(ARGS)

quick: setup ## the tests of every day: those that need no server, browser or real run, and one flow
	@.venv/bin/python -m pytest -m "quick or not (server or browser or end_to_end or slow or every_family)" $(ARGS)

bench: setup ## time thaw against its peers, which get an environment of their own
	@.venv/bin/python -m thaw.project.bring
	@benchmarks/setup
	@.venv-bench/bin/python -m benchmarks.peers $(ARGS)

bench-elpv: setup ## accuracy on the demo's data, by the protocol of a published table
	@.venv/bin/python -m thaw.project.bring
	@.venv/bin/python -m benchmarks.elpv $(ARGS)

recipe: setup ## bring thaw.yaml up to date with the code
	@.venv/bin/python -m thaw.project.recipe

check: setup ## format, lint and types, as in CI
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy

format: setup ## format the code and mend what lint can mend
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

setup: ## make .venv, or bring it up to the pins
	@scripts/setup

wheel: setup ## build the wheel into dist/
	@.venv/bin/python -m hatchling build --target wheel

clean: ## remove what tools left behind; data, results, caches of DVC and .venv stay
	@rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find thaw tasks flows tests -name __pycache__ -type d -prune -exec rm -rf {} +
