# make quickstart   the main job, from nothing: creates .venv, trains, evaluates, compares
# make real         a pruned SmolLM2-135M healed by distillation, a small edition; fetches 93 MB
# make test         every check and test, from nothing
# make check        style, types, import rules, and a strict build of the documentation
# make test-newest  some of the tests with the newest versions that pyproject.toml allows
# make test-oldest  the same with the oldest
# make gpu          correctness on a card, then shares of its ceilings; GPU=minutes, by default 10 in all;
#                   DEVICE=cpu tries it on tiny models without a card
# make mutants      breaks the code in listed ways; each must make a test fail
# make docs         the documentation site in build/docs, each page opened in a browser without a network
# make schema       writes the JSON schema of experiment files anew
# make clean        removes what the targets above made, .venv included; never your runs
#
# PYTHON=python3.12 picks the interpreter, VENV=folder the virtual environment.
SHELL := /bin/bash
VENV ?= .venv
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3 python; do \
	"$$p" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null \
	&& command -v "$$p" && break; done)
BIN := $(VENV)/bin
PACKAGES := pyproject.toml constraints.txt
# Each process that a test starts would compile the whole project.
unexport PYTHONDONTWRITEBYTECODE
INSTALL = $(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt

# A broken link ends a strict build.
SITE = NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

# What rests on other libraries most. torch is the one of constraints.txt unless TORCH names another.
VERSIONED := tests/unit/test_cli.py tests/unit/test_loader.py tests/unit/test_plugins.py tests/unit/test_answer_equality.py \
	tests/unit/test_serving.py tests/unit/test_sampling.py tests/unit/test_bench.py tests/unit/test_models.py tests/unit/test_store.py \
	tests/unit/test_doctor.py tests/unit/test_adapters.py
TORCH ?= $(shell grep ^torch== constraints.txt)
# uv resolves free versions in seconds, where pip tries them for many minutes. Unlike pip it compiles only
# when told to, and where Python may not write bytecode each start would compile all anew.
FREELY = $(1)/bin/uv pip install --python $(1)/bin/python --quiet --compile-bytecode --constraint $(1)/versions.txt --editable '.[dev]'
PIP = -m pip install --disable-pip-version-check --quiet

.PHONY: quickstart real test simulated test-newest test-oldest check gpu mutants chaos schema docs clean

quickstart: $(VENV)/.installed
	$(BIN)/opdlab train quickstart

# The teacher is made once; stopped, both parts go on where they were.
SMALL := runs/words-small-teacher
real: $(VENV)/.installed
	$(BIN)/python -c 'import gguf' 2>/dev/null || $(INSTALL) --editable '.[gguf]'
	$(BIN)/opdlab fetch SmolLM2-135M-Instruct.Q4_1.gguf
	test -d $(SMALL)/model || $(BIN)/opdlab pretrain real/small-teacher $$(test ! -f $(SMALL)/pretraining.yaml || echo --resume)
	$(BIN)/opdlab train real/small

# Tests wait for servers and signals a third of their time, so two cores take three processes. Types are
# checked on one core, beside the tests on a simulated device; all tests run whatever failed before.
test: $(VENV)/.installed-dev
	$(MAKE) --no-print-directory --jobs 2 --keep-going check $(if $(PYTEST),,simulated); early=$$?; \
	$(BIN)/python -m pytest --numprocesses 3 --dist worksteal $(PYTEST) && exit $$early

# They take processes of their own: torch would give the simulated device to all others. Tests of a file share
# models that were tried and a store.
simulated: $(VENV)/.installed-dev
	$(BIN)/python -m pytest tests/gpu --numprocesses 2 --dist loadfile

test-newest:
	$(PYTHON) -m venv --clear $(VENV)-newest
	$(VENV)-newest/bin/python $(PIP) uv
	echo "$(TORCH)" > $(VENV)-newest/versions.txt
	$(call FREELY,$(VENV)-newest)
	$(VENV)-newest/bin/python -m pytest --numprocesses 2 --dist worksteal $(VERSIONED)

test-oldest:
	$(PYTHON) -m venv --clear $(VENV)-oldest
	$(VENV)-oldest/bin/python $(PIP) uv packaging
	$(VENV)-oldest/bin/python tests/lowest_versions.py "$(TORCH)" > $(VENV)-oldest/versions.txt
	$(call FREELY,$(VENV)-oldest)
	$(VENV)-oldest/bin/python -m pytest --numprocesses 2 --dist worksteal $(VERSIONED)

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports
	CHECK=1 $(SITE) --site-dir build/checked-docs

# Tests, the most telling first, have four tenths of the time; the benchmark has what they leave. No test is begun
# later than that. One that hangs is interrupted, though a command under test may take that for its own, and killed.
gpu: $(VENV)/.installed-dev
	all=$$(awk 'BEGIN {print 60 * $(or $(GPU),10)}'); status=0; SECONDS=0; \
	timeout --signal=INT --kill-after=20 $$(awk "BEGIN {print 0.45 * $$all}") \
	$(BIN)/python -m pytest tests/gpu --verbose --timeout 90 --session-timeout $$(awk "BEGIN {print 0.4 * $$all}") \
	|| status=$$?; \
	$(BIN)/opdlab bench gpu --minutes $$(awk "BEGIN {print ($$all - $$SECONDS) / 60}") \
	$(if $(DEVICE),--device $(DEVICE) --to gpu-$(DEVICE).json) && exit $$status

mutants: $(VENV)/.installed-dev
	$(BIN)/python tests/mutants $(MUTANTS)

# All commands in bad weather, as tests/end_to_end/test_chaos.py for longer: CHAOS="--seed 1 --minutes 30"
chaos: $(VENV)/.installed-dev
	cd tests && $(abspath $(BIN))/python chaos.py $(CHAOS)

schema: $(VENV)/.installed
	$(BIN)/opdlab schema > experiments/experiment.schema.json.new
	mv experiments/experiment.schema.json.new experiments/experiment.schema.json

docs: $(VENV)/.installed-dev
	$(SITE)
	$(BIN)/python tests/site_in_browser.py

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "opdlab needs Python 3.11, 3.12 or 3.13; none was found. \
	Install one, or name it: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(VENV)/.installed: $(PACKAGES) | $(BIN)/python
	@echo "Installing into $(VENV); the first time this downloads about 2 GB."
	$(INSTALL) --editable .
	@touch $@

$(VENV)/.installed-dev: $(PACKAGES) | $(BIN)/python
	@echo "Installing into $(VENV), with the tools of development."
	$(INSTALL) --editable '.[dev,docs]'
	@touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) $(VENV)-newest $(VENV)-oldest dist build .pytest_cache .ruff_cache .hypothesis .import_linter_cache .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
