# trustfed: every command a newcomer or CI needs. `make run` and `make test` work in a fresh clone.
PYTHON ?= python3
BIN := .venv/bin
WORKERS ?= 3
CHAOS_SECONDS ?= 300

.PHONY: help run test lint interop bench chaos venv lock proto clean
.DEFAULT_GOAL := help

help:  ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

venv: .venv/.installed  ## make .venv/ with every locked dependency

.venv/.installed: requirements/all.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("trustfed needs Python 3.11 or newer; this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing locked dependencies into .venv (once, about a minute) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements/all.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --config-settings editable_mode=compat --editable .
	@touch $@

run: venv  ## the whole story: hub, two clusters, agents, workloads; Ctrl-C stops everything
	@$(BIN)/trustfed demo

.venv/.parts: tests/parts.sh .venv/.installed
	@tests/parts.sh .venv
	@touch $@

test: venv lint .venv/.parts  ## lint, types, architecture, and every test
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder tests

lint: venv  ## ruff, mypy --strict, import order
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache

interop: venv  ## SVIDs, JWTs, bundles and the Workload API against Go, Java, Rust and OpenSSL
	@$(BIN)/python -m pytest -n 0 tests/interop --interop

bench: venv  ## the table of speed and memory; with TRUSTFED_SPIRE_SERVER and _AGENT set, SPIRE beside it
	@$(BIN)/python -m bench

chaos: venv  ## faults at random for CHAOS_SECONDS=300, a partition first; prints its seed, SEED= repeats it
	@$(BIN)/python -m tests.system.faults --seconds $(CHAOS_SECONDS) $(if $(SEED),--seed $(SEED))

lock:  ## write requirements/*.txt anew from pyproject.toml (needs uv)
	@for set in "agent" "edge --extra edge" "control --extra cli --extra control" "all --all-extras"; do set -- $$set; name=$$1; shift; \
	  uv pip compile --quiet --generate-hashes --universal --python-version 3.11 --no-header --no-annotate \
	    --no-emit-index-url --no-emit-find-links "$$@" pyproject.toml -o requirements/$$name.txt; done

proto: venv  ## generate trustfed/proto/*_pb2.py from the .proto files
	@PATH=$(BIN):$$PATH $(BIN)/python -m grpc_tools.protoc -I. --python_out=. --mypy_out=. $(wildcard trustfed/proto/*.proto)

clean:  ## remove .venv and caches
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache build *.egg-info
