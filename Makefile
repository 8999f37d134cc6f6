# Everything runs from one virtual environment, .venv (11 GB, most of it SGLang's CUDA wheels).
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check
STAMP  := $(VENV)/installed

FAMILY ?=
MODEL  ?= .demo/$(or $(FAMILY),model)
ARGS   ?=
TRACE  ?=
LIMIT  ?= 60
TRACES ?=
BUNDLE ?=
# No installation: a machine with a GPU often has no network, and a Python of its own with torch.
GPU_PYTHON ?= $(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON))

.PHONY: install demo test lint serve compare paper gpu constraints clean

install: $(STAMP)

# mamba-ssm is the oracle of the CPU operations' tests: its reference functions need no CUDA.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --constraint constraints.txt setuptools wheel
	$(PIP) --constraint constraints.txt --editable '.[lab,test]'
	MAMBA_SKIP_CUDA_BUILD=TRUE MAMBA_FORCE_BUILD=TRUE \
	    $(PIP) --no-build-isolation --no-deps mamba-ssm==2.3.2.post1
	touch $@

demo: install
	$(BIN)/python scripts/demo.py $(if $(FAMILY),--family $(FAMILY)) $(if $(TRACE),--trace $(TRACE) --limit $(LIMIT))

# Two at a time, as a server's start keeps one core busy; what a file's tests share is started once.
test: install lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

compare: install
	$(BIN)/python scripts/evaluation/compare_policies.py $(TRACES) --out docs/results/policies.md

# The evaluation of the Marconi paper; ARGS=--quick takes under a minute.
paper: install
	PYTHONPATH=scripts $(BIN)/python -m evaluation.paper $(ARGS)

serve: install
	test "$(MODEL)" != .demo/model || $(BIN)/python scripts/tiny_model.py $(MODEL)
	needed="$$($(if $(FAMILY),PYTHONPATH=scripts $(BIN)/python -m families $(FAMILY) $(MODEL)))" && \
	$(BIN)/python scripts/local_server.py $(MODEL) $$needed \
	    --radix-cache-backend marconi --enable-cache-report $(ARGS)

gpu:
	PYTHONPATH=scripts $(GPU_PYTHON) -m gpu $(if $(BUNDLE),--bundle $(BUNDLE)) $(ARGS)

# Pins what is installed now; run it in a fresh environment after changing a dependency.
constraints: install
	$(BIN)/python -m pip freeze --all --exclude-editable | grep -v '^mamba' > constraints.txt

clean:
	rm -rf $(VENV) .demo build python/*.egg-info
