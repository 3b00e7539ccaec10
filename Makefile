# Larder. Two commands matter: `make demo` shows it, `make test` proves it. Both install what they miss.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

# A directory to demonstrate with; the Rust toolchain's own libraries by default: real files, large and small.
DIR ?= $(shell rustc --print sysroot)/lib

# Local mode needs no client of Kubernetes: a fifth less to build.
BUILD_LOCAL := cargo build --locked --profile demo --workspace --bins --no-default-features

.PHONY: help
help: ## what there is
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: install
install: ## installs what building needs and this machine lacks, and says what
	@tests/install

.PHONY: install-tests
install-tests: ## the same, and the programs that tests run against Larder and its doubles
	@tests/install tests
	tests/clients/install "$$(tests/target-dir)/s3-clients"
	tests/clients/install "$$(tests/target-dir)/data-clients" tests/clients/data-requirements.txt
	tests/azurite/install "$$(tests/target-dir)/azurite"

.PHONY: demo
demo: install ## three agents, one bucket, one mount: cold, warm, remote, after a node's death
	$(BUILD_LOCAL)
	@"$$(tests/target-dir)/demo/demo" "$(DIR)"

.PHONY: test
test: install-tests lint ## everything that CI runs
	cargo build --locked --workspace --bins
	cargo test --locked --workspace --no-fail-fast
	tests/kit/test

# Figures to measure, such as `make bench ONLY="P1 P4"`, and rounds of each.
ONLY ?=
ROUNDS ?= 5

.PHONY: bench
bench: install ## every figure of docs/PERFORMANCE.md beside its limit (ONLY="P1 P4", ROUNDS=5)
	$(BUILD_LOCAL)
	@"$$(tests/target-dir)/demo/bench" --rounds $(ROUNDS) --json target/bench/results.json $(ONLY)

.PHONY: bench-scale
bench-scale: install ## the map of 5,000 nodes: planned, sent, applied, kept; figures beside their limits
	$(BUILD_LOCAL)
	@"$$(tests/target-dir)/demo/bench-scale"

MINUTES ?= 30

.PHONY: soak
soak: install ## mixed readers for MINUTES=30: memory, descriptors and threads must stay flat
	$(BUILD_LOCAL)
	@"$$(tests/target-dir)/demo/soak" --minutes $(MINUTES)

.PHONY: test-k8s
test-k8s: install-tests ## Larder on a real Kubernetes with three kubelets (built once, from Go modules)
	cargo build --locked --workspace --bins
	tests/kit/test --required

# Shows what tests print, and fails when a filter found none.
RAN := awk '{print} /^test result: ok\. [1-9]/ {ran = 1} END {exit !ran}'

# Storms of the simulated cluster, and the first one's seed.
SEEDS ?= 500
FROM ?= 1

.PHONY: sim
sim: install ## the simulated cluster through SEEDS=500 storms; one that fails says how to replay it
	LARDER_SIM_SEEDS=$(SEEDS) LARDER_SIM_FROM=$(FROM) cargo test --locked --workspace --lib -- \
		world::storm::after_any_storm --nocapture | $(RAN)
	@echo "sim: ok, $(SEEDS) seeds"

# Of `make test-long`: storms, histories of maps that are planned, deaths of an owner.
STORMS ?= 20000
CASES ?= 100000
KILLS ?= 100

.PHONY: test-long
test-long: install ## full counts: STORMS=20000, CASES=100000 histories of maps, KILLS=100 of an owner, and cut networks within 2 s
	cargo build --locked --workspace --bins
	LARDER_MAP_CASES=$(CASES) cargo test --locked --workspace --lib -- whatever_happens_maps --nocapture | $(RAN)
	LARDER_KILLS=$(KILLS) cargo test --locked --workspace --test scenarios -- deaths::an_owner_that_is_killed --nocapture | $(RAN)
	LARDER_ALONE=1 cargo test --locked --workspace --test scenarios -- partitions::reads_go_on --nocapture | $(RAN)
	$(MAKE) sim SEEDS=$(STORMS)

INPUTS ?= 100000

.PHONY: fuzz
fuzz: install ## every parser of foreign bytes with INPUTS=100000 damaged and random inputs
	PROPTEST_CASES=$(INPUTS) cargo test --locked --workspace --lib -- no_damage no_bytes no_batch | $(RAN)
	@echo "fuzz: ok, $(INPUTS) inputs for each parser"

.PHONY: lint
lint: ## formatting and lints, warnings refused
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings

.PHONY: charts
charts: ## writes the generated YAML into charts/
	cargo run --locked --quiet -p larder-crds --example generate

.PHONY: deny
deny: ## advisories, licences and duplicates of the dependencies (installs cargo-deny)
	@command -v cargo-deny >/dev/null || cargo install --locked cargo-deny
	cargo deny check

.PHONY: clean
clean: ## removes what was built
	cargo clean
