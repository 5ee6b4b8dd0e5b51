# make demo and make test need Python 3.11 or later and nothing else: they make .venv and install into it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
RUN_READY := $(VENV)/.ready-to-run
TEST_READY := $(VENV)/.ready-to-test
FUZZ_READY := $(VENV)/.ready-to-fuzz

.PHONY: help demo test lint coverage fuzz fuzz-long fuzz-coverage bench torrents clean crash faults soak

help:
	@echo "make demo      a local swarm downloads a torrent, live"
	@echo "make test      the whole suite"
	@echo "make soak      the matrix of simulated transfers, with every fault, and more swarms"
	@echo "make lint      ruff and mypy --strict"
	@echo "make coverage  branch coverage of the pure folders"
	@echo "make fuzz      every decoder for a minute (make fuzz-long: an hour)"
	@echo "make bench     beside other clients: wall time, CPU, memory"
	@echo "make crash     power cuts at every moment of recorded transfers"
	@echo "make faults    every operation of the disk fails once, in every way"
	@echo "make torrents  write torrents/ again"
	@echo "make clean     remove .venv and what the tools left"

demo: $(RUN_READY)
	@$(BIN)/python -m tools.demo

# Four workers on two cores: some tests mostly wait for other programs.
test: $(TEST_READY)
	$(BIN)/python -m pytest -n 4 --dist loadgroup

soak: $(TEST_READY)
	$(BIN)/python -m pytest -n 2 -m soak tests/simulated

lint: $(TEST_READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

coverage: $(TEST_READY)
	$(BIN)/python -m coverage run -m pytest tests/test_bencode.py tests/metainfo tests/wire tests/swarm tests/dht
	$(BIN)/python -m coverage report --fail-under=100 --show-missing --include='btor/metainfo/*,btor/wire/*,btor/swarm/*,btor/dht/*'

fuzz: $(FUZZ_READY)
	$(BIN)/python -m tests.fuzz --seconds 60

fuzz-long: $(FUZZ_READY)
	$(BIN)/python -m tests.fuzz --seconds 3600

fuzz-coverage: $(TEST_READY)
	$(BIN)/python -m tests.fuzz.cover

bench: $(TEST_READY)
	$(BIN)/python -m tools.bench

crash: $(TEST_READY)
	$(BIN)/python -m tools.crash_states

faults: $(TEST_READY)
	$(BIN)/python -m tools.disk_faults

torrents: $(RUN_READY)
	$(BIN)/python tools/make_torrents.py torrents

# Each stamp is written last, so that an install that was broken off is done again.
$(RUN_READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("btor needs Python 3.11 or later; $(PYTHON) is %d.%d. Try: make PYTHON=python3.12" % sys.version_info[:2] if sys.version_info < (3, 11) else 0)'
	@$(PYTHON) -c 'import venv, ensurepip' || { echo "$(PYTHON) cannot make a virtual environment: install its venv package (Debian: python3-venv)"; exit 1; }
	@echo "setting up $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) install --editable .
	@touch $@

$(TEST_READY): $(RUN_READY)
	@echo "installing what the tests need"
	@$(PIP) install --editable '.[test]'
	@touch $@

$(FUZZ_READY): $(TEST_READY)
	@echo "installing what fuzzing needs"
	@$(PIP) install --editable '.[fuzz]'
	@touch $@

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage htmlcov dist build .fuzz
	find btor tests tools -name __pycache__ -type d -prune -exec rm -rf {} +
