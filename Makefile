# `make demo`: train and evaluate on real solar cells, write a report.   `make test`: the whole suite.
PYTHON ?= python3
BIN = .venv/bin

.PHONY: demo test lint bench clean

# Everything is installed from constraints.txt, so that no newer torch (with gigabytes of CUDA) slips in.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: .venv/installed
	$(BIN)/inlier demo

test: .venv/installed
	$(BIN)/python -m pytest

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/installed
	$(BIN)/python benchmarks/speed.py

clean:
	rm -rf .venv inlier-demo
