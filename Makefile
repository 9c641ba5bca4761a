# Everything here needs only Python (3.11 or newer), pip and make; `make demo` and `make test` set up their own .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
ANCHORS ?= ../shared/anchors

.PHONY: demo test test-cluster coverage lint bench clean

demo: $(READY)  ## a sweep on real data, from probe to verdict
	$(BIN)/python -m sweeps.digits

# Files without a test that is asked for are left out by name: importing all of them takes each process ten seconds.
test: $(READY)  ## the whole test suite: on all processors what needs no Ray, then what does; then what needs a quiet machine
	$(BIN)/python -m pytest -m "not ray and not quiet and not cluster" --numprocesses logical --maxprocesses 8 --dist worksteal
	$(BIN)/python -m pytest -m "ray and not quiet and not cluster" --numprocesses logical --maxprocesses 4 --dist worksteal $$(grep -rl --include="*.py" "mark\.ray" tests)
	$(BIN)/python -m pytest -m quiet $$(grep -rl --include="*.py" "mark\.quiet" tests)

test-cluster: $(READY)  ## clusters over SSH between network namespaces, and sweeps on simulated nodes; needs root, sshd, rsync and iproute2
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,cluster]'
	$(BIN)/python -m pytest -m cluster -rs

coverage: $(READY)  ## the test suite again, and which lines it ran, those in Ray's workers too
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest
	$(BIN)/coverage combine --quiet
	$(BIN)/python .ci/check_coverage.py --missing

lint: $(READY)  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY)  ## side-by-side measurements; benchmarks/README.md keeps the latest
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,bench]'
	$(BIN)/python -m benchmarks.demo
	$(BIN)/python -m benchmarks.search --anchors $(ANCHORS)
	$(BIN)/python -m benchmarks.loop
	$(BIN)/python -m benchmarks.load
	$(BIN)/python -m benchmarks.overhead
	$(BIN)/python -m benchmarks.orchestration
	$(BIN)/python -m benchmarks.tracking
	$(BIN)/python -m benchmarks.simulation
	$(BIN)/python -m benchmarks.cluster_start
	if $(BIN)/python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; \
	  then $(BIN)/python -m benchmarks.gpu; else echo "benchmarks.gpu is left out: PyTorch sees no GPU here"; fi

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $(READY)

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .coverage* build *.egg-info
