# Every target sets up what it needs: its own .venv, from pyproject.toml with the pinned set in constraints.txt.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Small models run fastest on one thread each; two threads on a busy machine cost several times the CPU.
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM ?= false
export HF_HUB_DISABLE_TELEMETRY ?= 1
# Tests are compiled once, whatever the shell says.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: quickstart test test-verl test-verl-slow test-slow test-oldest-transformers lint bench docs docs-check wheel clean
.DEFAULT_GOAL := quickstart

$(BIN)/pip:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.train: $(BIN)/pip pyproject.toml constraints.txt
	$(BIN)/pip install --quiet -c constraints.txt -e '.[train,math]'
	touch $@

$(VENV)/.dev: $(BIN)/pip pyproject.toml constraints.txt
	$(BIN)/pip install --quiet -c constraints.txt -e '.[train,math,tasks,dev]'
	touch $@ $(VENV)/.train

# The oldest TRL that we declare, laid over the same environment.
OLDEST_TRL := 1.9.0
$(VENV)/trl-oldest: $(VENV)/.dev
	rm -rf $@
	$(BIN)/pip install --quiet --no-deps --target $@ trl==$(OLDEST_TRL)

# The oldest transformers that we declare, with that TRL, and what it wants in other versions.
OLDEST_TRANSFORMERS := transformers==4.57.1 tokenizers==0.22.1 huggingface_hub==0.36.2 datasets==4.7.0 httpx==0.28.1 \
	httpcore==1.0.9 h11==0.16.0 anyio==4.16.0 sniffio==1.3.1
$(VENV)/transformers-oldest: $(VENV)/.dev
	rm -rf $@
	$(BIN)/pip install --quiet --no-deps --target $@ trl==$(OLDEST_TRL) $(OLDEST_TRANSFORMERS)

# verl and the packages that it wants in other versions, laid over the same environment.
$(VENV)/verl: $(VENV)/.dev constraints-verl.txt
	rm -rf $@
	$(BIN)/pip install --quiet --no-deps --target $@ -r constraints-verl.txt

# What the patches of docs/verl.md for older forks are tested on, beside the packages of the verl above.
$(VENV)/verl-0.7: $(VENV)/verl
	rm -rf $@
	$(BIN)/pip install --quiet --no-deps --target $@ verl==0.7.1

quickstart: $(VENV)/.train
	$(BIN)/forkwise quickstart --out runs/quickstart --resume $(ARGS)

# Of the engines, the tests to which the version of TRL makes a difference.
OF_TRL = $(shell grep -lE '^ *(import trl|from trl|import test_trl|from test_trl|from forkwise\.engines\.(trl|which)|from forkwise\.training)' tests/engines/test_*.py)

test: $(VENV)/.dev $(VENV)/trl-oldest
	$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)
	PYTHONPATH=$(CURDIR)/$(VENV)/trl-oldest FORKWISE_EXPECTED_TRL=$(OLDEST_TRL) $(BIN)/python -m pytest -n 2 --dist loadfile $(OF_TRL) tests/training/test_grpo.py tests/training/test_ppo.py $(ARGS)

ifeq ($(shell $(PYTHON) -c 'import sys; print((3, 11) <= sys.version_info < (3, 13))'),True)
test: test-verl
endif

test-verl: $(VENV)/verl
	PYTHONPATH=$(CURDIR)/$(VENV)/verl FORKWISE_EXPECTED_VERL=$(shell sed -n 's/^verl==//p' constraints-verl.txt) $(BIN)/python -m pytest -n 2 --dist loadfile $(wildcard tests/engines/test_verl_*.py) tests/core/test_gae.py tests/methods/test_against_packages.py::TestVerl $(ARGS)

test-oldest-transformers: $(VENV)/transformers-oldest
	PYTHONPATH=$(CURDIR)/$< FORKWISE_EXPECTED_TRL=$(OLDEST_TRL) $(BIN)/python -m pytest tests/training/test_resume.py tests/training/test_models.py tests/test_loading.py $(ARGS)

$(VENV)/.ray: $(VENV)/.dev
	$(BIN)/pip install --quiet -c constraints.txt -e '.[ray]'
	touch $@

test-slow: $(VENV)/.dev $(VENV)/.ray test-oldest-transformers
	$(BIN)/python -m pytest -m slow $(ARGS)

ifeq ($(shell $(PYTHON) -c 'import sys; print((3, 11) <= sys.version_info < (3, 13))'),True)
test-slow: test-verl-slow
endif

test-verl-slow: $(VENV)/verl $(VENV)/verl-0.7
	PYTHONPATH=$(CURDIR)/$(VENV)/verl $(BIN)/python -m pytest -n 0 -m slow $(wildcard tests/engines/test_verl_*.py) $(ARGS)
	PYTHONPATH=$(CURDIR)/$(VENV)/verl FORKWISE_VERL_07=$(CURDIR)/$(VENV)/verl-0.7 $(BIN)/python -m pytest -n 0 tests/engines/test_verl_fork.py $(ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check src tests benchmarks examples docs/*.py
	$(BIN)/ruff format --check src tests benchmarks examples docs/*.py
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.dev
	$(BIN)/python benchmarks/entropy.py --small $(ARGS)

$(VENV)/.docs: $(BIN)/pip pyproject.toml constraints.txt
	$(BIN)/pip install --quiet -c constraints.txt -e '.[docs]'
	touch $@

docs: $(VENV)/.docs
	$(BIN)/mkdocs build --strict

# Runs the commands whose output the docs show; DATA=FOLDER holds the public files that some of them need.
docs-check: $(VENV)/.dev
	$(BIN)/python benchmarks/docs_outputs.py $(if $(DATA),--data $(DATA)) $(ARGS)

wheel: $(VENV)/.dev
	rm -rf dist
	$(BIN)/python -m build --no-isolation --outdir dist .

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
