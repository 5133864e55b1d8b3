# Two commands do all set-up: `make demo` and `make test`. `make` alone lists the rest.
SHELL := /bin/bash
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
# Where torch comes from. Empty: pip's own index. People who can reach it may want the CPU build:
#   make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=
BIN := $(VENV)/bin
READY := $(VENV)/.ready
LOCUST := .venvs/load/bin/locust
TEST_ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup demo serve test test-deploy test-soak load lint lint-deploy pins bench train-tiny train workflow workflow-compile clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(READY) ## virtual environment, torch, TorchServe, Java and ffmpeg (done once, by every target that needs it)

$(READY): setup.py constraints.txt
	@echo "Setting up $(VENV): about 5 GB with the default torch build, once."
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; set PYTHON=") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip "setuptools>=77.0.3"
	$(BIN)/python -m pip install --quiet -c constraints.txt torch torchvision $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[all]'
	@touch $(READY)

demo: $(READY) ## the main job end to end: a silent clip through TorchServe and the gateway; prints where the result lies
	$(BIN)/s2s demo --out var/demo

serve: $(READY) ## the whole stack on http://127.0.0.1:9000 until Ctrl-C
	$(BIN)/s2s serve

test: $(READY) ## every test but those of test-deploy and test-soak (under 25 minutes on 2 cores)
	$(BIN)/python tests/setup_system.py
	$(BIN)/ruff check src tests setup.py
	@# Two runs: the browser driver keeps an event loop of its own, which tests of the gateway cannot share.
	$(BIN)/python -m pytest -m "not soak" -n 2 --dist loadfile tests/unit tests/golden $(TEST_ARGS)
	$(BIN)/python -m pytest -m "not soak" tests/e2e tests/component tests/browser $(TEST_ARGS)

test-deploy: $(READY) ## images, Compose, playbooks and Kubernetes on real engines (Linux, root; S2S_DEPLOY_BUDGET_MINUTES=45)
	started=$$(date +%s) && $(BIN)/python tests/setup_system.py deploy \
		&& S2S_DEPLOY_STARTED=$$started $(BIN)/python -m pytest -n 2 tests/deployment $(TEST_ARGS)

test-soak: $(READY) ## long chaos and fuzz runs, by hand
	$(BIN)/python tests/setup_system.py
	$(BIN)/python -m pytest -m soak $(TEST_ARGS)

load: $(READY) $(LOCUST) ## what the gateway costs by itself: status reads and 5 MB uploads, on one core
	$(BIN)/python -m tests.load --locust $(LOCUST)

$(LOCUST):
	$(PYTHON) -m venv .venvs/load
	.venvs/load/bin/python -m pip install --quiet -c constraints.txt locust

lint: $(READY) ## ruff
	$(BIN)/ruff check src tests setup.py

lint-deploy: ## every linter of playbooks, manifests, Dockerfiles, shell and workflows (no virtual environment needed)
	$(PYTHON) -m tests.deployment.lint

pins: $(READY) ## write the digest of every image and the commit of every action of other people (needs the network)
	$(BIN)/python deployment/pins.py

bench: $(READY) ## seconds by stage, memory, and the WaveNet engine beside plain PyTorch
	$(BIN)/python -m s2s.bench

train: $(READY) ## make the shipped bundle from nothing (hours on 2 cores; resumes where it stopped)
	$(BIN)/s2s train --recipe small --run-dir runs/small

train-tiny: $(READY) ## the same chain in a minute or two
	$(BIN)/s2s train --recipe tiny --run-dir runs/tiny

workflow: $(READY) ## videos to a served model on this machine: collect, preprocess, features, train, deploy, predict
	PYTHON=$(abspath $(BIN)/python) src/workflow/run_local.sh runs/workflow

workflow-compile: $(READY) ## src/workflow/pipeline.yaml, the same stages for Kubeflow
	cd src && $(abspath $(BIN)/python) -m workflow.cli --all

clean: ## remove var and runs: jobs, results, keys and the secret of the gateway; training runs with their bundles
	rm -rf var runs model_store/*.mar
