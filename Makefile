# Everything sets itself up on a fresh machine: a virtual environment in .venv with the dependencies, and as root the
# Debian packages. PYTHON chooses the interpreter, for example: make test PYTHON=python3.9
PYTHON ?= python3
BIN = .venv/bin
PACKAGES = lxc lxc-templates busybox-static dnsmasq-base
VM_PACKAGES = qemu-system-x86 mmdebstrap debian-archive-keyring e2fsprogs
.DEFAULT_GOAL = help

help:
	@echo "make demo    the whole loop, step by step: a container runs short, Jenkins makes another one"
	@echo "make test    the tests that need neither root nor LXC"
	@echo "make live    the tests on real containers (root, LXC; Sensu Go and Core where they are on PATH)"
	@echo "make test-vm the live tests in a QEMU guest with pure cgroup v2 (minutes without KVM; VM=--all for all of them)"
	@echo "make lint    style and types"
	@echo "make bench   what a check costs, side by side with what one could do instead"

.venv/ready: setup.cfg pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "no $(PYTHON) here: install Python 3.9 or later"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && \
	    apt-get update -qq && apt-get install -y -qq python3-venv >/dev/null; } || \
	    { echo "$(PYTHON) can make no virtual environment: install python3-venv"; exit 1; }
	@echo "setting up .venv: half a minute, once"
	@$(PYTHON) -m venv .venv
	@$(BIN)/pip install --quiet --disable-pip-version-check '.[test,lint]'
# The dependencies stay; the scripts are run from the checkout. (An editable installation would load its finder, and by
# it pathlib and typing, into every interpreter, which no figure of make bench should contain.)
	@$(BIN)/pip uninstall --quiet --yes sensu-lxc && rm -rf build
	@touch $@

# Only what is missing, and only where it can be had; without them the demo and the live tests say what they lack.
packages:
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && ! dpkg -s $(PACKAGES) >/dev/null 2>&1; then \
	    echo "installing $(PACKAGES)"; \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $(PACKAGES) >/dev/null; fi

demo: .venv/ready packages
	@$(BIN)/python -m tests.demo

test: .venv/ready packages
	$(BIN)/python -m pytest -q -m "not live" -n auto --dist loadfile

live: .venv/ready packages
	$(BIN)/python -m pytest -q -m live tests/live

test-vm: .venv/ready
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && ! dpkg -s $(VM_PACKAGES) >/dev/null 2>&1; then \
	    echo "installing $(VM_PACKAGES)"; apt-get update -qq && \
	    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(VM_PACKAGES) >/dev/null; fi
	$(BIN)/python -m tests.vm $(VM)

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy plugins
	$(BIN)/mypy handlers
	$(BIN)/mypy benchmarks

bench: .venv/ready packages
	$(BIN)/python benchmarks/bench.py

clean:
	rm -rf .venv .vm build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

.PHONY: help packages demo test live test-vm lint bench clean
