# Two commands: `make book` builds the site, `make test` proves everything.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
SCALE ?= book
CACHE = $(CURDIR)/_build
STAMP = $(VENV)/.installed-$(shell cksum pyproject.toml | cut -d' ' -f1)

.PHONY: help env book test lint types unit notebooks site wheel clean bench claims

help:  ## this list
	@grep -E '^[a-z]+:.*##' Makefile | sed 's/:.*## /\t/' | expand -t 14

env: $(STAMP)  ## the environment in .venv, from pyproject.toml
$(STAMP): pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 or newer is needed: install it, or set PYTHON=..."; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; $(PYTHON) is $$($(PYTHON) --version): set PYTHON=..."; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev,openvino]'
	@rm -f $(VENV)/.installed-*; touch $@

book: env  ## data, features, chapters and the site; prints the landing page
	$(BIN)/python -m book.build --scale $(SCALE)

test: lint types unit notebooks site wheel  ## everything that CI runs

lint: env  ## ruff, the order of the packages, notebooks without outputs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo
	$(BIN)/nbstripout --verify notebooks/*.ipynb

types: env  ## mypy
	$(BIN)/mypy

unit: env  ## unit tests with line coverage
	OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup -m 'not notebooks and not site and not wheel' --cov --cov-fail-under=90

notebooks: env  ## every chapter with papermill at SCALE=smoke
	$(BIN)/python -m pytest -m notebooks

site: env notebooks  ## the strict site build, opened in a browser
	$(BIN)/python -m pytest -m site

wheel: env  ## the wheel, installed and used outside the tree
	$(BIN)/python -m pytest -m wheel

bench: env  ## the published records (hours; resumes)
	$(BIN)/cbir bench --suite survey

claims: env  ## every chapter at SCALE=full, its verdicts into book/results/claims.csv (resumes)
	$(BIN)/python -m book.claims --scale full

clean:  ## built files (not the cache of data and features)
	rm -rf _build build dist book/methods book/_generated book/_static/mathjax book/_static/tables.js
	rm -f book/claims.md book/errata.md book/status.md book/status.json book/references.bib
