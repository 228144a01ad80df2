# make run    builds, and shows the main job on a scratch database
# make test   all tests, with the race detector where a C compiler is found
# make help   the other targets

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS  = -s -w -X main.version=$(VERSION)
GOLANGCI = github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0

.PHONY: help build run test lint tidy completions bench nodes powerloss bench-postgres fuzz cross clean

help: ## show this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## bin/orchestrate, one static binary
	CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o bin/orchestrate ./cmd/orchestrate

run: build ## the main job on a scratch database, from a webhook to a replay
	@sh docs/examples/tour.sh bin/orchestrate

# The race detector needs cgo and a C compiler; a machine without one still
# runs every test, and says what it did not look for.
CC_FOUND := $(shell command -v $${CC:-cc} 2>/dev/null || command -v gcc 2>/dev/null)
test: ## all tests
ifneq ($(CC_FOUND),)
	CGO_ENABLED=1 go test -race -timeout 10m ./...
else ifeq ($(CI),true)
	@echo 'no C compiler: the race detector cannot run' >&2; exit 1
else
	@echo 'no C compiler found: testing without the race detector' >&2
	CGO_ENABLED=0 go test -timeout 10m ./...
endif

lint: ## the linters, and the import law
	go run $(GOLANGCI) run

tidy: ## fail if go.mod or go.sum is not tidy
	go mod tidy -diff

completions: build ## generate completions/ from the commands
	for shell in bash:bash zsh:zsh fish:fish powershell:ps1; do \
		bin/orchestrate completion $${shell%:*} > completions/orchestrate.$${shell#*:} || exit 1; done

NODES_ROUNDS ?= 10
nodes: ## receivers and workers on one PostgreSQL, with faults; NODES_ROUNDS=n, NODES_SEED=n
	NODES_ROUNDS=$(NODES_ROUNDS) go test -count=1 -timeout 2h -v -run '^TestNodes$$' ./cmd/orchestrate

# A module of its own, too: go-fuse never reaches the program. As root; without
# POWERLOSS a short form.
powerloss: ## the power goes under load; POWERLOSS="-ext4-cycles n -fuse-cycles n -seed n"
	go build -C internal/chaos/disk -buildvcs=false -o "$(CURDIR)/bin/disk" .
	bin/disk $(POWERLOSS)

bench: ## benchmarks of intake, claim, settle and list
	go test -run '^$$' -bench . -benchmem ./internal/...

# A module of its own: River's dependencies never reach the program's. At most
# 15 minutes; PEERS="-only store,work" measures less.
bench-postgres: ## our stores beside River on one PostgreSQL: docs/performance.md
	cd internal/bench/peers && go run . $(PEERS)

fuzz: ## every fuzz test, 10 s each
	@for pkg in $$(go list ./internal/...); do \
		for name in $$(go test -list '^Fuzz' $$pkg | grep '^Fuzz'); do \
			go test -run '^$$' -fuzz "^$$name\$$" -fuzztime 10s $$pkg || exit 1; done; done

cross: ## vet for the other systems
	for os in darwin windows freebsd; do CGO_ENABLED=0 GOOS=$$os go vet ./... || exit 1; done

clean: ## remove what was built
	rm -rf bin dist
