# One word for each daily command. PYTHON names an environment with `pip install -e ".[dev]"`.
PYTHON ?= python

.PHONY: help install test browser lint format typecheck docs demo ci

help:  ## Say what each word does
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

install:  ## Install perfsim for development, with the tools
	$(PYTHON) -m pip install -e ".[dev]"

test:  ## Run the tests and the examples in docstrings
	$(PYTHON) -m pytest

browser:  ## Test the page in a headless Chromium, which must be there
	PERFSIM_BROWSER=required $(PYTHON) -m pytest -n 0 tests/browser

lint:  ## Check style and format
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

format:  ## Put the format right
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

typecheck:  ## Check the types
	$(PYTHON) -m mypy

docs:  ## Build the site into build/docs, which needs `pip install -e ".[docs]"`
	rm -rf build/docs
	$(PYTHON) -m sphinx -j auto -W --keep-going -c docs . build/docs

demo:  ## Run the demonstration into out/
	$(PYTHON) -c "from perfsim.cli import main; main()" demo --out out

ci:  ## What must pass before a change is merged
	.ci/run
