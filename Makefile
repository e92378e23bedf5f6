# SPDX-License-Identifier: Apache-2.0
# `make help` lists the targets. Everything runs from .venv, which `make setup` makes.

SHELL       := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
MAKEFLAGS   += --no-builtin-rules --no-print-directory
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.stamp

# Yosys from pip, whatever else is installed; the same hashes, so the same output, on every machine.
export AMARANTH_USE_YOSYS := builtin
export PYTHONHASHSEED := 0

SIM    ?= verilator
JOBS   ?= auto
CONFIG ?=
WAVES  ?= 0
# A value as one word of the shell, whatever is in it: CONFIG="my machines/a b.toml".
quote = '$(subst ','\'',$(1))'
CONFIG_OPTION = $(if $(CONFIG),--config $(call quote,$(CONFIG)))
SIM_OPTIONS   = $(if $(filter-out 0,$(WAVES)),--waves) $(if $(SEED),--seed $(call quote,$(SEED))) \
                $(if $(TESTCASE),--testcase $(call quote,$(TESTCASE))) \
                $(if $(SCHEDULE),--schedule $(call quote,$(SCHEDULE)))

##@ Start here

.PHONY: help
help: ## Show this list
	@awk 'BEGIN { FS = ":.*## " } \
	  /^##@ / { printf "\n%s\n", substr($$0, 5) } \
	  /^[a-zA-Z0-9_%-]+:.*## / { sub(/%/, "NAME", $$1); printf "  make %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: setup
setup: $(STAMP) ## Make .venv with everything in it (needs Python >= 3.11, make, g++ and perl)

$(STAMP): pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "error: '$(PYTHON)' not found: install Python >= 3.11 or name it: make setup PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: $(PYTHON) is $$($(PYTHON) -V 2>&1), 3.11 or newer is needed: make setup PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "error: $(PYTHON) has no venv module: apt-get install python3-venv" >&2; exit 1; }
	@for tool in g++ make perl; do command -v $$tool >/dev/null || { echo "error: '$$tool' not found (Verilator's models are compiled with it): apt-get install g++ make perl" >&2; exit 1; }; done
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) (about 600 MB, once)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@test -n "$$($(BIN)/python -m find_libpython)" || { echo "error: no libpython for $(PYTHON) (cocotb runs inside the simulator): apt-get install python3-dev" >&2; exit 1; }
	@touch $@

.PHONY: demo
demo: setup ## The main job: the demo model writes text on the simulated machine, every byte compared
	$(BIN)/a3d demo $(CONFIG_OPTION) $(ARGS)

##@ Check

.PHONY: check
check: setup ## Lint, formatting and static types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.PHONY: test
test: setup ## The fast test suite on all cores (JOBS=0: in one process), ARGS="-k name" goes to pytest
	$(BIN)/pytest -n $(JOBS) $(ARGS)

.PHONY: test-slow
test-slow: setup ## The slow tests
	$(BIN)/pytest -n $(JOBS) -m slow --timeout 7200 $(ARGS)

.PHONY: test-all
test-all: test test-slow ## Both

##@ Generate, simulate, measure (CONFIG=nano|tiny|small|medium|large or a TOML file; ARGS="..." goes to the command)

.PHONY: generate lint synth report
generate: setup ## Write the Verilog, file list, register map and manifest
	$(BIN)/a3d generate $(CONFIG_OPTION) $(ARGS)
lint: setup ## Generate, and lint the Verilog
	$(BIN)/a3d lint $(CONFIG_OPTION) $(ARGS)
synth: setup ## Generate, and synthesise the Verilog
	$(BIN)/a3d synth $(CONFIG_OPTION) $(ARGS)

.PHONY: sim
sim: setup ## Run a cocotb bench: TEST=name SIM=verilator|icarus WAVES=1 SEED=n TESTCASE=name, or TEST=schedule SCHEDULE=DIR; no TEST lists them
	$(BIN)/a3d sim $(if $(TEST),$(call quote,$(TEST))) $(CONFIG_OPTION) --sim $(call quote,$(SIM)) $(SIM_OPTIONS) $(ARGS)

bench-%: setup ## Run a measurement; `a3d bench --help` names them
	$(BIN)/a3d bench $* $(CONFIG_OPTION) $(ARGS)

report: setup ## Collect the measurements into the report
	$(BIN)/a3d report $(ARGS)

##@ On an FPGA board

BOARD ?= ulx3s_85f
.PHONY: board
board: setup ## Make a board's bitstream: BOARD=ulx3s_85f|ecpix5_85f (a quarter of an hour and more)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[fpga,boards]'
	$(BIN)/a3d board build --board $(call quote,$(BOARD)) $(CONFIG_OPTION) $(ARGS)

##@ Documents

.PHONY: docs
docs: setup ## Build the site of the documents and the API into build/site; a broken link or anchor fails
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build
	@echo "to read it: $(BIN)/python -m http.server -d build/site 8000, then http://localhost:8000"

##@ Tidy up

.PHONY: format
format: setup ## Format the Python sources
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: clean
clean: ## Remove everything generated, compiled simulators included; keeps .venv
	rm -rf build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

.PHONY: distclean
distclean: clean ## Remove .venv too
	rm -rf $(VENV)
