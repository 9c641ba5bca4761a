# Everything here needs only Python (3.11 or newer), pip and make; `make demo` and `make test` set up their own .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test lint bench clean

demo: $(READY)  ## a sweep on real data, from probe to verdict
	$(BIN)/python -m sweeps.digits

test: $(READY)  ## the whole test suite
	$(BIN)/python -m pytest

lint: $(READY)  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY)  ## side-by-side measurements; benchmarks/README.md keeps the latest
	$(BIN)/python -m benchmarks.demo

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $(READY)

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache build *.egg-info
