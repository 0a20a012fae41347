# The two commands of README are `make demo` and `make test`. Both make .venv when it is missing.
PYTHON ?= python3
BIN := .venv/bin
# Two processes. A file's tests stay together, for the models that they share; long files go first.
PYTEST := -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations=20
# XLA compiles in much less time without optimizing. JAX does so for every operation and shape.
XLA_QUICK := XLA_FLAGS="--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo peers test test-slow lint format notebooks venv test-backends test-jax test-torch \
	test-versions test-oldest test-between test-tpu-wheel docs release clean

demo: .venv/made
	$(BIN)/python -m training.train --config digits --run-dir runs/digits
	$(BIN)/python -m training.demo --run-dir runs/digits --min-top1 0.97

test: .venv/made
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(XLA_QUICK) $(BIN)/python $(PYTEST)

# What takes minutes: several processes that are killed, notebooks and whole runs. TURN=2/3 runs the
# second of three shares of them, and prints what it leaves out.
test-slow: .venv/made
	$(XLA_QUICK) $(BIN)/python $(PYTEST) -m slow $(if $(TURN),--turn $(TURN))

lint: .venv/made
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

format: .venv/made
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Executes colab/*.ipynb without a network, and saves what they show.
notebooks: .venv/made
	$(BIN)/python -m colab.run

venv: .venv/made

# What users of the other two backends of Keras do, each in its own environment: layers, models, parity, fit,
# save and load, attention maps, checkpoints, deploy.
test-backends: test-jax test-torch

BACKEND_TESTS := $(addprefix tests/keras_cvt/, \
	layers test_model_contract.py test_models.py test_parity.py test_fine_tuning.py test_conversion.py \
	test_include_preprocessing.py \
	weights/test_weights.py analysis/test_attention.py)

test-jax: .venv-jax/made
	KERAS_BACKEND=jax $(XLA_QUICK) .venv-jax/bin/python $(PYTEST) $(BACKEND_TESTS) \
		tests/keras_cvt/hub tests/keras_cvt/checkpoints/test_keras_h5.py \
		'tests/keras_cvt/test_deployment.py::test_logits_and_maps_are_the_official_ones[tiny-odd]' \
		tests/keras_cvt/test_deployment.py::test_predict

test-torch: .venv-torch/made
	KERAS_BACKEND=torch .venv-torch/bin/python $(PYTEST) $(BACKEND_TESTS) \
		$(addprefix tests/keras_cvt/, \
		test_training_step.py checkpoints weights test_deployment.py)

VERSION_TESTS := $(addprefix tests/, \
	$(addprefix keras_cvt/, layers weights test_models.py test_parity.py test_structure.py \
		test_deployment.py test_keras_internal.py test_backend.py) \
	$(addprefix training/, engine/test_step.py test_internal.py test_resuming.py \
		data/test_pipeline.py distribute))
# On two devices, and in two processes, which are slow tests.
VERSION_SLOW_TESTS := -m slow tests/training/distribute -k "two_"

# The oldest supported versions, and TensorFlow's TPU wheel on the CPU of a machine without a TPU.
test-versions: test-oldest test-between test-tpu-wheel

test-oldest: .venv-oldest/made
	$(XLA_QUICK) .venv-oldest/bin/python $(PYTEST) $(VERSION_TESTS) \
		$(addprefix tests/keras_cvt/export/, test_export.py test_saved_model.py test_litert.py \
		test_internal.py)
	$(XLA_QUICK) .venv-oldest/bin/python $(PYTEST) $(VERSION_SLOW_TESTS)

# What the oldest and the newest versions save, each for the other to read.
test-between: .venv/made .venv-oldest/made
	rm -rf build/between
	for by in .venv .venv-oldest; do \
		$(BETWEEN) $$by/bin/python tests/support/between_versions.py write build/between/of$$by \
			|| exit 1; \
	done
	$(BETWEEN) .venv-oldest/bin/python tests/support/between_versions.py read build/between/of.venv
	$(BETWEEN) .venv/bin/python tests/support/between_versions.py read build/between/of.venv-oldest

BETWEEN := PYTHONPATH=.:tests/support TF_CPP_MIN_LOG_LEVEL=3

# It would look for a TPU's metadata server, for minutes.
test-tpu-wheel: export TPU_SKIP_MDS_QUERY = 1
test-tpu-wheel: .venv-tpu/made
	.venv-tpu/bin/python $(PYTEST) $(VERSION_TESTS) tests/training/augment/test_mixing.py
	.venv-tpu/bin/python $(PYTEST) $(VERSION_SLOW_TESTS)

# The site in build/site. A broken link or a docstring of other arguments is an error.
docs: .venv-docs/made
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --quiet

# All that python -m benchmarks.* compares with.
peers: .venv/made .venv-torch/made .venv-jax/made

# `made` is written last: an installation that was cut off is done again.
.venv/made: setup.py constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python $(PIP_INSTALL) -e ".[tensorflow,train,search,hub,test,test-export,test-notebooks,ray]"
	touch $@

.venv-jax/made: setup.py constraints.txt
	$(PYTHON) -m venv .venv-jax
	.venv-jax/bin/python $(PIP_INSTALL) -e ".[jax,test]" $(HUB_NEEDS)
	.venv-jax/bin/python $(PIP_INSTALL) --no-deps keras-hub
	touch $@

# What KerasHub needs for images where there is no TensorFlow, which it would bring.
HUB_NEEDS := kagglehub kagglesdk regex rich sentencepiece tokenizers grain

.venv-torch/made: setup.py constraints.txt
	$(PYTHON) -m venv .venv-torch
	.venv-torch/bin/python $(PIP_INSTALL) -e ".[torch,test]" transformers
	touch $@

.venv-docs/made: setup.py constraints.txt
	$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python $(PIP_INSTALL) -e ".[docs]"
	touch $@

.venv-oldest/made: setup.py constraints-oldest.txt
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python $(subst constraints,constraints-oldest,$(PIP_INSTALL)) \
		-e ".[tensorflow,train,test,test-export]"
	touch $@

.venv-tpu/made: setup.py constraints-tpu.txt
	$(PYTHON) -m venv .venv-tpu
	.venv-tpu/bin/python $(subst constraints,constraints-tpu,$(PIP_INSTALL)) -e ".[tpu,train,test]"
	touch $@

# sdist and wheel in dist/, checked, and each installed in an environment of its own.
release:
	rm -rf dist build/release
	$(PYTHON) -m venv build/release/tools
	build/release/tools/bin/python $(PIP_INSTALL) build twine
	build/release/tools/bin/python -m build --outdir dist .
	build/release/tools/bin/twine check --strict dist/*
	for file in dist/*; do \
		$(PYTHON) -m venv --clear build/release/user && \
		build/release/user/bin/python $(PIP_INSTALL) "$$file" && \
		(cd build/release && user/bin/keras-cvt --version) || exit 1; \
	done

clean:
	rm -rf .venv .venv-jax .venv-torch .venv-oldest .venv-tpu .venv-docs build dist *.egg-info
