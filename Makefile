# `make demo`: train and evaluate on real solar cells, write a report.   `make test`: the whole suite.
PYTHON ?= python3
BIN = .venv/bin

.PHONY: demo test test-portable lint bench clean

# Everything is installed from constraints.txt, so that no newer torch (with gigabytes of CUDA) slips in.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	# timm and torchvision for the tests alone, in a folder of their own: beside a CPU build of torch, torchvision cannot be
	# imported without help, and other packages would try
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target .venv/timm \
		timm==1.0.31 torchvision==0.28.0
	touch $@

demo: .venv/installed
	$(BIN)/inlier demo

test: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --dist worksteal --durations=10

# The numeric tests as other processors compute: instruction sets held down, one thread and two.
NUMERIC = tests/test_backbones.py tests/test_padim.py tests/test_simplenet.py tests/test_memseg.py \
	tests/test_differnet.py tests/test_diad.py tests/test_metrics.py tests/test_simulation.py
test-portable: .venv/installed
	for threads in 1 2; do for isa in AVX2:avx2 SSE41:default; do \
		echo "ONEDNN_MAX_CPU_ISA=$${isa%:*} ATEN_CPU_CAPABILITY=$${isa#*:} OMP_NUM_THREADS=$$threads"; \
		ONEDNN_MAX_CPU_ISA=$${isa%:*} ATEN_CPU_CAPABILITY=$${isa#*:} OMP_NUM_THREADS=$$threads \
		$(BIN)/python -m pytest -n $$((3 - threads)) --dist worksteal $(NUMERIC) || exit 1; done; done

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/installed
	$(BIN)/python benchmarks/speed.py

clean:
	rm -rf .venv inlier-demo
