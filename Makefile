# Everything a developer types. Needs Python 3.11 or newer; the rest comes into .venv with pip.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
NATIVE := $(shell find native -type f -not -name '*.pyc' 2>/dev/null)
JOBS   ?= 2
KUBE   ?= 1.37
# Of a cluster that has broken, each further test waits for minutes to say the same.
E2E_FAULTS ?= 6

.DEFAULT_GOAL := help
.PHONY: help demo test e2e cluster test-gpu bench bench-kube lint proto fmt tools

help: ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

demo: $(VENV)/.installed ## tenants share a simulated GPU (or, with a driver, the real one): a live picture in the terminal
	$(BIN)/cgpu demo

test: $(VENV)/.built tools lint ## lint, then every test that needs no GPU
	$(BIN)/pytest -n $(JOBS) --dist worksteal -m "not timing and not gpu" --ignore=tests/e2e
	$(BIN)/pytest -n 0 -m "timing and not gpu" --ignore=tests/e2e
	$(BIN)/pytest -n 0 --on-simulated tests/gpu
	$(BIN)/python -m tests.e2e.kube.programs $(KUBE)
	$(BIN)/pytest -n 0 --maxfail=$(E2E_FAULTS) tests/e2e

e2e: $(VENV)/.built tools ## real engines and a whole Kubernetes cluster; KUBE=1.36 for that release
	$(BIN)/python -m tests.e2e.kube.programs $(KUBE)
	KUBE=$(KUBE) $(BIN)/pytest -n 0 --maxfail=$(E2E_FAULTS) tests/e2e

cluster: $(VENV)/.built tools ## a Kubernetes cluster of two nodes with cgpu on simulated GPUs, until Ctrl-C
	$(BIN)/python -m tests.e2e.kube.programs $(KUBE)
	$(BIN)/python -m tests.e2e.kube.cluster $(KUBE)

test-gpu: $(VENV)/.built ## the tests that need a real NVIDIA GPU; leaves gpu-report.json and gpu-report.md to send
	$(BIN)/pytest -n 0 -m gpu tests/gpu

bench: $(VENV)/.built ## measure overhead, shares, crashes and scale; results as JSON below bench/results
	$(BIN)/python -m bench

bench-kube: $(VENV)/.built tools ## measure what the webhook costs a cluster of 1,000 nodes, and what a claim costs a node
	$(BIN)/python -m tests.e2e.kube.programs $(KUBE)
	mkdir -p bench/results
	$(BIN)/python -m bench.prepare --json bench/results/prepare.json
	$(BIN)/python -m bench.kube --kube $(KUBE) --json bench/results/kube.json --table bench/results/kube.md

lint: $(VENV)/.built ## ruff, mypy, import-linter
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

proto: $(VENV)/.built ## make the messages of the kubelet's sockets from their .proto files
	cd src && ../$(BIN)/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. cgpu/adapters/kubelet/*.proto

fmt: $(VENV)/.built ## rewrite the Python sources in the one format
	$(BIN)/ruff check --fix-only --quiet
	$(BIN)/ruff format

# Editable installs. The C libraries are compiled into src/cgpu/_native by the compiler of the ziglang
# package; the first time takes some minutes.
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check --editable

$(BIN)/python:
	@echo "creating $(VENV)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml hatch_build.py $(NATIVE) | $(BIN)/python
	@echo "installing cgpu into $(VENV) (compiles its C libraries)"
	@$(PIP) .
	@touch $@

$(VENV)/.tools: pyproject.toml hatch_build.py | $(BIN)/python
	@echo "installing cgpu and its test tools into $(VENV) (about 1 GB with NVIDIA's compiler packages)"
	@$(PIP) '.[test]'
	@touch $@ $(VENV)/.installed

$(VENV)/.built: $(VENV)/.tools $(NATIVE)
	@echo "compiling the C libraries"
	@$(BIN)/python native/build.py >/dev/null
	@touch $@

# In CI, as root: a C compiler, valgrind, busybox, container engines, Go. Elsewhere nothing; tests that miss one are skipped.
tools: $(VENV)/.tools
	@tests/tools.sh $(BIN)/python
