# make demo       set up, make a synthetic patient, run the application on it, show a summary
# make demo DATA=folder   the same on a folder of DICOM files
# make demo-real  the same on two studies of a real patient (OPEN_MS_DIR=folder, else downloaded)
# make image      the container image (ACCELERATOR=cuda13 for a GPU);  make image-test  build and test it
# make test       set up and run every test;  make check  lint and types;  make bench  timings
SHELL := /bin/bash
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
OUT ?= out
MODELS ?= models
PYTEST_ARGS ?=
DATA ?=
MAP_BASE ?=
MAP_TAG ?= ms-lesion-followup-map
export ACCELERATOR BASE TAG GPU_INDEX TENSORRT PIP_CONF CA_BUNDLE

.PHONY: demo demo-real test check bench setup setup-dev lock image image-test map-package clean

setup: $(VENV)/.setup
setup-dev: $(VENV)/.setup-dev

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.setup: requirements.txt constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet -r requirements.txt -c constraints.txt
	touch $@

$(VENV)/.setup-dev: requirements-dev.txt requirements-nodeps.txt $(VENV)/.setup
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet -r requirements-dev.txt -c constraints.txt
	$(BIN)/python -m pip install --quiet --no-deps -r requirements-nodeps.txt
	touch $@

demo: setup
	$(BIN)/python -m demo $(if $(DATA),--data "$(DATA)") --out "$(OUT)" --models "$(MODELS)"

demo-real: setup
	$(BIN)/python -m demo --real --out "$(OUT)" --models "$(MODELS)"

test: setup-dev
	$(BIN)/python -m pytest $(PYTEST_ARGS)

check: setup-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: setup-dev
	$(BIN)/python -m bench.header_scan
	$(BIN)/python -m bench.whole_run
	$(BIN)/python -m bench.ensemble

lock: setup-dev
	$(BIN)/python -m container.lock

image:
	container/build.sh

image-test: setup-dev
	container/image_test.sh

# MAP_BASE: the Dockerfile's stage "runtime", pushed to a registry (docs/container.md)
map-package: setup-dev
	container/map/package.sh "$(MAP_BASE)" "$(MAP_TAG)"

clean:
	rm -rf $(VENV) $(OUT)
