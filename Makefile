# Sluice: build, demo and tests. `make` alone explains the targets.

GO     ?= go
BUILD  := .build
BIN    := $(BUILD)/bin
PEERS  := $(BUILD)/peers

# Which cases of itest/ or which benchmark: make itest CASE=OnDemand, make bench NAME=jit.
CASE ?= .
NAME ?=
# TENANT=1 has the demo add a tenant whose keys stay with it.
TENANT ?=
# How long make soak takes.
MINUTES ?= 30
# For a longer or a repeated benchmark, e.g. BENCH_FLAGS='-blocks 80 -seed 1'.
BENCH_FLAGS ?=
# Real nodes and compilers share the machine: packages with real nodes run one at a time,
# and two cases of each beside each other.
ITEST_FLAGS ?= -tags itest -count=1 -p 1 -parallel 2 -timeout 40m

# The packages that have tests on real nodes. lndsuite is what holds the fake to real lnd.
REAL := ./internal/devnet/... ./internal/doctor/... ./internal/lndfake/lndsuite/... ./cmd/sluice-wallet/... ./itest/...

# The packages with a state machine, whose diagrams are generated.
MACHINES := ./lsp/batch ./lsp/collab ./lsp/opening ./lsp/order ./lsp/jit ./lsp/wrap ./lsp/refund ./swaps/out ./swaps/in ./lws/hold ./watchtower/credit

.DEFAULT_GOAL := help
.PHONY: help build peers ldk demo test test-full itest soak bench check lint lint-fix generate api-release clean

help: ## this table
	@echo 'Sluice: on-demand channels and services for an unpatched lnd.'
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-22s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo
	@echo '  make itest CASE=<regexp>    only the cases that match, e.g. CASE=OnDemand'
	@echo '  make bench NAME=<name>      one benchmark: jit, forward, forward-proxied, memory, lsps, jit-mpp, vault, tower, hold, open, signer or swaps'
	@echo
	@echo 'Needs Go and make; PostgreSQL (Debian package "postgresql") for the tests of the second database.'

build: ## our programs, into .build/bin
	@mkdir -p $(BIN)
	@echo "building ./cmd/... into $(BIN) (a minute or two with empty caches)"
	@$(GO) build -trimpath -o $(BIN)/ ./cmd/...

peers: ## btcd, lnd, lncli, loop and loopd, into .build/peers (minutes at first, then at once)
	@$(GO) run ./internal/tools/buildpeers -o $(PEERS)

ldk: ## the LDK Node of the tests, into .build/ldk (needs cargo; a few minutes at first)
	@PATH="$$PATH:$$HOME/.cargo/bin"; \
	if command -v cargo >/dev/null; then \
	  cargo build --locked --manifest-path itest/ldk/Cargo.toml --target-dir $(BUILD)/ldk; \
	elif [ "$$CI" = true ]; then \
	  echo 'cargo is missing: the LDK Node of the tests is built with Rust 1.85 or later' >&2; exit 1; \
	else \
	  echo 'no cargo on this machine: the tests with LDK Node are skipped (they need Rust 1.85 or later)'; \
	fi

demo: build peers ## a real network, the main job played on it, and a table at the end; TENANT=1 adds a tenant
	@$(BIN)/sluice-devnet demo $(if $(filter 1,$(TENANT)),--tenant)

test: build peers ldk ## unit and property tests, both databases, and the trusted cases on real nodes
	$(GO) test -timeout 25m ./...
	$(GO) test $(ITEST_FLAGS) $(REAL)

test-full: build peers ldk ## the same with long soaks and high repeat counts
	SLUICE_TEST_FULL=1 SLUICE_RUNS=2000 SLUICE_SEED=$${SLUICE_SEED:-fresh} $(GO) test -count=1 -timeout 240m ./...
	SLUICE_TEST_FULL=1 $(GO) test $(ITEST_FLAGS) -timeout 240m $(REAL)

itest: build peers ldk ## tests on real nodes; CASE=<regexp> selects
	SLUICE_ITEST=1 SLUICE_REPLAY_SECONDS=$${SLUICE_REPLAY_SECONDS:-120} $(GO) test $(ITEST_FLAGS) -v -run '$(CASE)' ./itest

soak: build peers ## payments for a wallet that comes and goes on real nodes, for MINUTES
	SLUICE_SOAK_MINUTES=$(MINUTES) $(GO) test $(ITEST_FLAGS) -timeout 240m -v -run '^TestOfflineSoak$$' ./itest

bench: build peers ## NAME=<name>: a benchmark on real nodes; its last line is "NAME: key=value ..."
	@test -n '$(NAME)' || { echo 'which one? make bench NAME=jit (or forward, forward-proxied, memory, lsps, jit-mpp, vault, tower, hold, open, signer, swaps)' >&2; exit 2; }
	@$(GO) run ./itest/bench $(BENCH_FLAGS) '$(NAME)'

lint: ## golangci-lint with gofumpt, and govulncheck; all pinned, built when missing
	@$(GO) run ./internal/tools/lint

lint-fix: ## formats, and fixes what the linters can fix
	@$(GO) run ./internal/tools/lint --fix

check: lint ## lint, and that everything generated is current: protos, REST, OpenAPI, queries, diagrams, sample
	@echo 'protos and queries: lint, no break since the last release, generated code current'
	@$(GO) run ./internal/tools/generate --check
	$(GO) test ./docs ./internal/archtest $(MACHINES)

generate: ## everything generated: protos, REST, OpenAPI, queries, diagrams, sample configuration
	$(GO) run ./internal/tools/generate
	UPDATE_DIAGRAMS=1 $(GO) test -count=1 -run '^TestDiagram$$' $(MACHINES)
	$(GO) run ./cmd/sluiced config sample > $(BUILD)/sample.toml && mv $(BUILD)/sample.toml docs/sluiced.sample.toml

api-release: ## the API as it is now is what later versions must not break
	$(GO) run ./internal/tools/generate --release

clean: ## removes what was built
	rm -rf $(BUILD)
