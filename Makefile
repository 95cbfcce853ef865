# The few verbs. CI and the README call these and nothing else.
VENV := .venv
PYTHON := $(VENV)/bin/python
# uv must use the machine's Python and not fetch one.
export UV_PYTHON_DOWNLOADS := never
# An import of TensorFlow that finds no bytecode takes twice the time, and many processes import it.
unexport PYTHONDONTWRITEBYTECODE
SBOM := out/sbom
IMAGES := prepare train eval emulator
# That of the images' base, where PYTHON_IMAGE gives it; the emulator has no base.
DIGEST = $(if $(findstring @,$(PYTHON_IMAGE)),$(lastword $(subst @, ,$(PYTHON_IMAGE))))
LOCKED := prepare train gpu eval submit dev
LOCKED_GROUPS := build emulator
COMPILE = $(VENV)/bin/uv pip compile --quiet --universal --generate-hashes --no-header $(if $(UPGRADE),--upgrade)

.PHONY: install demo watch test coverage check soak foreign bench results e2e generate image sbom lock clean
install: $(VENV)/installed

$(VENV)/installed: requirements/dev.txt requirements/uv.txt pyproject.toml
	@python3 -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' || \
	  { echo "Boceto needs Python 3.11, 3.12 or 3.13 as python3; this is $$(python3 --version)"; exit 1; }
	python3 -m venv $(VENV)
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.txt
	$(VENV)/bin/uv pip install --quiet --python $(PYTHON) --require-hashes -r requirements/dev.txt
	$(VENV)/bin/uv pip install --quiet --python $(PYTHON) --no-deps --no-build-isolation --editable .
	touch $@

demo: install  ## The main job on synthetic drawings; FRESH=1 starts afresh.
	$(PYTHON) -m boceto demo $(if $(FRESH),--fresh)

watch: install $(VENV)/bin/prometheus  ## The demo beside a Prometheus, with a page to look at; PORT (9090).
	$(PYTHON) k8s/prometheus/watch.py

# With Kubernetes's discovery, which Debian's lacks: a program of some ten minutes' building, for e2e alone.
$(VENV)/bin/prometheus-kubernetes: | $(VENV)/installed
	k8s/prometheus/build.sh $@

$(VENV)/bin/prometheus: | $(VENV)/installed
	k8s/prometheus/install.sh $(VENV)/bin

test: install $(VENV)/bin/prometheus  ## All tests, on all cores.
	$(PYTHON) -m pytest -n logical --dist worksteal

coverage: install $(VENV)/bin/prometheus  ## The same, and which lines no test reaches.
	$(PYTHON) -m pytest -n logical --dist worksteal --cov --cov-report=term

check: install  ## Lint, format and types.
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

soak: install  ## Kills real training runs of NET (sknet) at random, KILLS (50) times, and compares what they end with.
	$(PYTHON) tests/soak.py --kills $(or $(KILLS),50) $(if $(NET),--net $(NET)) $(if $(SEED),--seed $(SEED))

foreign: install  ## Loads an export in older TensorFlows and in ONNX Runtime, in environments of their own: some GB, some minutes.
	$(PYTHON) tests/foreign.py

bench: install  ## What docs/benchmarks.md shows: make bench INPUT=folder of QuickDraw files.
	$(PYTHON) benchmarks/all.py --input $(INPUT)

results: install  ## Every net on one set of drawings, into docs/results.md: make results INPUT=folder of QuickDraw files. Run again, it goes on.
	$(PYTHON) benchmarks/results.py --input $(INPUT) $(if $(WORK),--work $(WORK))

e2e: install $(VENV)/bin/prometheus-kubernetes  ## Scenarios on the cluster of the kubeconfig, with the images of TAG (dev) where it finds them; ONLY=1,4 for some.
	PYTHONPATH=tests:k8s/prometheus $(PYTHON) tests/e2e/run.py --tag $(or $(TAG),dev) $(if $(ONLY),--only $(ONLY))

generate: install  ## Dashboards, the operator's rules and the tables of docs/monitoring.md, made anew from the code.
	$(PYTHON) k8s/prometheus/generate.py

image:  ## The images boceto-prepare, -train, -eval and -emulator, with TAG (dev); ACCELERATOR=gpu for GPUs, PYTHON_IMAGE to pin the base, as RELEASE=1 demands.
	@test -z "$(RELEASE)" -o -n "$(DIGEST)" || { echo "RELEASE=1: PYTHON_IMAGE = '$(PYTHON_IMAGE)' has no digest; give \
	PYTHON_IMAGE=python:3.11-slim@sha256:…, as \`docker buildx imagetools inspect python:3.11-slim\` says it"; exit 2; }
	for target in $(IMAGES); do DOCKER_BUILDKIT=1 docker build --target $$target --tag boceto-$$target:$(or $(TAG),dev) \
	  --build-arg VERSION="$$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)" --build-arg REVISION="$$(git rev-parse HEAD)" \
	  --build-arg CREATED="$$(date -u +%Y-%m-%dT%H:%M:%SZ)" \
	  $(if $(ACCELERATOR),--build-arg ACCELERATOR=$(ACCELERATOR)) $(if $(PYTHON_IMAGE),--build-arg PYTHON=$(PYTHON_IMAGE)) \
	  $(if $(DIGEST),$$(test $$target = emulator || echo --label org.opencontainers.image.base.digest=$(DIGEST))) \
	  . || exit 1; done

sbom: install  ## What each image holds, as CycloneDX, from its lock: out/sbom/, or the folder SBOM.
	mkdir -p $(SBOM)
	for lock in prepare train gpu eval; do \
	  $(VENV)/bin/uv pip compile --quiet --no-deps --python-platform linux --generate-hashes --no-header requirements/$$lock.txt | \
	  $(VENV)/bin/python -W ignore -m cyclonedx_py requirements - --pyproject pyproject.toml --output-reproducible --output-file $(SBOM)/$$lock.cdx.json \
	  || exit 1; done

lock: install  ## Makes requirements/ anew from pyproject.toml.
	for extra in $(LOCKED); do $(COMPILE) --extra $$extra pyproject.toml --output-file requirements/$$extra.txt || exit 1; done
	for group in $(LOCKED_GROUPS); do $(COMPILE) --group $$group --output-file requirements/$$group.txt || exit 1; done
	grep -A100 '^uv==' requirements/dev.txt | sed '/^    # via/,$$d' > requirements/uv.txt

clean:  ## Everything that the verbs made.
	rm -rf $(VENV) demo .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage
