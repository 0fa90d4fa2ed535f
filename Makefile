# All that a fresh Debian machine needs, as root: `make demo` shows the main job, `make test` proves it.

# The system's interpreter, as the installed service has it; one from elsewhere may be built without optimization.
PYTHON ?= $(firstword $(wildcard /usr/bin/python3) python3)
VENV   := .venv
LOWEST := .venv-lowest
CLIENTS := .venv-clients
BIN    := $(VENV)/bin
SEEDS  ?= 20000
ROOTS  ?= trixie forky
COUNT  ?= 1000000
MINUTES ?= 10

# A home that is not there is not made, neither by pip nor by what pip asks (rustc, where it is).
ifneq ($(HOME),)
ifeq ($(wildcard $(HOME)/.),)
export HOME := $(CURDIR)/$(VENV)
endif
endif

# What the command needs at run time, what the lab's traffic and checks need, and what the tests run besides: see
# requirements/packages.sh. Docker's client is a package of its own from Debian 13 on.
RUNTIME := python3-venv iproute2 libbpf1 iptables nftables procps
LAB     := etcd=etcd-server etcdctl=etcd-client iputils-ping iperf3 sockperf ethtool tcpdump kubectl=kubectl,kubernetes-client
TESTS   := man-db dockerd=docker.io docker=docker-cli,docker.io openssl curl busybox-static mksquashfs=squashfs-tools musl-gcc=musl-tools dnsmasq=dnsmasq-base dig=bind9-dnsutils dbus systemd clang llvm libbpf-dev
PLATFORMS := qemu-system-x86 debootstrap kmod cpio squashfs-tools
.DEFAULT_GOAL := help

help:  ## show this
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

# -- set-up ----------------------------------------------------------------------------------------------------------

.PHONY: definitions test-clients test-docker test-services help packages test-packages platform-packages test-platforms test-platforms-fault bench-vm lock demo test check lint types contracts unit lowest soak fuzz fuzz-keys bench bpf wheels release install uninstall clean herd mutants endurance

packages:
	@requirements/packages.sh $(RUNTIME) $(LAB)

test-packages:
	@requirements/packages.sh $(RUNTIME) $(LAB) $(TESTS)

platform-packages:
	@requirements/packages.sh $(RUNTIME) $(LAB) $(TESTS) $(PLATFORMS)

# What comes from the package index comes as requirements/*.txt locks it. Nothing is built in isolation: there, pip would
# fetch what builds it in whatever version there is.
PIP    := bin/pip --disable-pip-version-check -q install
LOCKED := $(PIP) --require-hashes --no-build-isolation --use-pep517

$(VENV)/.run: pyproject.toml requirements/build.txt requirements/run.txt
	@echo "making the virtual environment …"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=…"; exit 1; }
	@$(PYTHON) -m venv $(VENV)
	@$(VENV)/$(LOCKED) -r requirements/build.txt
	@$(VENV)/$(LOCKED) -r requirements/run.txt
	@$(VENV)/$(PIP) --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.run requirements/dev.txt
	@$(VENV)/$(LOCKED) -r requirements/dev.txt
	@touch $@

$(LOWEST)/.dev: pyproject.toml requirements/build.txt requirements/lowest.txt
	@echo "making the virtual environment of the lowest versions …"
	@$(PYTHON) -m venv $(LOWEST)
	@$(LOWEST)/$(LOCKED) -r requirements/build.txt
	@$(LOWEST)/$(LOCKED) -r requirements/lowest.txt
	@$(LOWEST)/$(PIP) --no-deps --no-build-isolation -e .
	@touch $@

lock:  ## lock what is installed from the package index: newest versions that pyproject.toml admits
	@PYTHON=$(PYTHON) requirements/lock.sh

# -- what people run -------------------------------------------------------------------------------------------------

demo: packages $(VENV)/.run  ## a cluster in namespaces: leases, pings, a transfer, a packet decoded
	@$(BIN)/overlay lab demo

test: test-packages $(VENV)/.dev $(LOWEST)/.dev check  ## everything: lint, types, unit, contract, simulation, namespaces, Docker, systemd
	@$(BIN)/python -m tests $(LOWEST)/bin/python

check: lint types contracts  ## lint, types, and which way imports go

lint: $(VENV)/.dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(VENV)/.dev
	@$(BIN)/mypy

contracts: $(VENV)/.dev
	@$(BIN)/lint-imports --no-logo

unit: $(VENV)/.dev  ## tests that need neither root nor network
	@$(BIN)/pytest -q tests/unit tests/contract tests/simulation

lowest: $(LOWEST)/.dev  ## unit tests with each version that pyproject.toml names at its lowest
	@$(LOWEST)/bin/pytest -q tests/unit

test-docker: test-packages $(VENV)/.dev  ## Docker of other Debians (debootstrap builds them once): make test-docker ROOTS=forky
	@OVERLAY_DOCKER_ROOTS="$(ROOTS)" $(BIN)/pytest -q tests/system/test_docker_roots.py tests/system/test_readme.py

test-services: test-packages $(VENV)/.dev  ## Services: every source, address and policy in every proxy mode, and a minute without etcd
	@OVERLAY_SERVICES=all OVERLAY_OUTAGE_SECONDS=60 $(BIN)/pytest -q tests/netns/test_services*.py

test-clients: $(VENV)/.dev  ## the API with client libraries and vmagent, which are not this project's to depend on
	@requirements/packages.sh $(LAB) $(TESTS) vmagent=victoria-metrics
	@$(PYTHON) -m venv $(CLIENTS)
	@$(CLIENTS)/$(PIP) --require-hashes -r requirements/clients.txt
	@OVERLAY_CLIENTS=$(CLIENTS)/bin/python $(BIN)/pytest -q tests/system/test_clients.py

test-platforms: platform-packages $(VENV)/.dev  ## other kernels and Debians: make test-platforms ONLY='kernel-*' JOBS=1 REBUILD=1
	@$(BIN)/python -m tests.platforms --only "$(ONLY)" $(if $(JOBS),--jobs $(JOBS)) $(if $(REBUILD),--rebuild)

# A fault that only one kernel has, to see that its cell tells: the others stay green.
FAULTY := kernel-6.1
test-platforms-fault: platform-packages $(VENV)/.dev  ## the matrix sees a fault that is seeded in one kernel alone
	@$(BIN)/python -m tests.platforms --only "$(FAULTY) kernel-6.12" --patch tests/platforms/only-6.1.patch --red $(FAULTY) $(if $(JOBS),--jobs $(JOBS))

bench-vm: platform-packages $(VENV)/.dev  ## the bench on other kernels, counted in instructions: make bench-vm ONLY=6.1 BENCH='--cards --mode wire-gro'
	@$(BIN)/python -m tests.platforms.bench --only "$(ONLY)" $(BENCH)

soak: $(VENV)/.dev  ## the simulation of the control plane with many seeds: make soak SEEDS=20000
	@$(BIN)/python -m tests.simulation --seeds $(SEEDS)

herd: $(VENV)/.dev  ## a model of 5,000 agents that come to one member of etcd at once: how many follow again
	@$(BIN)/python -m tests.simulation.herd

mutants: $(VENV)/.dev  ## mistakes put into the control plane one by one, each to be caught by its tests: make mutants
	@$(BIN)/python -m tests.mutation

fuzz: $(VENV)/.dev  ## hostile datagrams against the oracle: make fuzz COUNT=10000000
	@$(BIN)/python -m tests.fuzz.datagrams --count $(COUNT)

fuzz-keys: $(VENV)/.dev  ## hostile keys and values in etcd, as many: make fuzz-keys COUNT=1000000
	@$(BIN)/python -m tests.fuzz.keys --count $(COUNT)

endurance: test-packages $(VENV)/.dev  ## traffic while agents are killed, restarted and switched: make endurance MINUTES=10
	@OVERLAY_ENDURANCE_SECONDS=$$((60 * $(MINUTES))) $(BIN)/pytest -q -s tests/netns/test_endurance.py

bench: packages $(VENV)/.run  ## ratios against plain veth and kernel vxlan, in one run
	@$(BIN)/overlay lab bench

definitions: $(VENV)/.dev  ## Kubernetes' definitions again: make definitions WHEEL=kubernetes_validate….whl VERSION=1.37 PROTOS=DIR
	@$(BIN)/python -m overlay.services.objects.build $(WHEEL) $(VERSION)
	@$(BIN)/python -m overlay.api.build $(PROTOS)

bpf: $(VENV)/.dev  ## compile the kernel programs again (needs clang); the object is committed
	@$(BIN)/python -m overlay.linux.bpf_build $(wildcard overlay/*/*/*.bpf.c overlay/*/*/*/*.bpf.c)

# -- on a node -------------------------------------------------------------------------------------------------------

# DESTDIR, PREFIX, PYTHON and WHEELS mean what systemd/install.sh says.
wheels:  ## the package and what it needs, into WHEELS (dist/wheels), for nodes without a package index
	PYTHON=$(PYTHON) requirements/wheels.sh $(or $(WHEELS),dist/wheels)

release: $(VENV)/.run  ## source, wheel, and a Debian package that needs no package index, into dist
	PYTHON=$(PYTHON) TOOLS=$(BIN)/python systemd/package/release.sh dist

install:  ## agent, units, man page and completion on this machine, in /opt/overlay
	systemd/install.sh install

uninstall:  ## all of that away again
	systemd/install.sh uninstall

# --------------------------------------------------------------------------------------------------------------------

clean:  ## remove what these targets made in this directory
	rm -rf $(VENV) $(LOWEST) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist *.egg-info
