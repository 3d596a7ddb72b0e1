# Patchbay's commands. `make` alone lists them. Works with the make of macOS (3.81) and of Debian.
#
# Variables: PORT and HOST for `make up`; PYTHON names an interpreter; TORCH says which torch to install first;
# every PATCHBAY_* setting may be given here too (make up PATCHBAY_DATA_DIR=/srv/patchbay).

SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

HOST ?= 127.0.0.1
PORT ?= 8000
VENV ?= .venv
TORCH ?= $(shell grep '^torch==' requirements.lock)
PY := $(VENV)/bin/python
PIP := PYTHONWARNINGS=ignore $(PY) -m pip --disable-pip-version-check
MANAGE := $(PY) manage.py
# Settings for commands that load Django but reach no server.
LINT_ENV := PATCHBAY_MODE=embedded PATCHBAY_DATA_DIR=build/lint
SERVICES_ENV := PATCHBAY_MODE=services PATCHBAY_DATA_DIR=build/lint PATCHBAY_PUBLIC_URL=https://patchbay.example \
	PATCHBAY_ALLOWED_HOSTS=patchbay.example PATCHBAY_DATABASE_URL=postgres://patchbay@127.0.0.1/patchbay \
	PATCHBAY_REDIS_URL=redis://127.0.0.1/0
PREFLIGHT := PYTHON="$(PYTHON)" sh .ci/preflight.sh
FRONTEND_SOURCES := $(shell find frontend/src frontend/public -type f 2>/dev/null) \
	$(wildcard frontend/*.json frontend/*.config.ts frontend/*.config.js)

.PHONY: help
help: ## List the commands
	@echo "Patchbay: make <command>"
	@awk 'BEGIN { FS = ":.*## " } /^[a-z0-9_-]+:.*## / { printf "  %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# -- run it -----------------------------------------------------------------------------------------------------------
.PHONY: up setup check-up
up: check-up build ## Set up what is missing, then serve on http://localhost:8000 (PORT=8001 chooses another)
	@$(MANAGE) migrate --verbosity 0
	@$(MANAGE) setup_demo --first-run
	@$(MANAGE) serve --host $(HOST) --port $(PORT)

setup: install build ## Install and build everything, start nothing

check-up:
	@$(PREFLIGHT) python >/dev/null
	@$(PREFLIGHT) node
	@$(PREFLIGHT) write .
	@$(PREFLIGHT) write "$(or $(PATCHBAY_DATA_DIR),var)"
	@$(PREFLIGHT) port "$(HOST)" "$(PORT)"

.PHONY: worker
worker: install ## Start one more worker beside a running `make up`
	@$(MANAGE) worker

# -- install and build ------------------------------------------------------------------------------------------------
.PHONY: install build static
install: $(VENV)/.installed ## Make the virtual environment from requirements.lock

$(VENV)/.installed: requirements.lock pyproject.toml
	@$(PREFLIGHT) venv $(VENV)
	@python=$$($(PREFLIGHT) python) && { [ -x $(PY) ] || "$$python" -m venv $(VENV); }
	@echo "Installing the Python packages (the first time takes minutes: torch is large)"
	@# torch goes first and by its exact version: a range would let pip replace the build you chose.
	@$(PIP) show --quiet torch 2>/dev/null || $(PIP) install $(TORCH)
	@$(PIP) install --quiet -r requirements.lock
	@$(PIP) install --quiet --no-deps -e .
	@touch $@

build: install frontend/dist/manifest.json ## Build the browser code

frontend/node_modules/.installed: frontend/package.json frontend/package-lock.json
	@$(PREFLIGHT) node
	@echo "Installing the browser build tools"
	@cd frontend && npm ci --no-audit --no-fund --loglevel=error
	@touch $@

frontend/dist/manifest.json: frontend/node_modules/.installed $(FRONTEND_SOURCES)
	@$(PREFLIGHT) node
	@cd frontend && npm run --silent build -- --logLevel warn
	@touch $@

static: staticfiles/staticfiles.json ## Collect static files, for a lab service without containers

staticfiles/staticfiles.json: $(VENV)/.installed frontend/dist/manifest.json
	@$(SERVICES_ENV) PATCHBAY_SECRET_KEY=none $(MANAGE) collectstatic --noinput --clear --verbosity 0
	@touch $@

# -- tests ------------------------------------------------------------------------------------------------------------
.PHONY: test test-unit test-system test-e2e test-browser peers
test: build static peers ## Run every test (real Postgres, Redis, Celery and Chromium)
	@$(PY) .ci/suites.py

test-unit: install peers ## Run the unit, parity, API and socket tests
	@$(PY) .ci/suites.py unit

test-system: build static ## Run the tests that start servers and kill them
	@$(PY) .ci/suites.py system

test-e2e: build ## Run the tests in Chromium
	@$(PY) .ci/suites.py e2e

test-browser: $(VENV)/.installed frontend/node_modules/.installed ## Run the TypeScript tests
	@$(PY) .ci/suites.py browser

peers: build/peers/.installed ## Install the tracing libraries that tests compare with, in folders of their own

build/peers/.installed: $(VENV)/.installed tests/parity/peers/install.py
	@$(PY) -m tests.parity.peers.install
	@touch $@

# -- linters ----------------------------------------------------------------------------------------------------------
# shellcheck and hadolint come as binaries that some machines have no build of (ARM Linux): there they are left out.
if-installed = run() { [ -x $(VENV)/bin/$(1) ] || { echo "$(1) has no build for this machine: left out"; return 0; }; \
	$(VENV)/bin/$(1) "$$@"; }; run
LINTERS := lint-style lint-types lint-imports lint-deps lint-migrations lint-schema lint-deploy lint-shell lint-docker \
	lint-frontend

.PHONY: lint format $(LINTERS)
lint: $(LINTERS) ## Run every linter and static check
	@echo "All linters are content."

format: install ## Format the Python code
	@$(PY) -m ruff check --fix-only --quiet .
	@$(PY) -m ruff format .

lint-style: install ## Check style and banned calls (ruff)
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .

lint-types: install ## Check types (mypy)
	@$(LINT_ENV) $(PY) -m mypy

lint-imports: install ## Check who imports whom (import-linter)
	@$(VENV)/bin/lint-imports --no-cache

lint-deps: install ## Check that imported and declared packages agree (deptry, pip)
	@$(VENV)/bin/deptry --no-ansi .
	@$(PIP) check

lint-migrations: install ## Check that no migration is missing
	@$(LINT_ENV) $(MANAGE) makemigrations --check --dry-run

lint-schema: install ## Check that the committed OpenAPI schema is the served one
	@mkdir -p build
	@$(LINT_ENV) $(MANAGE) spectacular --file build/openapi.yaml --validate --fail-on-warn
	@diff -u tests/api/openapi.yaml build/openapi.yaml || \
		{ echo "The API changed: look at the difference above, then run make schema"; exit 1; }

lint-deploy: install ## Check the services settings as Django's deployment check asks
	@$(SERVICES_ENV) PATCHBAY_SECRET_KEY="$$($(PY) -c 'import secrets; print(secrets.token_urlsafe(60))')" \
		$(MANAGE) check --deploy --fail-level WARNING

lint-shell: install ## Check the shell scripts (shellcheck)
	@$(call if-installed,shellcheck) .ci/run .ci/preflight.sh docker/*.sh

lint-docker: install ## Check the Dockerfile and the compose file
	@$(call if-installed,hadolint) docker/Dockerfile
	@$(VENV)/bin/check-jsonschema --builtin-schema vendor.compose-spec docker/compose.yml

lint-frontend: frontend/node_modules/.installed ## Check the browser code (svelte-check, eslint)
	@cd frontend && npm run --silent check && npm run --silent lint

# -- documentation ----------------------------------------------------------------------------------------------------
.PHONY: docs docs-pages
docs: install ## Build the documentation of tracing into build/docs
	@NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict --quiet
	@echo "Open build/docs/index.html, or serve it, which its search needs: $(PY) -m http.server --directory build/docs"

docs-pages: install ## Run every example of the documentation and write what it prints
	@OMP_NUM_THREADS=1 $(PY) -m docs.tools

# -- made files -------------------------------------------------------------------------------------------------------
.PHONY: schema lock demo-model bench
schema: install ## Write tests/api/openapi.yaml anew
	@$(LINT_ENV) $(MANAGE) spectacular --file tests/api/openapi.yaml --validate --fail-on-warn

lock: ## Write requirements.lock from the packages in .venv
	@$(PY) .ci/lock.py

demo-model: install ## Train the demo model again, with its prompt sets and model card
	@$(PY) -m tracing.demo.train

bench: build ## Measure what the README promises
	@for file in benchmarks/[a-z]*.py; do \
		name=$$(basename "$$file" .py); echo "== $$name"; $(PY) -m benchmarks.$$name || exit 1; done

# -- tidy up ----------------------------------------------------------------------------------------------------------
.PHONY: clean clean-venv clean-data
clean: ## Remove what was built (keeps .venv and your results in var/)
	rm -rf build frontend/dist frontend/node_modules/.vite staticfiles test-results
	rm -rf .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -not -path './frontend/node_modules/*' -prune -exec rm -rf {} +

clean-venv: ## Remove the virtual environment and the browser build tools
	rm -rf $(VENV) frontend/node_modules

clean-data: ## Remove the database, models' results and keys in var/ (asks first)
	@printf 'Remove all runs and results in %s/var? Type yes: ' "$$PWD" && read -r answer && [ "$$answer" = yes ] && rm -rf var
