# Two commands: `make train` (environment, embedded default, GRPO, evaluation before and after) and `make test`.
PYTHON ?= python3
VENV ?= .venv
# cpu | gpu
EXTRA ?= cpu
SYSTEM ?= revseg
ARGS ?=
# Test processes. 0: run in this process, with its output in sight.
PROCESSES ?= 2
RUN := $(VENV)/bin/python
STAMP := $(VENV)/.rayvos-installed

.PHONY: env train test lint bench browser chaos docs clean
env: $(STAMP)

$(STAMP): pyproject.toml cluster/sam2.txt cluster/sam2_needs.txt cluster/torch_cpu_hook.py
	@echo "== environment (about 4 minutes, 5 GB in $(VENV)) =="
	$(PYTHON) -c "import sys; sys.exit('Python 3.11 or 3.12 is needed; set PYTHON=...') if not (3, 11) <= sys.version_info[:2] <= (3, 12) else 0"
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	@echo "-- torch (first, so that nothing below builds against another one)"
	$(RUN) -m pip install -q torch==2.13.0 "setuptools>=77,<81"
	@echo "-- rayvos with vLLM, Ray, DeepSpeed, MLflow"
	DS_BUILD_OPS=0 $(RUN) -m pip install -q -e ".[$(strip $(EXTRA)),dev]"
	@echo "-- SAM 2"
	$(RUN) -m pip install -q --no-deps -r cluster/sam2_needs.txt
	SAM2_BUILD_CUDA=0 $(RUN) -m pip install -q --no-deps --no-build-isolation --require-hashes -r cluster/sam2.txt
	$(RUN) -m cluster.torch_cpu_hook
	@echo "-- DeepSpeed's communication operator (compiled once)"
	$(RUN) -m cluster.build_ops
	@touch $(STAMP)

train: $(STAMP)
	$(RUN) -m ray_jobs.train $(SYSTEM)_tiny $(ARGS)

test: $(STAMP)
	$(RUN) -m pytest -n $(strip $(PROCESSES)) --no-loadscope-reorder $(ARGS)

lint: $(STAMP)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	$(RUN) -m pytest -q tests/test_imports.py tests/test_texture.py

# All but those that need a folder, another tree or a GPU.
bench: $(STAMP)
	@for b in $$(ls benchmarks | grep -v -e __init__ -e measuring -e _in_tree -e official_shapes -e on_gpu | sed -n 's/\.py$$//p'); do \
		echo "== $$b"; $(RUN) -m benchmarks.$$b || exit 1; done

# For the tests of the replay page, which are skipped without one.
browser:
	@command -v chromium chromium-browser google-chrome || { \
		run=; test "$$(id -u)" = 0 || run=sudo; \
		$$run apt-get update && $$run apt-get install -y --no-install-recommends chromium; }

# Fifty faults in one run, on a machine of its own (docs/faults.md).
chaos: $(STAMP)
	$(RUN) -m tests.chaos $(ARGS)

# The pages below docs/ as a site in site/, every link checked; with tools of their own.
docs:
	test -x .venv-docs/bin/mkdocs || { $(PYTHON) -m venv .venv-docs && .venv-docs/bin/pip install -q "mkdocs-material>=9.6,<10"; }
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict

clean:
	rm -rf $(VENV) .venv-docs site build *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
