# Two commands do everything on a fresh machine: `make train` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
RANKS ?= 2
RUN ?= runs/llm2er_eqr
ARGS ?=
export OMP_NUM_THREADS ?= 1

.PHONY: help install train test lint clean

help: ## Show this help
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

install: $(VENV)/installed ## Create .venv with the pinned dependencies

$(VENV)/installed: setup.cfg constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

train: install ## Run LLM2ER-EQR on the embedded corpus: RANKS=2 RUN=runs/mine ARGS="key=value ..."
	$(BIN)/torchrun --standalone --nproc-per-node=$(RANKS) launch/train.py \
		configs/llm2er_eqr.yaml configs/hardware/cpu.yaml run_dir=$(RUN) $(ARGS)

test: install ## Run the tests: CPU, offline, two ranks of real DeepSpeed among them
	$(BIN)/python -m pytest $(ARGS)

lint: install ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean: ## Remove the environment and caches; runs/ and data/ stay
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache *.egg-info
