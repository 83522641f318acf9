# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: install setup demo test test-slow lint bench clean

# What the command needs, and on top of it what the tests, the linters and the benchmarks need.
install: .venv/installed-plain
setup: .venv/installed

.venv/installed-plain: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet -e .
	@touch $@

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet -e '.[dev]'
	@touch .venv/installed-plain $@

demo: install
	$(BIN)/resnets train digits

# Two files of tests at a time, one thread each.
test: setup
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile

test-slow: setup
	$(BIN)/pytest -m slow

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Comparisons that fit a laptop: about half an hour on two cores. The others say what they need.
bench: setup
	$(BIN)/python benchmarks/ceilings.py
	$(BIN)/python benchmarks/train_step.py
	$(BIN)/python benchmarks/input_pipeline.py
	$(BIN)/python benchmarks/kernels.py
	$(BIN)/python benchmarks/depth.py
	$(BIN)/python benchmarks/scaling.py

clean:
	rm -rf .venv runs build dist *.egg-info
