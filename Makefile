# make demo    an example, from nothing
# make test    all checks and tests
# make help    the rest

PYTHON  ?= python3
WORKERS ?= 2
PYTHONS ?= 3.10 3.12 3.13

# What examples call, and the servers that tests start and talk to.
DEBIAN_TOOLS   = bcftools bowtie2 bowtie2-examples chromium debootstrap graphviz redis-server samtools
DEBIAN_SERVERS = ceph-mon ceph-osd curl docker-registry docker.io etcd-server golang-go gridengine-client gridengine-exec gridengine-master mariadb-server munge openssl patchelf podman proot radosgw runc slurm-wlm slurmdbd squashfs-tools

BENCHMARKS = $(wildcard benchmarks/*.py)

BIN = .venv/bin

.PHONY: help demo test servers lint format types unit test-pythons mixtures conformance conformance-wdl bench clean

help:
	@echo "demo          run an example and show its result"
	@echo "test          lint, type-check and run all tests"
	@echo "servers       begin to build those that no package has, in the background"
	@echo "lint          ruff and mypy only"
	@echo "format        let ruff mend what it can"
	@echo "unit          pytest only; make unit ARGS='-k name' passes arguments on"
	@echo "test-pythons  the core's tests with other Python versions: $(PYTHONS)"
	@echo "mixtures      two hundred random programs with failures and kills; 'unit' runs a few of them"
	@echo "conformance-wdl  run a suite of WDL in containers; make conformance-wdl SUITE=DIR for another one"
	@echo "conformance   run a suite of CWL in containers; make conformance SUITE=../cwl-v1.2 for a whole one"
	@echo "bench         measure, side by side with others; make bench BENCHMARKS=benchmarks/peers.py for one"
	@echo "clean         remove the environment and all that tools left behind"

demo: .venv/installed
	@mkdir -p build
	$(BIN)/python examples/merge_sort.py -o build/sorted.txt

test: .venv/debian servers lint unit

# Kubernetes is built from source, once for a machine, while other tests run.
servers: .venv/dev
	$(BIN)/python -m tests.servers.kubernetes build --background

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

unit: .venv/dev
	$(BIN)/python -m pytest -n $(WORKERS) $(ARGS)

test-pythons:
	WORKERS=$(WORKERS) .ci/pythons $(PYTHONS)

mixtures: .venv/dev
	TOILFN_TEST_PROGRAMS=200 $(BIN)/python -m pytest tests/chaos/test_mixtures.py

SUITE ?= tests/cwl/suite

conformance-wdl: SUITE = tests/wdl/suite
conformance-wdl: .venv/dev
	$(BIN)/python -m tests.wdl.conformance $(SUITE) --separately $(ARGS)

conformance: .venv/dev
	$(BIN)/python -m tests.cwl.conformance $(SUITE) $(ARGS)

bench: .venv/bench
	set -e; export PATH="$(abspath $(BIN)):$$PATH"; for script in $(BENCHMARKS); do echo "== $$script"; python $$script; done

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Stamps: each says that the environment holds what pyproject.toml asked for when it was made.

.venv/bin/python:
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || .ci/debian python3 python3-venv
	$(PYTHON) -m venv .venv

.venv/installed: pyproject.toml | .venv/bin/python
	$(BIN)/pip install -q -e .
	@touch $@

.venv/dev: pyproject.toml | .venv/bin/python
	$(BIN)/pip install -q -e ".[dev]"
	@touch $@ .venv/installed

.venv/bench: pyproject.toml | .venv/bin/python
	$(BIN)/pip install -q -e ".[bench]"
	@touch $@ .venv/installed

# One who may not install packages is told what is missing; the tests that need it are skipped or fail.
.venv/debian: Makefile | .venv/bin/python
	.ci/debian $(DEBIAN_TOOLS) $(DEBIAN_SERVERS) && touch $@ || [ $$? = 1 ]
