# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: install setup demo test test-ci test-slow lint reference docs wheel lock audit bench gpu clean

# What the command needs, and on top of it what tests, linters, benchmarks and docs need.
install: .venv/installed-plain
setup: .venv/installed

.venv/installed-plain: pyproject.toml requirements.lock
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet -c requirements.lock -e .
	@touch $@

.venv/installed: pyproject.toml requirements.lock
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet -c requirements.lock -e '.[dev,docs]'
	@touch .venv/installed-plain $@

demo: install
	$(BIN)/resnets train digits

# Two files of tests at a time, one thread each.
test: setup
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile

# Tests that would make `make test` too long. CI runs both.
test-ci: setup
	OMP_NUM_THREADS=1 $(BIN)/pytest -m 'ci and not slow' -n 2 --dist loadfile

test-slow: setup
	$(BIN)/pytest -m slow --timeout 1200

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The pages that are made from the code; the tests compare them with what is committed.
reference: setup
	$(BIN)/python docs/generate_reference.py
	$(BIN)/python docs/catalog_costs.py

# The documentation site, in site/. Broken links and anchors are errors.
docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# dist/resnets-VERSION-py3-none-any.whl
wheel: setup
	rm -rf build
	$(BIN)/pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .

# Both need a network. The lock holds for all Python versions and systems that pyproject.toml names.
lock: setup
	$(BIN)/pip install --quiet uv
	$(BIN)/uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --upgrade \
		--no-annotate --no-header --quiet --output-file requirements.lock
	sed -i.bak '1i # The exact versions that development, tests and CI use: `make lock` writes this file, `make audit` checks it.' requirements.lock
	rm requirements.lock.bak

audit: setup
	$(BIN)/pip install --quiet pip-audit
	$(BIN)/pip freeze --exclude-editable > .venv/frozen.txt
	$(BIN)/pip-audit --requirement .venv/frozen.txt --no-deps --disable-pip

# Benchmarks that run on a laptop: about half an hour on two cores. The other scripts say what they need.
bench: setup
	$(BIN)/python benchmarks/ceilings.py
	$(BIN)/python benchmarks/train_step.py
	$(BIN)/python benchmarks/input_pipeline.py
	$(BIN)/python benchmarks/kernels.py
	$(BIN)/python benchmarks/depth.py
	$(BIN)/python benchmarks/scaling.py

# Everything that one GPU can tell, in order of value: docs/gpu.md. Needs no network, and no .venv.
gpu:
	$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) benchmarks/gpu.py $(ARGS)

clean:
	rm -rf .venv runs build dist site *.egg-info
