# All that a fresh Debian machine needs, as root: `make demo` shows the main job, `make test` proves it.

# The system's interpreter, as the installed service has it; one from elsewhere may be built without optimization.
PYTHON ?= $(firstword $(wildcard /usr/bin/python3) python3)
VENV   := .venv
BIN    := $(VENV)/bin
SEEDS  ?= 20000
COUNT  ?= 1000000

export DEBIAN_FRONTEND := noninteractive

# What the command needs at run time, what the lab's traffic and checks need, and what the tests run besides.
RUNTIME := python3-venv iproute2 libbpf1 iptables nftables procps
LAB     := etcd-server etcd-client iputils-ping iperf3 sockperf ethtool tcpdump
TESTS   := man-db docker.io busybox-static dbus systemd clang llvm libbpf-dev
.DEFAULT_GOAL := help

help:  ## show this
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

# -- set-up ----------------------------------------------------------------------------------------------------------

.PHONY: help packages test-packages demo test check lint types unit soak fuzz fuzz-keys bench bpf install uninstall clean

packages: WANTED := $(RUNTIME) $(LAB)
test-packages: WANTED := $(RUNTIME) $(LAB) $(TESTS)
packages test-packages:
	@missing=$$(for p in $(WANTED); do dpkg-query -W -f='$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || echo $$p; done); \
	if [ -n "$$missing" ]; then \
	    echo "installing:" $$missing; \
	    { apt-get update -qq && apt-get install -y -qq --no-install-recommends $$missing; } >build.log 2>&1 \
	        || { tail -20 build.log; exit 1; }; rm -f build.log; \
	fi

$(VENV)/.done: pyproject.toml
	@echo "making the virtual environment …"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=…"; exit 1; }
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install -q --disable-pip-version-check -e '.[dev]'
	@touch $@

# -- what people run -------------------------------------------------------------------------------------------------

demo: packages $(VENV)/.done  ## a cluster in namespaces: leases, pings, a transfer, a packet decoded
	@$(BIN)/overlay lab demo

test: test-packages $(VENV)/.done check  ## everything: lint, types, unit, contract, simulation, namespaces, Docker, systemd
	@$(BIN)/pytest -q

check: lint types  ## lint and types only

lint: $(VENV)/.done
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(VENV)/.done
	@$(BIN)/mypy

unit: $(VENV)/.done  ## tests that need neither root nor network
	@$(BIN)/pytest -q tests/unit tests/contract tests/simulation

soak: $(VENV)/.done  ## the simulation of the control plane with many seeds: make soak SEEDS=20000
	@$(BIN)/python -m tests.simulation --seeds $(SEEDS)

fuzz: $(VENV)/.done  ## hostile datagrams against the oracle: make fuzz COUNT=10000000
	@$(BIN)/python -m tests.fuzz.datagrams --count $(COUNT)

fuzz-keys: $(VENV)/.done  ## hostile keys and values in etcd, as many: make fuzz-keys COUNT=1000000
	@$(BIN)/python -m tests.fuzz.keys --count $(COUNT)

bench: packages $(VENV)/.done  ## ratios against plain veth and kernel vxlan, in one run
	@$(BIN)/overlay lab bench

bpf: $(VENV)/.done  ## compile the kernel programs again (needs clang); the object is committed
	@$(BIN)/python -m overlay.datapath.kernel.build

# -- on a node -------------------------------------------------------------------------------------------------------

# DESTDIR, PREFIX, PYTHON and WHEELS mean what systemd/install.sh says.
install:  ## agent, units, man page and completion on this machine, in /opt/overlay
	systemd/install.sh install

uninstall:  ## all of that away again
	systemd/install.sh uninstall

# --------------------------------------------------------------------------------------------------------------------

clean:  ## remove what these targets made in this directory
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist *.egg-info
