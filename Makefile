# make demo: the main job.  make test: the tests.  Each makes .venv and installs what it needs, once.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-browser test-slow test-gpu lint docs dist reproduce gpu wheels clean

demo: .venv/installed
	$(BIN)/feathervit demo

# Two workers, one thread each: a file's tests stay together.
test: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile

# The page, the server and the report in Chromium (Debian: chromium, chromium-driver, npm).
test-browser: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m browser

test-slow: .venv/installed
	$(BIN)/python -m pytest -q -m slow

test-gpu: .venv/installed
	$(BIN)/python -m pytest -q -m gpu

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python scripts/words.py

docs: .venv/installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# The files for a package index, checked: dist/*.whl and dist/*.tar.gz.
dist: .venv/installed
	rm -rf dist
	$(BIN)/python -m build --no-isolation
	$(BIN)/python -m twine check --strict dist/*

# make reproduce ROW=mlit-xxs-cifar100: a row of the papers' tables (none: all of them, in order); the same command continues.
ROW ?=
MINUTES ?= 9
reproduce: .venv/installed
	$(BIN)/feathervit study papers --out runs/papers --max-minutes $(MINUTES) $(if $(ROW),--arms $(ROW)) $(FLAGS)

# make gpu MINUTES=9 DATA=SETS OUT=runs/gpu: tests, speeds and rows on a GPU; the same again continues. It needs no network:
# without .venv it takes PYTHON's packages, and from wheels/ those that PYTHON lacks.
OUT ?= runs/gpu
gpu:
	$(if $(wildcard .venv/installed),$(BIN)/python,$(PYTHON)) scripts/gpu.py --minutes $(MINUTES) --out $(OUT) \
	  $(if $(DATA),--data $(DATA))

wheels:
	$(PYTHON) -m pip download --quiet --no-deps --dest wheels tyro docstring-parser typeguard

.venv/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "feathervit needs Python 3.11 or newer; name one with: make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[dev,hub]'
	@touch $@

clean:
	rm -rf .venv build dist site *.egg-info
