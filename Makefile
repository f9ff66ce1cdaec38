# The two commands: `make run` and `make test`. Each does its own set-up.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check

# Or every process that is started compiles all that it imports, for seconds.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup run env test coverage test-faults test-n8n bench conformance check generate lock clean

help:  ## Show this list.
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: $(READY)  ## Make .venv ready, and nothing else.

$(READY): requirements.lock requirements-setup.lock pyproject.toml clients/python/pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; this is " + sys.version)'
	$(PYTHON) -m venv --clear .venv
	$(PIP) --require-hashes -r requirements-setup.lock
	$(BIN)/uv pip install --quiet --require-hashes -r requirements.lock || $(PIP) --require-hashes -r requirements.lock
	$(PIP) --no-deps --no-build-isolation -e . -e clients/python
	@touch $(READY)

run: $(READY)  ## Start the gateway with everything it needs on this machine.
	$(BIN)/n8n-gateway dev $(ARGS)

env:  ## Write .env, with secrets of your own for docker-compose.yml. One that is there is left alone.
	@if [ -e .env ]; then echo "There is a .env, which is left alone."; exit 1; fi
	@umask 077; set -C; { \
		echo "# Who issues session tokens, such as https://name.clerk.accounts.dev, and for which of your origins."; \
		echo "CLERK_JWT_ISSUER="; \
		echo "CLERK_AUTHORIZED_PARTIES="; \
		echo "# Keep VAULT_KEY apart from the backups of the database: what it has sealed, nothing else opens."; \
		echo "VAULT_KEY=$$(openssl rand -base64 32)"; \
		for name in N8N_INTERNAL_AUTH_SECRET FINGERPRINT_KEY SUPABASE_JWT_SECRET N8N_ENCRYPTION_KEY \
			POSTGRES_PASSWORD AUTHENTICATOR_PASSWORD REDIS_PASSWORD; do echo "$$name=$$(openssl rand -hex 32)"; done; \
	} > .env
	@echo "Wrote .env. Fill in CLERK_JWT_ISSUER."

test: $(READY)  ## Run the tests.
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 $(ARGS)

# Without the tests that draw their inputs, so that each run measures the same, and those of other processes.
coverage: $(READY)  ## Hold the transcoder's own tests to its lines and branches: 95 in 100 at least.
	$(BIN)/coverage run -m pytest --quiet tests/transcoding -m "not hypothesis" \
		--ignore tests/transcoding/test_fuzz.py --ignore tests/transcoding/test_server.py $(ARGS)
	$(BIN)/coverage report

test-faults: $(READY)  ## Break every part under load, and check what is promised. N=1000 runs of each fault.
	$(BIN)/python -m tests.faults --runs $(or $(N),100) $(ARGS)

test-n8n: $(READY)  ## Install and start a real n8n, and run the gateway against it.
	$(BIN)/python -m pytest tests/live --live-n8n $(ARGS)

bench: .venv/.bench  ## Measure the doors beside their peers. ARGS="--quick --json FILE --chart FILE".
	@$(BIN)/python -m tests.bench $(ARGS)

.venv/.bench: $(READY) requirements-bench.lock
	$(BIN)/uv pip install --quiet --require-hashes -r requirements-bench.lock || $(PIP) --require-hashes -r requirements-bench.lock
	@touch $@

conformance: $(READY)  ## Run the public Connect conformance suite against the doors. Needs Go.
	$(BIN)/python -m tests.conformance.suite $(ARGS)

check: $(READY)  ## Lint, types, import contract, generated code, protos.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python proto/generate.py --check

generate: $(READY)  ## Generate the code from proto/. Needs no network, but once for the TypeScript and Go plugins.
	$(BIN)/python proto/generate.py

LOCK = $(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate \
	--custom-compile-command "make lock"
lock: $(READY)  ## Resolve the dependencies again: names, versions and hashes only.
	printf '%s\n' uv hatchling flask-swagger-ui | $(LOCK) --upgrade -o requirements-setup.lock -
	$(LOCK) --upgrade --extra dev --group test --group check -o requirements.lock pyproject.toml
	$(LOCK) --upgrade -c requirements.lock -o requirements-serve.lock pyproject.toml
	$(LOCK) --upgrade -c requirements.lock --group bench -o requirements-bench.lock

clean:  ## Remove everything that the commands above made.
	rm -rf .venv .coverage* .n8n-gateway .cache .n8n .hypothesis .pytest_cache .mypy_cache .ruff_cache .import_linter_cache \
		build dist clients/typescript/node_modules clients/typescript/dist clients/typescript/build \
		tests/browser/node_modules
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
