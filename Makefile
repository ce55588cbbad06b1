# `make demo` and `make test` need Python 3.11 or newer, make and pip; all else goes into .venv.

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
EXTRAS := sentence-transformers,cli,parquet,bench,redis,langchain,llama-index,haystack,chroma,sklearn,datasets,mteb,prometheus,opentelemetry,ray
# One more than there are processors: tests of servers and clusters mostly wait.
WORKERS ?= $(shell expr $$(getconf _NPROCESSORS_ONLN) + 1)
# For instance: make demo ARGS="--file mine.csv --column body --model BAAI/bge-small-en-v1.5"
ARGS ?=

.PHONY: demo test docs bench peers growth fleet soak notebook format clean

demo: $(INSTALLED)
	$(BIN)/embstore demo $(ARGS)

# Tests use a model that a package carries; offline, a test that asks a hub fails at once.
test bench peers growth soak notebook: export HF_HUB_OFFLINE = 1

test: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest --doctest-modules embstore
	$(BIN)/pytest --numprocesses $(WORKERS) --dist worksteal

# The site, in .docs-build: all pages, with search and a reference of the API.
# The reference of the command line is a page like all others, and written anew before.
docs: export HAYSTACK_TELEMETRY_ENABLED = False
docs: $(INSTALLED)
	$(BIN)/python docs/cli_reference.py
	$(BIN)/python -m sphinx -W --keep-going -n -q -b html docs .docs-build

bench: $(INSTALLED)
	$(BIN)/pytest benchmarks --benchmark-only

# Beside what else could be used, in an environment of its own: half an hour, 25 GB of memory or disk.
# For instance: make peers ARGS="--counts 10000 --only lmdb"
peers: .venv-peers/.installed
	.venv-peers/bin/python -m benchmarks.peers $(ARGS)

# Cost by the size of the store, to 3,000,000 rows: ten minutes, 12 GB of disk.
growth: $(INSTALLED)
	$(BIN)/python -m benchmarks.growth $(ARGS)

# Hit rate and network load of fleets of workers, simulated: a minute.
fleet: $(INSTALLED)
	$(BIN)/python -m benchmarks.fleet $(ARGS)

# Kills, damages and wears out stores: half an hour. For instance: make soak ARGS="--only ctrl-c --json soak.json"
soak: $(INSTALLED)
	$(BIN)/python -m tests.soak $(ARGS)

# Executes the notebook of the docs and keeps its outputs, those of this machine.
notebook: $(INSTALLED)
	EMBSTORE_FULL=1 EMBSTORE_UPDATE=1 $(BIN)/pytest tests/test_notebook.py

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv .venv-peers .docs-build

# The stamp comes last, so that an installation that was interrupted is taken up again.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"embstore needs Python 3.11 or newer; {sys.executable} is {sys.version.split()[0]}. Try: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --constraint constraints.txt \
	    --editable '.[$(EXTRAS)]' --group dev
	touch $@

.venv-peers/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet --upgrade 'pip>=25.1'
	.venv-peers/bin/python -m pip install --quiet --constraint constraints.txt \
	    --editable '.[sentence-transformers,bench]' --group dev --group peers
	touch $@
