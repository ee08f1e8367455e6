# Each target does all its set-up: a virtual environment in .venv, the packages, then the work.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: quickstart test format nightly classes pairs pipelines distil selection study versions clean

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

nightly: classes pairs
	HYPOTHESIS_PROFILE=nightly OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 tests/rewriting/test_laws.py tests/rules/test_formulas.py \
		tests/tracing/test_threads.py tests/artifact/test_fuzz.py tests/store tests/run/test_killed.py tests/run/test_twins.py tests/parallel \
		tests/test_recipes_run.py
	HYPOTHESIS_PROFILE=nightly OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 -m "nightly or thorough"

classes: .venv/installed-dev
	$(BIN)/python -m tests.classes

pairs: .venv/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.pairs

pipelines: .venv/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.pipelines

distil: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/distil.py --save

study: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python recipes/study/study.py --jobs cpu=2 --seeds 3 --save recipes/study/results/digits.json
	$(BIN)/python recipes/study/page.py

selection: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/selection.py --save

versions: .venv/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.versions

clean:
	rm -rf .venv runs build *.egg-info

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) --editable .
	touch $@

.venv/installed-dev: .venv/installed
	$(PIP) --editable ".[dev]"
	touch $@
