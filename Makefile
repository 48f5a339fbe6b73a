# make demo     write sample checkpoints, look into one, and say what to type next
# make test     the fast tests
# make check    format, lint, types, layers, and every test but cuda, real and fuzz
# make anywhere the fast tests in fresh clones, each in other surroundings: two hours
# make mutants  small faults put into the sources one by one: do the tests see them? see docs/releasing.md; hours
# make coverage the branches that the tests take
# make fuzz     long random search for a file that breaks a reader
# make fuzz-atheris FUZZ_SECONDS=3600   the same by coverage, with atheris in an environment of its own
# make docs     the pages as a site, in build/site
# make pictures draw the pictures of the terminal anew
# make bench    ratios against cp, cmp, torch and other tools: 45 minutes, 13 GB below $TMPDIR
# make cuda     on a machine with a GPU: its tests and figures, in 8 minutes: make cuda PYTHON=python3
# make compat   old torch releases and other Pythons: see docs/compatibility.md; an hour, 10 GB of downloads
# make scanners picklescan, fickling and modelscan on the hostile corpus: see docs/security.md; half an hour
# make dist     wheel and sdist into dist/, built twice and compared
# make audit    known vulnerabilities of what is pinned; needs the internet
# make sbom     what the environment holds, as CycloneDX, into build/sbom.json
# make venv     the virtual environment that all of these use
# make clean    remove what these made (the environment too)

PYTHON ?= python3
VENV ?= .venv
# Further arguments for pytest: make test PYTEST_ARGS="-k sharded -x"
PYTEST_ARGS ?=
# Further arguments for the benchmarks: make bench BENCH_ARGS="--dir /mnt"
BENCH_ARGS ?=

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO := build/demo
PYTEST := $(BIN)/python -m pytest -n auto

.DEFAULT_GOAL := test
.PHONY: venv demo test check anywhere mutants coverage format lint types layers fuzz fuzz-atheris bench docs pictures \
    cuda compat scanners dist audit sbom clean

venv: $(STAMP)

# torch first and alone, so that it comes from whichever index this machine has for it (a CPU wheel, where there is
# one), and all else is resolved against it. Constraints do not reach into pip's isolated builds: hatchling, pinned,
# is installed before it is used.
$(STAMP): pyproject.toml constraints.txt
	@echo "installing torch, ckpttool and what tests it into $(VENV), once: a minute or two"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet -c constraints.txt "$$(grep '^torch==' constraints.txt)"
	@$(BIN)/python -m pip install --quiet -c constraints.txt hatchling editables
	@$(BIN)/python -m pip install --quiet -c constraints.txt --no-build-isolation -e '.[dev,docs]'
	@touch $@

demo: venv
	@echo "writing sample checkpoints into $(DEMO)"
	@$(BIN)/python -m sample_models.write_demo $(DEMO)
	@printf '\n$$ ckpttool inspect $(DEMO)/swin.pt\n'
	@$(BIN)/ckpttool inspect $(DEMO)/swin.pt
	@printf '\nWhat to type next:\n\n  source $(VENV)/bin/activate; cd $(DEMO)\n\n'
	@$(BIN)/python -m sample_models.write_demo --next

# Tests for a CUDA device or for published files skip by themselves, and say why.
test: venv
	$(PYTEST) -m "not slow and not fuzz" $(PYTEST_ARGS)

check: format lint types layers
	$(PYTEST) -m "not cuda and not real and not fuzz" $(PYTEST_ARGS)

# Some of the surroundings only: make anywhere ANYWHERE_ARGS="'other user' 'umask 077'"
anywhere: venv
	$(BIN)/python -m tools.anywhere $(ANYWHERE_ARGS)

# The same 200 faults in each run, or those of some modules: make mutants MUTANTS_ARGS="--sample 200 formats.validate"
mutants: venv
	$(BIN)/python -m tools.mutants $(MUTANTS_ARGS)

# Processes that tests start are measured too.
coverage: venv
	$(BIN)/python -m coverage run -m pytest -m "not cuda and not real and not fuzz" $(PYTEST_ARGS)
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report

format: venv
	$(BIN)/ruff format --check .

lint: venv
	$(BIN)/ruff check .

types: venv
	$(BIN)/mypy --strict

layers: venv
	$(BIN)/lint-imports

fuzz: venv
	$(PYTEST) -m fuzz --hypothesis-profile=fuzz $(PYTEST_ARGS)

# See fuzz/README.md. The environment has no torch, and no pytest.
FUZZ_SECONDS ?= 600
FUZZ_VENV ?= build/fuzz-venv
FUZZ_CORPUS ?= build/fuzz-corpus
FUZZ_FINDS ?= build/fuzz-finds
FUZZ_PYTHON ?= $(PYTHON)

$(FUZZ_VENV)/.installed: fuzz/requirements.txt
	test -x $(FUZZ_VENV)/bin/python || $(FUZZ_PYTHON) -m venv $(FUZZ_VENV)
	$(FUZZ_VENV)/bin/python -m pip install --quiet -c constraints.txt -r fuzz/requirements.txt
	touch $@

fuzz-atheris: $(FUZZ_VENV)/.installed
	$(FUZZ_VENV)/bin/python -m fuzz.write_corpus $(FUZZ_CORPUS) $(FUZZ_CORPUS).dict
	$(FUZZ_VENV)/bin/python -m fuzz.fuzz_read --finds $(FUZZ_FINDS) $(FUZZ_CORPUS) -dict=$(FUZZ_CORPUS).dict \
	    -max_total_time=$(FUZZ_SECONDS) -max_len=16384 -len_control=0 -timeout=900 -print_final_stats=1
	@ls $(FUZZ_FINDS)

bench: venv
	$(BIN)/python -m benchmarks --peers build/peers --json build/benchmarks.json $(BENCH_ARGS)

docs: venv
	$(BIN)/python -m mkdocs build --strict --quiet

pictures: venv
	$(BIN)/python -m tools.pictures

# With whatever torch is there, for a wheel for CUDA is another one than that of the environment. Wanted besides:
# safetensors, typer, rich, pytest, hypothesis. Other sizes: make cuda CUDA_ARGS="--gib 4 --folder /mnt"
cuda:
	$(PYTHON) -m benchmarks.cuda $(CUDA_ARGS)

# Arguments for both scripts: make compat COMPAT_ARGS="--python /opt/python3.8/bin/python3.8"
compat: venv
	$(BIN)/python -m compatibility.suite $(COMPAT_ARGS)
	$(BIN)/python -m compatibility.releases $(COMPAT_ARGS)

scanners: venv
	$(BIN)/python -m benchmarks.scanners

dist: venv
	$(BIN)/python -m tools.distributions dist

# In an environment of their own: neither tool may decide what versions ours has.
RELEASE_VENV ?= build/release-venv
RELEASE_TOOLS := pip-audit==2.10.1 cyclonedx-bom==7.5.0

$(RELEASE_VENV)/.installed: Makefile
	test -x $(RELEASE_VENV)/bin/python || $(PYTHON) -m venv $(RELEASE_VENV)
	$(RELEASE_VENV)/bin/python -m pip install --quiet $(RELEASE_TOOLS)
	touch $@

# --strict: where the service cannot be asked about a package, that is a failure and not a clean bill.
audit: $(RELEASE_VENV)/.installed
	$(RELEASE_VENV)/bin/pip-audit --strict --no-deps --disable-pip --requirement constraints.txt $(AUDIT_ARGS)

sbom: venv $(RELEASE_VENV)/.installed
	@mkdir -p build
	SOURCE_DATE_EPOCH="$$(git log -1 --format=%ct)" $(RELEASE_VENV)/bin/cyclonedx-py environment \
	    $(BIN)/python --pyproject pyproject.toml --output-reproducible --output-file build/sbom.json

clean:
	rm -rf $(VENV) build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find ckpttool sample_models tests tools benchmarks compatibility -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
