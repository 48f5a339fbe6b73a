# make demo     write sample checkpoints, look into five of them, and verify one
# make test     the fast tests
# make check    format, lint, types, layers, and every test but cuda, real and fuzz
# make fuzz     long random search for a file that breaks a reader
# make docs     the pages as a site, in build/site
# make pictures draw the pictures of the terminal anew
# make bench    ratios against cp, cmp and torch
# make venv     the virtual environment that all of these use
# make clean    remove what these made (the environment too)

PYTHON ?= python3
VENV ?= .venv
# Further arguments for pytest: make test PYTEST_ARGS="-k sharded -x"
PYTEST_ARGS ?=

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO := build/demo
PYTEST := $(BIN)/python -m pytest -n auto

.DEFAULT_GOAL := test
.PHONY: venv demo test check format lint types layers fuzz bench docs pictures clean

venv: $(STAMP)

# torch first and alone, so that it comes from whichever index this machine has for it (a CPU wheel, where there is
# one), and all else is resolved against it.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev,docs]'
	touch $@

demo: venv
	@$(BIN)/python -m sample_models.write_demo $(DEMO)
	@for name in conv_buffers.pt decoder_training.pt swin_ddp_compiled.pt batch_norms_whole_module.pt sharded; do \
	    printf '\n$$ ckpttool inspect %s\n' "$(DEMO)/$$name"; \
	    $(BIN)/ckpttool inspect "$(DEMO)/$$name" || exit $$?; \
	done
	@set -- "$(DEMO)/swin_ddp_compiled.pt" --model sample_models.swin_window_attention:build; \
	    printf '\n$$ ckpttool verify %s\n' "$$*"; $(BIN)/ckpttool verify "$$@"
	@cd $(DEMO) && run() { printf '\n$$ ckpttool %s\n' "$$*"; $(abspath $(BIN))/ckpttool "$$@"; }; \
	    run convert tied.pt there.safetensors --force && run convert there.safetensors back.pt --force && \
	    run diff tied.pt back.pt
	@printf '\n$$ ckpttool diff %s %s\n' "$(DEMO)/base.pt" "$(DEMO)/tuned.safetensors"; \
	    $(BIN)/ckpttool diff "$(DEMO)/base.pt" "$(DEMO)/tuned.safetensors"; test $$? -eq 1 # they differ

# Tests for a CUDA device or for published files skip by themselves, and say why.
test: venv
	$(PYTEST) -m "not slow and not fuzz" $(PYTEST_ARGS)

check: format lint types layers
	$(PYTEST) -m "not cuda and not real and not fuzz" $(PYTEST_ARGS)

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

bench: venv
	$(BIN)/python -m benchmarks

docs: venv
	$(BIN)/python -m mkdocs build --strict --quiet

pictures: venv
	$(BIN)/python -m tools.pictures

clean:
	rm -rf $(VENV) build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find ckpttool sample_models tests tools benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
