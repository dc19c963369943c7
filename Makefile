# Two commands do everything on a fresh machine: `make train` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
RANKS ?= 2
RUN ?= runs/llm2er_eqr
ARGS ?=
export OMP_NUM_THREADS ?= 1

.PHONY: help install locked train test lint audit clean

help: ## Show this help
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

install: $(VENV)/installed ## Create .venv with the pinned dependencies

$(VENV)/installed: setup.cfg constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

locked: ## Like install, but of files whose SHA-256 stands in requirements.lock (torch with CUDA, from PyPI)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $(VENV)/installed

train: install ## Run LLM2ER-EQR on the embedded corpus: RANKS=2 RUN=runs/mine ARGS="key=value ..."
	$(BIN)/torchrun --standalone --nproc-per-node=$(RANKS) launch/train.py \
		configs/llm2er_eqr.yaml configs/hardware/cpu.yaml run_dir=$(RUN) $(ARGS)

test: install ## Run the tests: CPU, offline, two ranks of real DeepSpeed among them
	$(BIN)/python -m pytest $(ARGS)

lint: install ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

audit: install ## Look up everything in requirements.lock in PyPI's list of known vulnerabilities
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt pip-audit
	$(BIN)/pip-audit --strict --disable-pip --require-hashes -r requirements.lock

clean: ## Remove the environment and caches; runs/ and data/ stay
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache *.egg-info
