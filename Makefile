# `make` lists what there is. Every target that needs Python packages builds .venv first: 1 to 4 minutes, once.
#
# Variables:  PYTHON=python3.12         which Python builds .venv (3.11 or 3.12 are tested); to change it, delete .venv
#             PROFILE=laptop            scale of a run: smoke, laptop, gpu or paper
#             ARGS="--only 02"          more options for `dfflib reproduce`, pytest or JupyterLab
#             PIP_ARGS="..."            more options for pip, say an --extra-index-url with smaller builds of torch

PYTHON ?= python3
PROFILE ?= smoke
ARGS ?=
PIP_ARGS ?=

PY := .venv/bin/python
STAMP := .venv/.installed
PACKAGES := -c constraints.txt -e '.[dev]'
# The stamp is written last, and holds a checksum of what was asked for and where. So an installation that failed, was
# interrupted, was moved or is out of date is seen, while new time stamps alone (a git checkout) cost nothing.
WANTED := $(strip $(shell cat pyproject.toml constraints.txt | cksum) $(CURDIR))
FOUND := $(strip $(shell $(PY) -c "" 2>/dev/null && cat $(STAMP) 2>/dev/null))

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_ROOT_USER_ACTION := ignore
export WANTED

.DEFAULT_GOAL := help
.PHONY: reproduce test lab help format lint clean FORCE

reproduce: $(STAMP) ## run the notebooks, gather figures and tables in runs/PROFILE/index.html
	@$(PY) -m dfflib reproduce --profile $(PROFILE) $(ARGS)

test: $(STAMP) ## run the tests; ARGS="-k warp" runs some of them
	@$(PY) -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder $(ARGS)

lab: $(STAMP) ## open the notebooks in JupyterLab
	@$(PY) -m jupyterlab --notebook-dir=. $(ARGS)

help: ## list these targets
	@echo 'make TARGET [PROFILE=smoke|laptop|gpu|paper] [ARGS="..."] [PYTHON=python3.12]'
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  %-10s %s\n", $$1, $$2 }' Makefile

format: $(STAMP) ## format code and notebooks, sort imports
	@$(PY) -m ruff check --select I --fix --quiet .
	@$(PY) -m ruff format .

lint: $(STAMP) ## check code, notebooks and types, change nothing
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy

clean: ## delete runs/: executed notebooks, training, results
	@rm -rf runs

ifneq ($(FOUND),$(WANTED))
$(STAMP): FORCE
endif

# A .venv that never got its stamp may hold half-written packages, which pip takes for whole: it is built afresh.
# uv installs in half a minute what takes pip two, but knows nothing of pip's settings: where these name a registry, or uv
# fails for whatever reason, pip does it.
$(STAMP):
	@command -v $(PYTHON) >/dev/null || { \
	  echo "error: $(PYTHON) not found: install Python 3.11 or 3.12, or name yours: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null || { \
	  echo "error: $(PYTHON) is not Python 3.11 to 3.13: name one that is: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "error: $(PYTHON) lacks the venv module: install it (Debian, Ubuntu: apt install python3-venv)" >&2; exit 1; }
	@if test -f $@ && $(PY) -c ""; then rm $@; else $(PYTHON) -m venv --clear .venv; fi
	@echo "Installing PyTorch and the rest, about 6 GB on Linux (1 to 4 minutes)..."
	@$(if $(PIP_ARGS),false,! $(PY) -m pip config list | grep -qE '[.](index-url|no-index)=') \
	  && $(PY) -m pip install -qq -c constraints.txt uv 2>/dev/null \
	  && $(PY) -m uv pip install -q --python $(PY) $(PACKAGES) 2>/dev/null \
	  || $(PY) -m pip install -qq $(PIP_ARGS) $(PACKAGES) || { \
	  echo "error: the installation failed for the reason above: mend it, and the same command starts again" >&2; exit 1; }
	@printf '%s\n' "$$WANTED" > $@
