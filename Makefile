# make demo   install and audit the built-in model on the built-in phantom
# make test   install and run the tests
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
INSTALL := $(BIN)/uv pip install -q --python $(BIN)/python -c constraints.txt

.PHONY: demo test interop lowest slow coverage lint bench docs clean

$(BIN)/uv:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q uv

$(VENV)/.demo: $(BIN)/uv pyproject.toml plugins/robustkit-ct-bodysite/pyproject.toml
	$(INSTALL) -e . -e plugins/robustkit-ct-bodysite
	touch $@

$(VENV)/.test: $(BIN)/uv pyproject.toml constraints.txt plugins/robustkit-ct-bodysite/pyproject.toml
	$(INSTALL) -e '.[onnx,torch,keras,tensorflow,report,pdf,dicom-codecs,nifti,distributed,fsspec,test,browser,dev]' -e plugins/robustkit-ct-bodysite
	touch $@

demo: $(VENV)/.demo
	$(BIN)/robustkit audit ct-bodysite --noise nps -n 200 --out runs/demo

# axe-core judges the reports in the browser tests; without npm those tests are left out and say so
AXE := $(VENV)/axe/node_modules/axe-core/axe.min.js
ifneq ($(shell command -v npm),)
export ROBUSTKIT_AXE ?= $(abspath $(AXE))
$(VENV)/.axe: $(VENV)/.test
	-npm install --silent --no-audit --no-fund --prefix $(VENV)/axe axe-core@4 && touch $@
else
.PHONY: $(VENV)/.axe
endif

test: $(VENV)/.test $(VENV)/.axe
	$(BIN)/python -m pytest -m "not slow" -n 2 --dist loadgroup $(PYTEST_ARGS)

slow: $(VENV)/.test
	$(BIN)/python -m pytest -m slow $(PYTEST_ARGS)

# against the real packages, in an environment of their own; a skipped test fails
$(VENV)-interop/.done: $(BIN)/uv pyproject.toml constraints.txt
	$(BIN)/uv venv -q --clear --python $(PYTHON) $(VENV)-interop
	$(BIN)/uv pip install -q --python $(VENV)-interop/bin/python -c constraints.txt -e '.[maite,art,nrtk,test]' beartype
	touch $@

interop: $(VENV)-interop/.done
	ROBUSTKIT_INTEROP=1 $(VENV)-interop/bin/python -m pytest tests/interop -n 0 $(PYTEST_ARGS)

# the lowest versions that pyproject.toml allows, without extras
$(VENV)-lowest/.done: $(BIN)/uv pyproject.toml
	$(BIN)/uv venv -q --clear --python $(PYTHON) $(VENV)-lowest
	$(BIN)/uv pip install -q --python $(VENV)-lowest/bin/python --resolution lowest-direct -e '.[test]' -e plugins/robustkit-ct-bodysite
	touch $@

lowest: $(VENV)-lowest/.done
	$(VENV)-lowest/bin/python -m pytest tests -m "not slow and not browser" -W ignore::DeprecationWarning -n 2 --dist loadgroup $(PYTEST_ARGS)

# lines and branches that the quick tests run, in this process and those they start (a worker of xdist may be cut short)
coverage: $(VENV)/.test
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest tests -m "not slow" -n 0 $(PYTEST_ARGS)
	$(BIN)/coverage combine -q
	$(BIN)/coverage report

lint: $(VENV)/.test
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy robustkit plugins/robustkit-ct-bodysite/robustkit_ct_bodysite

$(VENV)/.docs: $(VENV)/.test
	$(INSTALL) -e '.[docs]'
	touch $@

# warnings are errors, and so is a link that leads nowhere
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build -q --strict

bench: $(VENV)/.test
	$(BIN)/python benchmarks/noise.py

clean:
	rm -rf $(VENV) $(VENV)-interop $(VENV)-lowest runs build dist site
