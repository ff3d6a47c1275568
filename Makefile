# Everything a person or CI runs. 'make' alone lists it.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed.stamp
PORTS := unix esp32 rp2
STUBS := $(PORTS:%=.stubs/%/installed.stamp)
SOURCES := shared device manager hil firmware-build tools tests
PYTEST := $(BIN)/python -m pytest -n auto --dist loadfile
ARGS ?=
HIL_JOBS ?= 2

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo
demo: $(INSTALLED) ## two devices meet through a manager, on this machine; ARGS="--profile rpk", ARGS="--carrier sip", ARGS="--keep" leaves it running
	@$(BIN)/keyferry demo $(ARGS)

.PHONY: venv
venv: $(INSTALLED) ## the environment in .venv, from the locked and hashed requirements

$(INSTALLED): requirements/dev.txt pyproject.toml tools/make-venv
	@tools/make-venv $(PYTHON) $(VENV)
	@touch $@

.PHONY: system
system: ## system programs that some tests run (apt, when root or with sudo)
	@tools/system-parts

.PHONY: test
test: $(INSTALLED) system ## every test, core and agent on CPython and MicroPython; ARGS goes to pytest
	$(PYTEST) $(ARGS)

.PHONY: test-fast
test-fast: $(INSTALLED) ## core and agent only, on both runtimes
	$(PYTEST) tests/core tests/agent $(ARGS)

.PHONY: check
check: $(INSTALLED) check-format check-imports check-portable check-diagrams check-types check-size ## format, lint, types per port, imports, portability, diagrams, sizes

.PHONY: check-format
check-format: $(INSTALLED)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)

.PHONY: check-imports
check-imports: $(INSTALLED)
	$(BIN)/lint-imports --no-cache

.PHONY: check-portable
check-portable: $(INSTALLED)
	$(BIN)/python tools/check_portable.py

.PHONY: check-diagrams
check-diagrams: $(INSTALLED)
	$(BIN)/python tools/diagrams --check

.PHONY: check-types
check-types: $(INSTALLED) $(STUBS)
	$(BIN)/basedpyright
	$(foreach port,$(PORTS),$(BIN)/basedpyright --project tools/types/$(port).json &&) true

.stubs/%/installed.stamp: requirements/stubs-%.txt $(INSTALLED)
	@rm -rf $(@D)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes --target $(@D) -r $<
	@touch $@

.PHONY: check-size
check-size: $(INSTALLED)
	$(BIN)/python -m keyferry_firmware.size

.PHONY: size
size: check-size ## bytes of each device module, and the heap that core and agent need; takes minutes
	PYTHONPATH=tests $(BIN)/python -m bench.space $(ARGS)

.PHONY: bench
bench: $(INSTALLED) ## time of the core's work on both runtimes, bytes on the wire, relays a second
	PYTHONPATH=tests $(BIN)/python -m bench $(ARGS)

.PHONY: bench-manager
bench-manager: $(INSTALLED) system ## the manager against bare TLS, mosquitto and bare signing; ARGS="--part relays"
	PYTHONPATH=tests $(BIN)/python -m bench.bench_manager $(ARGS)

.PHONY: bench-sip
bench-sip: $(INSTALLED) system ## the manager's SIP against Kamailio, by turns; ARGS="--part messages"
	PYTHONPATH=tests $(BIN)/python -m bench.bench_sip $(ARGS)

.PHONY: hil
hil: $(INSTALLED) ## the bench's suites on four virtual boards; ARGS="--rig FILE", ARGS="--port PATH", ARGS="-k link"
	@KEYFERRY_BENCH=$${KEYFERRY_BENCH:-build/hil/state} $(BIN)/keyferry bench run $(if $(findstring -n ,$(ARGS)),,-n $(HIL_JOBS)) $(ARGS)

.PHONY: coverage
coverage: $(INSTALLED) system ## how much of the manager's code its tests run, in all processes; ARGS goes to pytest
	rm -rf build/coverage && mkdir -p build/coverage
	$(BIN)/coverage run -m pytest -n auto --dist loadfile $(if $(ARGS),$(ARGS),tests/manager tests/faults tests/interop tests/e2e)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

.PHONY: fuzz
fuzz: $(INSTALLED) ## hostile input to every decoder, a minute each; ARGS="cbor x509 --seconds 600 --jobs 2 --keep"
	$(BIN)/python tests/fuzz/run.py $(ARGS)

.PHONY: soak
soak: $(INSTALLED) ## 10,000 reconnects and 100,000 records of one device in 128 KiB, and its heap; half an hour
	@PYTHONPATH=tests $(BIN)/python -m soak $(ARGS)

.PHONY: powercut
powercut: $(INSTALLED) ## a device loses its power at every write; last line 'N cells, N lost'; ARGS="--part flash"
	@PYTHONPATH=tests $(BIN)/python -m powercut $(ARGS)

.PHONY: format
format: $(INSTALLED) ## rewrite the sources as 'make check' wants them
	$(BIN)/ruff check --fix --quiet $(SOURCES) || true
	$(BIN)/ruff format $(SOURCES)

.PHONY: lock
lock: $(INSTALLED) ## compile requirements/*.txt anew, newest versions that pyproject.toml admits
	@tools/lock $(BIN)/python

.PHONY: clean
clean: ## remove what was built; the environment stays
	rm -rf build dist .stubs .pytest_cache .ruff_cache .hypothesis
	find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +
