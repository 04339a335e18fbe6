# SPDX-License-Identifier: MIT OR Apache-2.0
CARGO ?= cargo

.DEFAULT_GOAL := help

.PHONY: help
help: ## This list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

.PHONY: run
run: ## Build, and run an app with the built-in worker in the foreground (port 3000)
	$(CARGO) build --release --locked
	./target/release/app-cluster dev

.PHONY: check
check: ## Format, lints, simulation of the core, command line (under 2 minutes)
	tests/check

.PHONY: test
test: ## The gate: everything that must hold, in a reduced form
	tests/run gate

.PHONY: test-full
test-full: ## Everything that must hold, as written (long)
	tests/run full

.PHONY: bench
bench: ## One table of numbers, as ratios where they can be
	$(CARGO) bench --locked --bench table

include packaging/deb.mk
