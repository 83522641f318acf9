# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup demo test test-slow lint bench clean
setup: .venv/installed

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet -e '.[dev]'
	@touch $@

demo: setup
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
