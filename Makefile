# make setup | setup-train | setup-cohort | demo | triton | readers | test | test-strict | system-test | check | lint-nextflow | docs | format | lock | schema | clean
#
# Everything is pinned in requirements/, with hashes. A stamp file stands for each finished step, so that a
# second call does only what changed.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.ONESHELL:

PYTHON ?= python3
VENV := .venv
TOOLS := .tools
DEMO := demo
# One worker more than cores, because tests wait for Nextflow and for servers; workers that finish early take over tests
# of the others.
PYTEST_ARGS ?= --numprocesses $(shell echo $$(($$(nproc) + 1))) --dist worksteal
UV := $(VENV)/bin/uv
NEXTFLOW := $(shell command -v nextflow || echo $(TOOLS)/bin/nextflow)

export PATH := $(CURDIR)/$(VENV)/bin:$(CURDIR)/$(TOOLS)/bin:$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# As pip does: trust what the machine trusts, also behind an inspecting proxy.
export UV_SYSTEM_CERTS := 1

.PHONY: help setup setup-train setup-cohort demo triton readers test test-strict system-test root-on-debian check lint-nextflow nf-test images try-images pin-images pinned-images address wheel publish-wheel docs format lock schema clean

help:
	@echo 'make setup   .venv/ with histocast, and .tools/bin/nextflow where PATH has no nextflow'
	echo 'make setup-train, make setup-cohort   what training, or cohorts and SpatialData, need besides'
	echo 'make demo    run the pipeline over a synthetic archive; results under demo/results/'
	echo '             TRITON=1 make demo: the same with graphs on an inference server'
	echo 'make triton  .tools/bin/tritonserver, an inference server for this machine, which the tests use'
	echo 'make readers .tools/readers and .tools/cellxgene, programs that open results, which the tests use'
	echo 'make test    the whole test suite'
	echo 'make system-test   containers, a Slurm cluster and a browser for real; root on Debian 12, installs what it needs'
	echo 'make check   style, types, layers, and whether generated files are current'
	echo 'make lint-nextflow   the pipeline under the linter of Nextflow 25.04'
	echo 'make test-strict     the pipeline under its strict parser: profiles, parameters and a whole run'
	echo 'make nf-test modules and workflows, where PATH has nf-test'
	echo 'make images  containers of the tasks, with docker, podman or buildah'
	echo 'make docs    the documentation as a site, under .site/'
	echo 'make format  fix style'
	echo 'make lock    choose new versions for requirements/'
	echo 'make schema  write nextflow_schema.json again'
	echo 'make clean   remove what make demo made'

# --- Environment

setup: $(VENV)/.histocast.stamp $(NEXTFLOW)

setup-train: $(VENV)/.train.stamp $(NEXTFLOW)

# With SpatialData.
setup-cohort: $(VENV)/.cohort.stamp $(NEXTFLOW)

$(VENV)/.build.stamp: requirements/build.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "histocast needs Python 3.11 or later; say which: make PYTHON=python3.12 ...")'
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --require-hashes -r requirements/build.lock
	touch $@

$(VENV)/.client.stamp: requirements/client.lock $(VENV)/.build.stamp
	@echo 'installing what prediction needs'
	# Compiled now, because each task of a pipeline is a new process and would otherwise pay for it.
	$(UV) pip install --quiet --compile-bytecode --python $(VENV) --require-hashes -r requirements/client.lock
	touch $@

$(VENV)/.histocast.stamp: pyproject.toml $(VENV)/.client.stamp
	@$(UV) pip install --quiet --python $(VENV) --no-deps --no-build-isolation --editable .
	touch $@

$(VENV)/.train.stamp: requirements/train.lock $(VENV)/.histocast.stamp
	@echo 'installing what training needs'
	$(UV) pip install --quiet --compile-bytecode --python $(VENV) --require-hashes -r requirements/train.lock
	touch $@

$(VENV)/.cohort.stamp: requirements/cohort.lock $(VENV)/.histocast.stamp
	@echo 'installing what cohorts and SpatialData need'
	$(UV) pip install --quiet --compile-bytecode --python $(VENV) --require-hashes -r requirements/cohort.lock
	touch $@

$(VENV)/.dev.stamp: requirements/dev.lock $(VENV)/.histocast.stamp
	@echo 'installing what training and tests need'
	$(UV) pip install --quiet --python $(VENV) --require-hashes -r requirements/dev.lock
	touch $@

$(TOOLS)/bin/nextflow: requirements/nextflow/pom.xml requirements/nextflow/nextflow.sha256 requirements/nextflow/nextflow
	@echo 'PATH has no nextflow: bringing one from Maven'
	rm -rf $(TOOLS)/nextflow
	mvn --quiet --batch-mode --file requirements/nextflow/pom.xml dependency:copy-dependencies \
	    -DincludeScope=runtime -DoutputDirectory=$(CURDIR)/$(TOOLS)/nextflow
	(cd $(TOOLS)/nextflow && sha256sum --quiet --strict --check) < requirements/nextflow/nextflow.sha256
	install -D -m 755 requirements/nextflow/nextflow $@

# A second one, whose linter and strict parser check the pipeline.
STRICT := $(TOOLS)/strict

$(STRICT)/bin/nextflow: requirements/nextflow/strict/pom.xml requirements/nextflow/strict/nextflow.sha256 requirements/nextflow/nextflow
	@echo 'bringing the Nextflow with the strict parser from Maven'
	rm -rf $(STRICT)
	mvn --quiet --batch-mode --file requirements/nextflow/strict/pom.xml dependency:copy-dependencies \
	    -DincludeScope=runtime -DoutputDirectory=$(CURDIR)/$(STRICT)/nextflow
	(cd $(STRICT)/nextflow && sha256sum --quiet --strict --check) < requirements/nextflow/strict/nextflow.sha256
	install -D -m 755 requirements/nextflow/nextflow $@

triton: $(TOOLS)/triton/.stamp

# What opens results, for tests alone.
readers: $(TOOLS)/readers/.stamp $(TOOLS)/cellxgene/.stamp

$(TOOLS)/readers/.stamp $(TOOLS)/cellxgene/.stamp: $(TOOLS)/%/.stamp: requirements/%.lock $(VENV)/.build.stamp
	@echo 'installing what opens results: $*'
	rm -rf $(TOOLS)/$*
	$(UV) venv --quiet --python $(VENV)/bin/python $(TOOLS)/$*
	$(UV) pip install --quiet --compile-bytecode --python $(TOOLS)/$* --require-hashes -r requirements/$*.lock
	touch $@

$(TOOLS)/triton/.stamp: requirements/triton.lock requirements/tritonserver $(VENV)/.build.stamp
	@echo 'bringing an inference server from PyPI'
	$(UV) venv --quiet --clear --python $(VENV)/bin/python $(TOOLS)/triton
	$(UV) pip install --quiet --python $(TOOLS)/triton --require-hashes -r requirements/triton.lock
	read -r packages version < <($(TOOLS)/triton/bin/python -c \
	    'import sys, sysconfig; print(sysconfig.get_path("purelib"), "%d.%d" % sys.version_info[:2])')
	# The stub runs models in this version of Python; the wheel leaves out that it is a program.
	mkdir -p $(TOOLS)/triton/backends
	cp -r "$$packages/pytriton/tritonserver/backends/python" $(TOOLS)/triton/backends/
	install -m 755 "$$packages/pytriton/tritonserver/python_backend_stubs/$$version/triton_python_backend_stub" \
	    $(TOOLS)/triton/backends/python/
	install -D -m 755 requirements/tritonserver $(TOOLS)/bin/tritonserver
	touch $@

# --- Demo

$(DEMO)/archive/samplesheet.csv: $(VENV)/.histocast.stamp
	@test -f $@ || python -m histocast_demo data --outdir $(DEMO)/archive
	touch $@

$(DEMO)/training/training.csv: $(VENV)/.histocast.stamp
	@test -f $@ || python -m histocast_demo data --training --outdir $(DEMO)/training
	touch $@

# With TRITON=1 the graphs run on an inference server that this recipe starts and stops.
demo: setup $(DEMO)/archive/samplesheet.csv $(if $(TRITON),$(TOOLS)/triton/.stamp)
	@rm -rf $(DEMO)/work $(DEMO)/results $(DEMO)/models
	[ -t 1 ] && lively=true || lively=false
	server=()
	if [ -n '$(TRITON)' ]; then
	    histocast repository --bundle assets/demo-bundle --outdir $(DEMO)/models --backend python --threads "$$(nproc)"
	    port=$$(python -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])')
	    histocast serve --models $(DEMO)/models --grpc "127.0.0.1:$$port" > $(DEMO)/tritonserver.log 2>&1 &
	    trap "kill $$!" EXIT
	    server=(--triton_url "grpc://127.0.0.1:$$port")
	fi
	nextflow -log $(DEMO)/nextflow.log run . -ansi-log $$lively -profile demo "$${server[@]}" \
	    --outdir $(DEMO)/results -work-dir $(DEMO)/work
	echo
	echo 'Results:'
	find $(DEMO)/results -type f | sort | sed 's/^/  /'
	echo
	echo 'How well the predictions meet the hidden truth of the demo archive:'
	python -m histocast_demo score --archive $(DEMO)/archive --results $(DEMO)/results

clean:
	rm -rf $(DEMO)/work $(DEMO)/results $(DEMO)/archive $(DEMO)/training $(DEMO)/models $(DEMO)/*.log*

# --- Quality

test: $(VENV)/.dev.stamp $(NEXTFLOW) $(TOOLS)/triton/.stamp readers
	python -m pytest $(PYTEST_ARGS)

# What depends on how Nextflow reads the pipeline, once more where it reads strictly.
STRICT_TESTS := tests/pipeline/test_wiring.py tests/pipeline/test_parameters.py \
    tests/pipeline/test_predict_workflow.py::test_a_bad_slide_is_accounted_for_and_resuming_recomputes_only_what_changed

test-strict: $(VENV)/.dev.stamp $(STRICT)/bin/nextflow
	@export PATH=$(CURDIR)/$(STRICT)/bin:$$PATH NXF_SYNTAX_PARSER=v2
	python -m pytest $(PYTEST_ARGS) $(STRICT_TESTS)

# Real containers, a cluster of one node that the tests start on loopback and stop again, and pages in a real browser.
SYSTEM_PACKAGES := podman buildah runc mmdebstrap slurm-wlm munge procps chromium chromium-driver

system-test: root-on-debian $(VENV)/.dev.stamp $(NEXTFLOW)
	@export DEBIAN_FRONTEND=noninteractive
	apt-get update --quiet=2
	apt-get install --quiet=2 --yes --no-install-recommends $(SYSTEM_PACKAGES)
	python -m pytest --durations=0 tests/system

root-on-debian:
	@if [ "$$(id -u)" != 0 ] || ! (. /etc/os-release && [ "$$ID $$VERSION_ID" = 'debian 12' ]); then
	    echo 'make system-test: this is not root on Debian 12, where it can install podman, Slurm and Chromium' >&2
	    exit 1
	fi

check: $(VENV)/.dev.stamp
	ruff check .
	ruff format --check .
	mypy
	mypy --config-file tests/mypy.ini tests
	lint-imports
	@python -m histocast.parameters | diff - nextflow_schema.json && \
	    python -m histocast.parameters --config | diff - conf/parameters.config || \
	    { echo 'nextflow_schema.json or conf/parameters.config is not current: make schema' >&2; exit 1; }

lint-nextflow: $(STRICT)/bin/nextflow
	@$(STRICT)/bin/nextflow lint main.nf modules conf nextflow.config tests/nf/nextflow.config

# The same claims as tests/pipeline, a module at a time, for those who have nf-test; `make test` needs it not.
nf-test: $(VENV)/.dev.stamp $(NEXTFLOW) $(DEMO)/archive/samplesheet.csv $(DEMO)/training/training.csv
	nf-test test $(NF_TEST_ARGS)

# --- Containers

# The first engine that answers: a docker without its daemon does not.
ENGINE ?= $(shell for engine in docker podman buildah; do \
    if command -v $$engine && $$engine info; then echo "engine: $$engine"; break; fi; done 2> /dev/null | sed -n 's/^engine: //p')
VERSION = $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' python/histocast/__init__.py)
REVISION = $(shell git rev-parse HEAD 2> /dev/null || echo unknown)
# Also: client-gpu, cohort, triton.
IMAGES ?= client train

images:
	@engine='$(ENGINE)'
	test -n "$$engine" || { echo 'no docker, podman or buildah here that can build' >&2; exit 1; }
	for image in $(IMAGES); do
	    runtime=onnxruntime
	    if [ "$$image" = client-gpu ]; then runtime=onnxruntime-gpu; fi
	    echo "building localhost/histocast/$$image:$(VERSION) with $$engine"
	    $$engine build --file containers/Dockerfile --target "$${image%-gpu}" --build-arg RUNTIME="$$runtime" \
	        --label org.opencontainers.image.version=$(VERSION) --label org.opencontainers.image.revision=$(REVISION) \
	        --tag localhost/histocast/$$image:$(VERSION) $(BUILD_ARGS) .
	done

# Starts them as schedulers do. With docker or podman: buildah alone runs no image.
try-images:
	@for image in $(IMAGES); do containers/try-image '$(ENGINE)' localhost/histocast/$$image:$(VERSION); done

# The tags of base images are resolved again, and written with the digest they have now.
pin-images:
	@for name in $$(sed -n 's/^ARG \([A-Z]*\)=.*\/.*:.*/\1/p' containers/Dockerfile); do
	    image=$$(sed -n "s/^ARG $$name=\([^@]*\).*/\1/p" containers/Dockerfile)
	    digest=$$(docker buildx imagetools inspect --format '{{.Manifest.Digest}}' "$$image")
	    [[ $$digest =~ ^sha256:[0-9a-f]{64}$$ ]] || { echo "no digest of $$image: '$$digest'" >&2; exit 1; }
	    sed -i "s|^ARG $$name=.*|ARG $$name=$$image@$$digest|" containers/Dockerfile
	    echo "$$image@$$digest"
	done

# What a release calls first.
pinned-images:
	@! sed -n 's/^ARG [A-Z]*=\(.*\/.*:.*\)/\1/p' containers/Dockerfile | grep --invert-match '@sha256:[0-9a-f]\{64\}$$' || \
	    { echo 'a base image of containers/Dockerfile has no digest: make pin-images' >&2; exit 1; }

# --- Release (.github/workflows/release.yml)

wheel: $(VENV)/.build.stamp
	@rm -rf dist
	$(VENV)/bin/python -m hatchling build --target wheel --directory dist

# Where the project is published, written once it is known: a release refuses to be made without it.
address:
	@[[ '$(ADDRESS)' =~ ^https://[a-zA-Z0-9./_-]+$$ ]] || { echo 'make address ADDRESS=https://...'; exit 64; }
	sed -i "/^    homePage = /d; s|^    mainScript = |    homePage = '$(ADDRESS)'\n&|" nextflow.config
	sed -i "/^repository-code: /d; s|^license: |repository-code: $(ADDRESS)\n&|" CITATION.cff
	sed -i "/^\[project.urls\]/,+2d; s|^\[project.scripts\]|[project.urls]\nRepository = \"$(ADDRESS)\"\n\n&|" pyproject.toml

# As the workflow that runs this, whose identity PyPI trusts: there is no password.
publish-wheel: $(VENV)/.build.stamp
	@$(UV) publish --trusted-publishing always $(WHEEL)

# --- Style

docs: $(VENV)/.dev.stamp
	@NO_MKDOCS_2_WARNING=1 PYTHONPATH=python $(VENV)/bin/mkdocs build --strict --quiet
	echo 'open .site/index.html, or: mkdocs serve'

format: $(VENV)/.dev.stamp
	ruff check --fix .
	ruff format .

schema: $(VENV)/.histocast.stamp
	python -m histocast.parameters > nextflow_schema.json
	python -m histocast.parameters --config > conf/parameters.config

# --- Versions. Locks name versions and hashes, and no registry.

COMPILE = $(UV) pip compile --quiet --upgrade --python-version 3.11 --generate-hashes --no-header \
    --no-annotate --no-emit-index-url --no-emit-find-links

lock: $(VENV)/.build.stamp
	$(COMPILE) pyproject.toml --extra train --extra cohort --extra genes --group dev --output-file requirements/dev.lock
	$(COMPILE) pyproject.toml --extra train --constraint requirements/dev.lock --output-file requirements/train.lock
	# SpatialData brings a client of S3 that needs an older botocore than ours; squidpy needs an older imagecodecs.
	$(COMPILE) pyproject.toml --extra cohort --extra spatialdata --output-file requirements/cohort.lock \
	    --constraint <(grep --extended-regexp '^[a-z].*==' requirements/dev.lock | tr --delete '\\' | grep --invert-match '^boto')
	$(COMPILE) pyproject.toml --extra cohort --extra spatialdata requirements/readers.in --output-file requirements/readers.lock \
	    --constraint <(grep --extended-regexp '^[a-z].*==' requirements/cohort.lock | tr --delete '\\' | grep --invert-match '^imagecodecs')
	$(COMPILE) requirements/cellxgene.in --output-file requirements/cellxgene.lock
	$(COMPILE) pyproject.toml --constraint requirements/dev.lock --output-file requirements/client.lock
	$(COMPILE) requirements/build.in --constraint requirements/dev.lock --output-file requirements/build.lock
	$(COMPILE) requirements/triton.in --output-file requirements/triton.lock
	$(COMPILE) requirements/onnxruntime-gpu.in --constraint requirements/train.lock \
	    --output-file requirements/onnxruntime-gpu.lock
	rm -rf $(TOOLS)/nextflow
	mvn --quiet --batch-mode --file requirements/nextflow/pom.xml dependency:copy-dependencies \
	    -DincludeScope=runtime -DoutputDirectory=$(CURDIR)/$(TOOLS)/nextflow
	(cd $(TOOLS)/nextflow && sha256sum *.jar) > requirements/nextflow/nextflow.sha256
	rm -rf $(STRICT)
	mvn --quiet --batch-mode --file requirements/nextflow/strict/pom.xml dependency:copy-dependencies \
	    -DincludeScope=runtime -DoutputDirectory=$(CURDIR)/$(STRICT)/nextflow
	(cd $(STRICT)/nextflow && sha256sum *.jar) > requirements/nextflow/strict/nextflow.sha256
