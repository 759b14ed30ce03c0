# Two commands on a fresh machine: `make demo` and `make test`. Everything is installed into .venv.

PYTHON ?= python3
LOCALE ?= en
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# Tests start a hundred processes; compiling every module anew would take them most of their time.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test soak lint format bench clean

demo: $(STAMP)
	$(BIN)/mss demo --locale "$(LOCALE)"

test: $(STAMP)
	$(BIN)/pytest --numprocesses=auto

# What kills processes and cuts connections, at full size and one after the other: some ten minutes.
soak: $(STAMP)
	MSS_SOAK=1 $(BIN)/pytest --numprocesses=0 --verbose $$(grep -rlw SOAK tests --include="test_*.py")

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mss check rules --strict
	$(BIN)/mss test rules --require-coverage

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)
	$(BIN)/python tests/bench/pipeline.py

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache

$(STAMP): pyproject.toml uv.lock
	$(PYTHON) -c 'import sys; sys.exit("MSS needs Python 3.11 or later" if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check "uv>=0.5,<1"
	VIRTUAL_ENV=$(abspath $(VENV)) $(BIN)/uv sync --quiet --active --frozen --all-extras --inexact --compile-bytecode
	touch $@
