# Each target does all its set-up: a virtual environment in .venv, the packages, then the work.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: quickstart test format classes pairs pipelines distil clean

quickstart: .venv/installed
	$(BIN)/surgery apply recipes/quickstart.py --out runs/quickstart --resume

test: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2

format: .venv/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

classes: .venv/installed-dev
	$(BIN)/python -m tests.classes

pairs: .venv/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.pairs

pipelines: .venv/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.pipelines

distil: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/distil.py --save

clean:
	rm -rf .venv runs build *.egg-info

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --editable .
	touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/pip install --quiet --disable-pip-version-check --editable ".[dev]"
	touch $@
