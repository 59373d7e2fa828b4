.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3.13 python3.12 python3.11 python3
WORKERS ?= 2
CONFIG ?= config/corpus.toml
BUILD ?= build/demo
TRAIN ?= config/lm/small_corpus.toml
STUDY ?= config/study/quick.toml
SPEECH ?= ../shared/speech
SEED ?= 0
SECONDS ?= 300
VOICES ?= build/voices
TEACHER ?= # directory of the encoder that `make encoder` distils
OUTPUT ?= build/encoder
BIN := .venv/bin
BENCHMARKS ?= kmeans units_speed align shards_speed build_speed build_memory # lm_speed BUILD and lm_mfu ask for more
READY := .venv/ready
export OMP_NUM_THREADS ?= 1

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  variables: SOURCE=manifest.jsonl BUILD=$(BUILD) WORKERS=$(WORKERS) CONFIG=$(CONFIG) TRAIN=$(TRAIN) STUDY=$(STUDY) SPEECH=$(SPEECH) VOICES=$(VOICES) TEACHER=$(TEACHER) SEED=$(SEED) OUTPUT=$(OUTPUT) PYTHON=$(PYTHON)"

setup: $(READY) ## make .venv from the pinned versions with the newest Python found (3.13, 3.12, 3.11)

.venv/pyvenv.cfg: constraints.txt
	@for python in $(PYTHON); do \
	  $$python -c 'import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null || continue; \
	  echo "make .venv with $$($$python --version)"; rm -rf .venv; exec $$python -m venv .venv; \
	done; echo "wordweave: Python: need 3.11, 3.12 or 3.13 with its venv module, got none by the names $(PYTHON); set PYTHON=/path/to/python" >&2; exit 2

$(READY): .venv/pyvenv.cfg pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[demo,dev,docs]"
	touch $@

demo: $(READY) ## the whole path on synthetic speech: demo corpus, build, training, generation
	$(BIN)/wordweave demo build/demo --workers $(WORKERS)
	@echo "open build/demo/report/index.html in a browser; listen to build/demo/speech/*.wav"

corpus: $(READY) ## build shards from your recordings: make corpus SOURCE=manifest.jsonl BUILD=build/name
	@test -n "$(SOURCE)" || { echo "wordweave: SOURCE: need a manifest, got nothing; make corpus SOURCE=manifest.jsonl BUILD=build/name" >&2; exit 2; }
	$(BIN)/wordweave build $(CONFIG) --source $(SOURCE) --build $(BUILD) --workers $(WORKERS)

train: $(READY) ## train the compact model on BUILD
	$(BIN)/wordweave train $(BUILD) --config $(TRAIN)

evaluate: $(READY) ## score the model of BUILD on the synthetic test sets
	$(BIN)/wordweave evaluate $(BUILD)

study: $(READY) ## the paper's main claim at small scale: STUDY=config/study/quick.toml (10 minutes) or full.toml (an hour)
	$(BIN)/wordweave study build/study --config $(STUDY) --workers $(WORKERS)

encoder: $(READY) ## remake the bundled encoder and its codebook in OUTPUT from SPEECH, VOICES and TEACHER (a directory); run again to resume
	@test -d "$(TEACHER)" || { echo "encoder: need TEACHER=directory of Whisper tiny.en in Hugging Face format" >&2; exit 2; }
	$(BIN)/wordweave fit encoder $(SPEECH)/unlabelled/manifest.jsonl $(SPEECH)/dev/manifest.jsonl $(SPEECH)/emotion/manifest.jsonl \
	  $(VOICES)/manifest.jsonl --config config/encoder/compact.toml --teacher $(TEACHER) --seed $(SEED) --output $(OUTPUT) --resume

voices: $(READY) ## synthetic speech of many voices in VOICES, for `make encoder`; needs hibari-tts and pyworld-prebuilt
	$(BIN)/python -m units.pretraining.voices $(VOICES) --seed 0

report: $(READY) ## report what became of every second of BUILD
	$(BIN)/wordweave report $(BUILD)

test: $(READY) ## fast tests (at most 5 minutes on two idle cores)
	$(BIN)/python -m pytest -q -n 2 --dist worksteal --durations=10 -m "not slow"

test-slow: $(READY) ## the slow tests: whole builds, crashes, memory (at most 15 minutes)
	$(BIN)/python -m pytest -q -n 2 --dist worksteal --durations=10 -m slow

golden: $(READY) ## remake the hashes under tests/data after a version was raised on purpose
	$(BIN)/python -m tests.golden

fuzz: $(READY) ## damaged inputs over every reader for SECONDS (300); findings are kept in build/fuzz
	$(BIN)/python -m tests.fuzz --seconds $(SECONDS)

lint: $(READY) ## format, style, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: $(READY) ## the documentation site, build/docs/index.html; a broken link is an error
	$(BIN)/python -m sphinx -q -W --keep-going -b html docs build/docs

check: lint test test-slow ## everything that CI runs

bench: $(READY) ## every benchmark, tables on stdout
	@for name in $(BENCHMARKS); do echo "== $$name"; $(BIN)/python -m benchmarks.$$name || exit 1; done

lock: ## update constraints.txt to the newest versions in the index; needs all three Pythons
	python3 .ci/lock.py python3.11 python3.12 python3.13

clean: ## remove builds and caches (not .venv)
	rm -rf build dist docs/reference *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

.PHONY: help setup demo corpus train evaluate study encoder voices report test test-slow golden fuzz lint docs check bench lock clean
