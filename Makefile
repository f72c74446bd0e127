# `make demo` and `make test` do all their own set-up: a virtual environment in .venv.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP_FLAGS := --quiet --disable-pip-version-check --constraint constraints.txt
DEMO_DIR ?= runs/quickstart
DEMO_BERT_DIR ?= runs/quickstart_bert
EVAL_LIMIT ?= 100
EVAL_TASKS ?= local_lambada_openai,local_piqa,local_arc_easy,local_copa
VIT_VENV ?= .venv-vit
COMPOSER_VENV ?= .venv-composer
MEGATRON_CORE := $(VENV)/megatron-core

.DEFAULT_GOAL := help
.PHONY: help demo demo-bert watch demo-eval test test-full test-gpu vit-test composer-test check format lint types docs docs-site notebooks clean

help:
	@echo "make demo       corpus, tokens, difficulty index, five trainings, one table and one picture;"
	@echo "                SEEDS=1,2,3,4,5 gives bands, CORPUS=my.jsonl takes your own text"
	@echo "make demo-bert  the same with BERT"
	@echo "make watch      the demo's runs, live in a browser; RUNS names others"
	@echo "make demo-eval  the demo's models on LAMBADA, PIQA, ... and one table; EVAL_DATA names the files"
	@echo "make test       the tests of every push (about 12 minutes on 2 cores)"
	@echo "make test-full  all matrices, all kills, all recipes; with Ray, datatrove and an S3 server"
	@echo "make test-gpu   the tests that need a GPU"
	@echo "make vit-test   the timm tests, in an environment of their own ($(VIT_VENV))"
	@echo "make composer-test  the tests with MosaicML's Composer, in an environment of their own ($(COMPOSER_VENV))"
	@echo "make check      what CI runs: format, lint, types, make test, docs are current"
	@echo "make format     rewrite files as the formatter wants them"
	@echo "make docs       regenerate docs/config.md and docs/migration.md"
	@echo "make docs-site  the pages of docs/ as a site in build/site; a broken link is an error"
	@echo "make notebooks  execute docs/notebooks/ anew"
	@echo "make clean      remove the virtual environment and caches; runs/ stays"

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; name one with PYTHON=python3.x" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)

# One stamp file an extra: an install runs again only when the requirements change.
$(VENV)/installed-%: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Setting up $(VENV) with the [$*] packages ..."
	@start=$$(date +%s); $(BIN)/pip install $(PIP_FLAGS) --editable '.[$*]' && \
		echo "Set-up and downloads took $$(( $$(date +%s) - start )) s."
	@touch $@

QUICKSTART := quickstart/study.toml
STUDY_FLAGS = $(if $(SEEDS),--seeds $(SEEDS)) $(if $(CORPUS),--set "corpus=$(CORPUS)")

demo: $(VENV)/installed-trainer $(VENV)/installed-report $(VENV)/installed-watch
	@$(BIN)/python tools/study.py run examples_deepspeed/data_efficiency/gpt/$(QUICKSTART) \
		--output "$(DEMO_DIR)" $(STUDY_FLAGS)

demo-bert: $(VENV)/installed-trainer $(VENV)/installed-report $(VENV)/installed-sentences
	@$(BIN)/python tools/study.py run examples_deepspeed/data_efficiency/bert/$(QUICKSTART) \
		--output "$(DEMO_BERT_DIR)" $(STUDY_FLAGS)

watch: $(VENV)/installed-trainer $(VENV)/installed-watch
	@$(BIN)/python tools/watch.py $(or $(RUNS),"$(DEMO_DIR)")

# docs/evaluation.md says where the files of EVAL_DATA come from.
demo-eval: $(VENV)/installed-trainer $(VENV)/installed-report $(VENV)/installed-eval
	@PYTHON="$(abspath $(BIN))/python" bash examples_deepspeed/data_efficiency/gpt/eval/ds_evalharness_run.sh \
		--checkpoints "$(DEMO_DIR)" --output "$(DEMO_DIR)/evaluation" \
		--data-folder "$${EVAL_DATA:?names no folder: docs/evaluation.md says what belongs in it}" \
		--zero-shot "$(EVAL_TASKS),local_wikitext" --few-shot "$(EVAL_TASKS)" --num-fewshot 2 --limit "$(EVAL_LIMIT)"

# Two test processes of one thread each: threads that wait for a busy core are many times slower.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist worksteal

test: $(VENV)/installed-dev
	@$(PYTEST) -m "not full"

test-full: $(VENV)/installed-full $(MEGATRON_CORE)/installed
	@$(PYTEST)

test-gpu: $(VENV)/installed-dev
	@$(BIN)/python -m pytest -m gpu

# Its package is called megatron like this project's, and its own requirements are not needed: the
# tests import it in a process that sees this folder, torch and numpy alone.
$(MEGATRON_CORE)/installed: | $(BIN)/python
	@$(BIN)/pip install $(PIP_FLAGS) --no-deps --upgrade --target $(MEGATRON_CORE) 'megatron-core>=0.16'
	@touch $@

# torchvision wants a torch of its own, and merely installed it breaks other packages here.
VIT := examples_deepspeed/data_efficiency/vit_finetuning
$(VIT_VENV)/installed: $(VIT)/requirements.txt
	@$(PYTHON) -m venv $(VIT_VENV)
	@$(VIT_VENV)/bin/pip install --quiet --disable-pip-version-check --requirement $<
	@touch $@

vit-test: $(VIT_VENV)/installed
	@OMP_NUM_THREADS=1 $(VIT_VENV)/bin/python -m pytest -m vit \
		tests/data_efficiency/routing/test_timm.py tests/$(VIT)/test_timm_models.py

# Composer wants an older torch.
$(COMPOSER_VENV)/installed: tests/data_efficiency/adapters/composer_requirements.txt
	@$(PYTHON) -m venv $(COMPOSER_VENV)
	@$(COMPOSER_VENV)/bin/pip install --quiet --disable-pip-version-check --requirement $<
	@touch $@

composer-test: $(COMPOSER_VENV)/installed
	@OMP_NUM_THREADS=1 $(COMPOSER_VENV)/bin/python -m pytest -m composer \
		tests/data_efficiency/adapters/test_composer_plugin.py tests/end_to_end/test_hosts.py

format: $(VENV)/installed-dev
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

lint: $(VENV)/installed-dev
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .

types: $(VENV)/installed-dev
	@$(BIN)/mypy

docs: $(VENV)/installed-dev
	@$(BIN)/python tools/generate_docs.py

docs-site: $(VENV)/installed-docs
	@$(BIN)/python -m sphinx -c docs/site -b html -W --keep-going -q . build/site
	@echo "build/site/index.html"

# Warnings of a package about its terminal are not for the reader, and DeepSpeed tells of the machine.
notebooks: $(VENV)/installed-docs $(VENV)/installed-huggingface $(VENV)/installed-report $(VENV)/installed-text
	@cd docs/notebooks && PYTHONWARNINGS=ignore DS_ACCELERATOR=cpu OMP_NUM_THREADS=1 $(abspath $(BIN))/python -m \
		jupyter nbconvert --ExecutePreprocessor.record_timing=False --log-level ERROR --to notebook --execute --inplace *.ipynb

check: lint types test
	@$(BIN)/python tools/generate_docs.py --check

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
