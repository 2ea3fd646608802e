# make demo   set up and run the main job (FedMeNF beside MAML on pictures of 64 pixels, through `flwr run` on Ray); prints the report's path
# make test   set up and run the whole test suite, in two processes (PROCESSES=1: in one)
# make docs   build the documentation as a site, build/site
# make config  write the configuration block of pyproject.toml from the settings' own defaults
# make check  set up and run formatter, linter and type checker
# make mutants  a seeded sample of mutants of privacy/ and strategies/ against their tests; not in CI.
#               PATHS="privacy/secagg strategies/local" SAMPLE=40 SEED=1 WORKERS=2 change what is tried
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PATHS ?=
SAMPLE ?= 100
SEED ?= 0
WORKERS ?= 1
PROCESSES ?= 2

.PHONY: config demo docs test check mutants setup clean

setup: $(VENV)/.done

# torch comes first and alone: a looser request could pull gigabytes of CUDA packages onto a CPU machine
$(VENV)/.done: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev,report,talking-head,video]"
	touch $@

demo: setup
	$(BIN)/fedapp run demo

docs: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[docs]"
	$(BIN)/mkdocs build --strict

test: setup
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -n $(PROCESSES) --dist loadfile

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

$(VENV)/.mutants: $(VENV)/.done
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[mutants]"
	touch $@

mutants: $(VENV)/.mutants
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(BIN)/python tests/mutants.py $(PATHS) \
		--sample $(SAMPLE) --seed $(SEED) --workers $(WORKERS)

config: setup
	$(BIN)/python -m fedapp.config.generate

clean:
	rm -rf $(VENV) mutants .pytest_cache .mypy_cache .ruff_cache .hypothesis
