# make demo    a pipeline that is killed and resumed, from nothing
# make test    all checks and tests
# make help    the rest

PYTHON  ?= python3
WORKERS ?= 2
PYTHONS ?= 3.10 3.12 3.13

# What examples call, and the servers that tests start and talk to.
DEBIAN_TOOLS   = bcftools bowtie2 bowtie2-examples bubblewrap chromium debootstrap docker-compose faketime graphviz redis-server samtools systemd
DEBIAN_SERVERS = ceph-mon ceph-osd cloud-init curl docker-registry docker.io etcd-server golang-go gridengine-client gridengine-exec gridengine-master mariadb-server munge openssh-client openssh-server openssl patchelf podman prometheus proot radosgw rsync runc shellcheck slurm-wlm slurmdbd squashfs-tools

BENCHMARKS = $(wildcard benchmarks/*.py)

BIN = .venv/bin

.PHONY: help demo demo-cwl demo-wdl demo-slurm test quick servers lint format types unit loaded coverage mutation docs man map screenshots assets test-pythons mixtures conformance conformance-wdl bench image clean

help:
	@echo "demo          run a pipeline, kill it, and resume it; also demo-cwl, demo-wdl, demo-slurm (root: starts a Slurm)"
	@echo "quick         lint, type-check and run the tests that need no server and no root: about a minute"
	@echo "test          lint, type-check and run all tests"
	@echo "servers       start building, in the background, the servers that no package has"
	@echo "lint          ruff and mypy only"
	@echo "format        fix what ruff can fix"
	@echo "unit          pytest only; make unit ARGS='-k name' passes arguments on"
	@echo "loaded        the same on a machine that other processes keep at a load of LOAD (20)"
	@echo "coverage      pytest with the coverage of every line and branch, in build/coverage"
	@echo "mutation      mutation testing of the scheduler and the log, with mutmut"
	@echo "docs          build the site in build/site"
	@echo "image         build the container image toilfn:VERSION; make image ENGINE=podman"
	@echo "man           write the manual pages in man"
	@echo "map           draw the packages and their imports in docs/architecture.md"
	@echo "screenshots   photograph the pages that the site shows, with Chromium"
	@echo "assets        fetch the scripts of others that pages use, by npm, and compare their checksums"
	@echo "test-pythons  the core's tests with other Python versions: $(PYTHONS)"
	@echo "mixtures      two hundred random programs with failures and kills; 'unit' runs a few of them"
	@echo "conformance-wdl  run a suite of WDL in containers; make conformance-wdl SUITE=DIR for another one"
	@echo "conformance   run a suite of CWL in containers; make conformance SUITE=../cwl-v1.2 for a whole one"
	@echo "bench         measure, side by side with others; make bench BENCHMARKS=benchmarks/peers.py for one"
	@echo "clean         remove the environment and everything that tools have written"

# Each runs a small pipeline, kills its leader with SIGKILL, and resumes the run.
demo: .venv/installed
	$(BIN)/python examples/demo/demo.py

demo-cwl demo-wdl: demo-%: .venv/with-%
	$(BIN)/python examples/demo/demo.py $* --folder build/demo-$*

demo-slurm: .venv/dev
	.ci/debian slurm-wlm slurmdbd munge mariadb-server
	eval "$$($(BIN)/python -m tests.servers.slurm start)" && $(BIN)/python examples/demo/demo.py slurm --folder build/demo-slurm; \
	status=$$?; $(BIN)/python -m tests.servers.slurm stop; exit $$status

# The pictures of the pages on dashboards and servers; and what others have made of the pages themselves, by npm.
screenshots: .venv/dev
	$(BIN)/python docs/screenshots.py

assets: .venv/bin/python
	$(BIN)/python -m tests.house.assets

docs/images/demo.svg: examples/demo/demo.py | .venv/installed
	$(BIN)/python examples/demo/demo.py --svg $@

test: .venv/debian servers lint unit

# For a first change: no root, no servers, about a minute.
quick: lint
	$(BIN)/python -m pytest -q -m "quick and not slow" -n $(WORKERS) $(ARGS)

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

# A test that fails here alone has a race, or a limit that is too short: docs/decisions/026-unstable-tests.md.
LOAD ?= 20
loaded: .venv/dev
	$(BIN)/python -m tests.loaded --load $(LOAD) -- -n $(WORKERS) $(ARGS)

# Of all processes; `make coverage ARGS=tests/core` for some tests.
coverage: .venv/dev
	$(BIN)/python -m pytest -n $(WORKERS) --cov --cov-report=term --cov-report=html:build/coverage $(ARGS)

# Which changes of the scheduler and the log do no test notice? Thousands of short runs: an hour or two.
mutation: .venv/dev
	$(BIN)/pip install -q "mutmut>=3.8"
	$(BIN)/mutmut run --max-children $(WORKERS) $(ARGS)
	$(BIN)/mutmut results

# The image of workers, leaders and docker/slurm.compose.yaml, tagged with the version of this source.
VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
ENGINE ?= docker
image:
	$(ENGINE) build -f docker/Dockerfile --build-arg VERSION=$(VERSION) -t toilfn:$(VERSION) -t toilfn:latest $(ARGS) .

# The site, from the pages in docs/ and the code; it needs no network, and any warning is an error.
docs: .venv/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "build/site/index.html; for its search: $(BIN)/python -m http.server --directory build/site"

# The rooms and who imports whom, in docs/architecture.md.
man: .venv/installed
	$(BIN)/python docs/man.py man

map: .venv/bin/python
	$(BIN)/python -m tests.house.map

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
	rm -rf .venv build mutants dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Stamps: each says that the environment holds what pyproject.toml asked for when it was made.

.venv/bin/python:
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || .ci/debian python3 python3-venv
	$(PYTHON) -m venv .venv

.venv/installed: pyproject.toml | .venv/bin/python
	$(BIN)/pip install -q -e .
	@touch $@

.venv/with-%: pyproject.toml | .venv/bin/python
	$(BIN)/pip install -q -e ".[$*]"
	@touch $@ .venv/installed

.venv/docs: pyproject.toml | .venv/bin/python
	$(BIN)/pip install -q -e ".[docs]"
	@touch $@ .venv/installed

# uv takes a quarter of the time that pip takes. pip is used if uv is not available or does not find the packages.
.venv/dev: pyproject.toml | .venv/bin/python
	$(BIN)/pip install -q uv && $(BIN)/uv pip install -q --compile-bytecode --python $(BIN)/python -e ".[dev]" || $(BIN)/pip install -q -e ".[dev]"
	@touch $@ .venv/installed

.venv/bench: pyproject.toml | .venv/bin/python
	$(BIN)/pip install -q -e ".[bench]"
	@touch $@ .venv/installed

# Without root, missing packages are only listed; the tests that need them are skipped or fail.
.venv/debian: Makefile | .venv/bin/python
	.ci/debian $(DEBIAN_TOOLS) $(DEBIAN_SERVERS) && touch $@ || [ $$? = 1 ]
