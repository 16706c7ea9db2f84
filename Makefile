# django_sse: `make` alone says what there is.

PYTHON ?= python3
VENV ?= .venv
COMPAT_VENV ?= .venv-compat
PORT ?= 8000
ARGS ?=
WORKERS ?= 3

BIN := $(VENV)/bin
# `$(call install,environment,packages)`: with uv where UV names it, and with pip else, or where uv
# cannot do it, because an index is known to pip alone, for example.
install = $(if $(UV),$(UV) pip install --quiet --python $(1)/bin/python $(2) ||) \
	$(1)/bin/python -m pip install --quiet --disable-pip-version-check --no-input $(2)
EXTRAS := .[daphne,redis,openapi]

# Tests start hundreds of processes. Without bytecode, each compiles the package anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo test check bench compat docs screenshots client clean

help: ## say what there is
	@echo "make demo    serve the demo shop with Daphne on http://127.0.0.1:$(PORT)/"
	@echo "make test    run the tests, and show what they cover (ARGS=… goes to pytest)"
	@echo "make check   lint, formatting, types, the direction of imports, Django's checks, missing migrations"
	@echo "make bench   measure beside a bare ASGI application"
	@echo "make compat  try streams beside other packages, in $(COMPAT_VENV) (ARGS=sentry: rows with that in their name)"
	@echo "make docs    build the documentation as a site, in dist/site (make screenshots renews its pictures)"
	@echo "make client  build the browsers' client anew from its source"
	@echo "make clean   remove the environments, the database of the demo, and what tools have left behind"
	@echo
	@echo "Variables: PYTHON=$(PYTHON) (3.11 or newer), VENV=$(VENV), PORT=$(PORT), WORKERS=$(WORKERS) (tests at once)"

demo: $(VENV)/.demo ## serve the demo shop
	@DJANGO_SSE_SHARED=1 $(BIN)/python manage.py demo --port $(PORT)

# Most tests wait for servers, so more of them run at once than most machines have cores to spare.
# What was measured is shown also where a test has failed; the result is that of the tests.
test: $(VENV)/.dev ## run the tests with coverage
	@$(BIN)/coverage erase
	@$(BIN)/coverage run -m pytest -n $(WORKERS) --dist worksteal $(ARGS); result=$$?; \
	$(BIN)/coverage combine --quiet && $(BIN)/coverage report; \
	exit $$result

check: $(VENV)/.dev ## lint, types and Django's checks
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python manage.py check --fail-level WARNING
	$(BIN)/python manage.py makemigrations --check --dry-run

bench: $(VENV)/.dev ## measure
	$(BIN)/python -m benchmarks $(ARGS)

docs: $(VENV)/.dev ## build the site of the documentation
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	@echo "dist/site/index.html"

screenshots: $(VENV)/.dev ## renew the pictures of the documentation
	SCREENSHOTS=1 $(BIN)/python -m pytest -q tests/docs/test_screenshots.py

client: $(VENV)/.dev ## build the browsers' client
	RENEW_CLIENT=1 $(BIN)/python -m pytest -q tests/contracts/test_typescript.py -k runtime

# About thirty packages that nothing else needs, and so in an environment of their own.
compat: $(COMPAT_VENV)/.compat ## try streams beside other packages
	@$(COMPAT_VENV)/bin/python -m tests.compat $(ARGS)

$(COMPAT_VENV)/.compat: requirements-compat.txt
	@echo "Preparing $(COMPAT_VENV) (once) …"
	@$(PYTHON) -m venv $(COMPAT_VENV)
	@$(call install,$(COMPAT_VENV),--requirement $<)
	@touch $@

clean: ## remove what was made
	rm -rf $(VENV) $(COMPAT_VENV) .venv-uv db.sqlite3 dist htmlcov .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +

# The environment is made once, and again when one of these files changes. The demo needs
# little of it, so it does not wait for the rest.
$(VENV)/.demo: pyproject.toml requirements-dev.txt
	@command -v $(PYTHON) > /dev/null || { \
		echo "$(PYTHON) was not found. Install Python 3.11 or newer, or name one: make $(MAKECMDGOALS) PYTHON=python3.12"; \
		exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Python 3.11 or newer is needed, and $(PYTHON) is $$($(PYTHON) --version 2>&1). Name another: make $(MAKECMDGOALS) PYTHON=python3.12"; \
		exit 1; }
	@echo "Preparing $(VENV) (once) …"
	@$(PYTHON) -m venv $(VENV) || { \
		echo "$(PYTHON) could not make a virtual environment. On Debian and Ubuntu: apt-get install python3-venv"; \
		rm -rf $(VENV); exit 1; }
	@$(call install,$(VENV),--constraint requirements-dev.txt --editable "$(EXTRAS)" \
		django-cors-headers django-htmx drf-spectacular-sidecar)
	@touch $@

$(VENV)/.dev: $(VENV)/.demo
	@echo "Adding the development tools to $(VENV) (once) …"
	@$(call install,$(VENV),--requirement requirements-dev.txt)
	@touch $@
