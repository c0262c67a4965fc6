# `make demo`: train, evaluate and choose on real solar cells, write reports.   `make test`: the whole suite.
# `make docs`: the site, in site/.   `make package`: wheel, sdist, and each extra in an environment of its own.
PYTHON ?= python3
BIN = .venv/bin

.PHONY: demo test test-portable test-lowest lint bench docs package clean

# Everything is installed from constraints.txt, so that no newer torch (with gigabytes of CUDA) slips in.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,docs,fleet-dev,serve-dev]'
	# timm and torchvision for the tests alone, in a folder of their own: beside a CPU build of torch, torchvision cannot be
	# imported without help, and other packages would try
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target .venv/timm \
		timm==1.0.31 torchvision==0.28.0
	# s3fs and the server that its tests ask, too: they want an older python-dateutil than matplotlib has here
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target .venv/s3 -r tests/s3.txt
	touch $@

demo: .venv/installed
	$(BIN)/inlier demo

test: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --dist worksteal --durations=10

# The numeric tests as other processors compute: instruction sets of oneDNN and of torch held down, one thread and two.
NUMERIC = tests/test_backbones.py tests/test_padim.py tests/test_simplenet.py tests/test_memseg.py \
	tests/test_differnet.py tests/test_diad.py tests/test_metrics.py tests/test_simulation.py tests/test_old_models.py
ISAS = AVX2:avx2 SSE41:default
THREADS = 1 2
test-portable: .venv/installed
	for threads in $(THREADS); do for isa in $(ISAS); do \
		echo "oneDNN and torch at $$isa, threads: $$threads"; \
		ONEDNN_MAX_CPU_ISA=$${isa%:*} ATEN_CPU_CAPABILITY=$${isa#*:} OMP_NUM_THREADS=$$threads \
		$(BIN)/python -m pytest -n $$((3 - threads)) --dist worksteal $(NUMERIC) || exit 1; done; done

# The core of the suite with the lowest versions that pyproject.toml allows.
CORE = tests/test_cli.py tests/test_artifact.py tests/test_inspection.py tests/test_old_models.py tests/test_padim.py \
	tests/test_report.py tests/test_training.py tests/test_datasets.py tests/test_images.py
.venv-lowest/installed: pyproject.toml
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python tests/lowest.py > .venv-lowest/constraints.txt
	.venv-lowest/bin/python -m pip install --quiet --disable-pip-version-check -c .venv-lowest/constraints.txt -e '.[dev]'
	touch $@

test-lowest: .venv-lowest/installed
	OMP_NUM_THREADS=1 .venv-lowest/bin/python -m pytest -n logical --dist worksteal $(CORE)

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/speed.py

# strict: a warning is an error, also a link that leads nowhere (with --quiet mkdocs would not count them)
docs: .venv/installed
	NO_MKDOCS_2_WARNING=1 OMP_NUM_THREADS=1 $(BIN)/mkdocs build --strict

package: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[release]'
	$(BIN)/python tools/check_package.py

clean:
	rm -rf .venv .venv-lowest inlier-demo
