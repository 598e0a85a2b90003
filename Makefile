# PYTHON is the interpreter that makes the virtual environment: 3.10 or newer.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: venv demo test lint check bench bench-check web docs clean

venv: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev,train]"
	mkdir -p $(VENV)/links && ln -sfn $(CURDIR)/cli $(VENV)/links/ulcodec_cli
	touch $@

demo: venv
	$(BIN)/python -m benchmarks.demo

# JOBS processes run the tests, a file at a time, with one thread each.
JOBS ?= 2
test: venv
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check: lint test

# ARGS goes to `ulcodec bench`, for instance ARGS="KODAK_FOLDER --jobs 2".
bench: venv
	$(BIN)/ulcodec bench $(ARGS)
	$(BIN)/python -m benchmarks.speed --cold-start

bench-check: venv
	$(BIN)/ulcodec bench --quick -o report/quick
	$(BIN)/python -m benchmarks.check report/quick/results.json benchmarks/results/0.1.0/samples/results.json

# The page that decodes pictures in a browser, on this machine. MODELS are names or directories; it needs npm.
MODELS ?= small
web: venv
	$(BIN)/python web/make_site.py web/site $(MODELS:%=--model %)
	$(BIN)/python web/serve.py web/site

# The reference of the command line from the command line itself, and all of docs/ with the API as a site.
docs: venv
	$(BIN)/typer ulcodec_cli.main utils docs --name ulcodec --title "Command line" --output docs/cli.md
	$(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) build dist demo report site web/node_modules web/site *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
