# The same targets for people and for CI. `make demo` and `make test` need nothing run before them.
PYTHON ?= python3
BIN := .venv/bin
KEEP ?=

.PHONY: demo test check bench debian clean lock

demo: debian .venv/ready
	$(BIN)/python -m tests.lab.demo $(if $(KEEP),--keep)

test: debian .venv/ready check
	$(BIN)/pytest -n 2 --no-loadscope-reorder

check: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The meters of others that `bench` compares with, but for softflowd, which a test hears: only here.
bench: debian .venv/ready .venv-bench/ready
	@sh deploy/debian-packages.sh requirements/bench-debian.txt
	$(BIN)/python -m bench

# Debian packages: installed when root, named when not.
debian:
	@sh deploy/debian-packages.sh

.venv/ready: requirements/dev.txt pyproject.toml | debian
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --require-hashes --requirement requirements/dev.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

.venv-bench/ready: requirements/bench.txt | debian
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/python -m pip install --quiet --require-hashes --requirement requirements/bench.txt
	touch $@

# Versions with hashes and without any index address.
lock:
	$(BIN)/python -m pip install --quiet pip-tools
	CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/pip-compile --quiet --strip-extras --allow-unsafe --generate-hashes \
	  --no-emit-index-url --no-emit-find-links --no-emit-trusted-host \
	  --all-extras --output-file requirements/dev.txt pyproject.toml requirements/build.in
	CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/pip-compile --quiet --strip-extras --generate-hashes \
	  --no-emit-index-url --no-emit-find-links --no-emit-trusted-host \
	  --output-file requirements/bench.txt requirements/bench.in

clean:
	rm -rf build .venv .venv-bench .mypy_cache .ruff_cache .pytest_cache .hypothesis
