# Commands for people; `make` lists them. CARGO_TARGET_DIR is respected by all of them.

SHELL := bash
.DEFAULT_GOAL := help
.PHONY: help demo up down status build test spans-test tools chart-test cluster-test bench-quick bench-scale observability-check observability-test lint fmt

TARGET := $(or $(CARGO_TARGET_DIR),target)
RELEASE := $(TARGET)/release
DEBUG := $(TARGET)/debug

##@ Try it

demo: up ## A crowd of 10,000 claims 1,000 coupons; audit and oracle check everything. Leaves the stack running
	@deploy/demo.sh $(RELEASE)

up: build ## Start Kafka, PostgreSQL, Redis and the four services (installs and builds what is missing)
	@$(RELEASE)/local-stack up --release --no-build

down: ## Stop everything that `make up` has started, and remove its data
	@if [ -x $(RELEASE)/local-stack ]; then $(RELEASE)/local-stack down; else echo "nothing was built, nothing runs"; fi

status: ## What runs, where, and whether it answers
	@if [ -x $(RELEASE)/local-stack ]; then $(RELEASE)/local-stack status; else echo "nothing was built, nothing runs"; exit 1; fi

build: ## Build all programs with optimisation
	@deploy/prerequisites.sh
	cargo build --release --workspace --bins

##@ Work on it

test: ## All tests, on real Kafka, PostgreSQL and Redis
	@deploy/prerequisites.sh
	cargo build --workspace --bins
	$(DEBUG)/local-stack exec -- cargo test --workspace
	cd crates/couponctl/oracle && python3 -m unittest

spans-test: ## The services with the feature `otlp`: lints, and their spans at a collector
	@deploy/prerequisites.sh
	cargo clippy -p service-runtime -p api-gateway -p stock-consumer -p db-writer -p notifier -p e2e-tests --features otlp --all-targets -- -D warnings
	cargo test -p service-runtime --features otlp --lib trace
	cargo test -p e2e-tests --features otlp -- the_spans_of_a_press

tools: ## Fetch the pinned tools of chart-test, once, into a folder outside the tree
	@helm/tests/tools.sh

chart-test: ## The Helm chart, the image's recipe and compose, against the real programs. BIN=… takes those of a folder, and builds none
	$(if $(BIN),,cargo build --workspace --bins)
	@helm/tests/run.sh $(or $(BIN),$(DEBUG))

cluster-test: ## The chart on a real Kubernetes of two nodes, on this machine, under load (root, Debian). BIN=… as above; BUILT=1: build nothing
	$(if $(BIN),,cargo build -p local-stack --bins)
	@deploy/cluster/run.sh $(or $(BIN),$(DEBUG))

bench-quick: build ## How fast it is, as shares of what this machine does without it: a table, and JSON in the target folder
	@$(RELEASE)/local-stack install
	$(RELEASE)/bench-quick --out $(TARGET)/bench-quick.json

bench-scale: $(if $(BIN),,build) ## How cost grows with claims, coupons, lines: a table, and JSON in the target folder; up to 40 minutes. SHORT=1: small sizes; BIN=… built there
	@$(or $(BIN),$(RELEASE))/local-stack install
	$(or $(BIN),$(RELEASE))/bench-scale $(if $(SHORT),--short) --out $(TARGET)/bench-scale.json

observability-check: ## Boards, alerts and runbooks against the metrics, the rules' test cases and couponctl; nothing runs. BUILT=1: build nothing
	@[ -n "$(BUILT)" ] || cargo build --quiet --workspace --bins
	@tools=$$(deploy/observability/tools.sh) && PATH="$$tools:$$PATH" python3 deploy/observability/check.py $(DEBUG)

observability-test: observability-check ## The same, then live: a real Prometheus, load and injected faults; every panel shows something, every alert notices. PICTURES=docs/boards draws it
	@tools=$$(deploy/observability/tools.sh live) && PATH="$$tools:$$PATH" PYTHONPATH=deploy/observability \
		python3 -m live $(DEBUG) "$$tools" $(if $(PICTURES),--pictures $(PICTURES))

lint: ## Formatting and lints, warnings denied
	cargo fmt --check
	cargo clippy --workspace --all-targets -- -D warnings

fmt: ## Format the code
	cargo fmt

##@ Help

help: ## This list
	@awk 'BEGIN { FS = ":.*## " } /^##@/ { printf "\n%s\n", substr($$0, 5) } /^[a-z-]+:.*## / { printf "  make %-20s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
