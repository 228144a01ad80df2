# make run    builds, and shows the main job on a scratch database
# make test   all tests, with the race detector where a C compiler is found
# make help   the other targets

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS  = -s -w -X main.version=$(VERSION)
GOLANGCI = github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0

.PHONY: help build run test lint tidy completions bench nodes chaos-programs chaos chaos-long soak powerloss faults bench-postgres fuzz model nightly cross clean

help: ## show this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## bin/orchestrate, one static binary
	CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o bin/orchestrate ./cmd/orchestrate

run: build ## the main job on a scratch database, from a webhook to a replay
	@sh docs/examples/tour.sh bin/orchestrate

# SQLite's own code, C in the dress of Go, is not watched for races: it would take
# half of the time. No more than that: generic code is compiled once for all
# packages, and must not come from one that is not watched.
UNWATCHED = -gcflags='modernc.org/sqlite/lib=-race=false'

# The race detector needs cgo and a C compiler; a machine without one still
# runs every test, and says what it did not look for.
CC_FOUND := $(shell command -v $${CC:-cc} 2>/dev/null || command -v gcc 2>/dev/null)
# The longest first, so that none of them runs alone at the end.
FIRST = ./cmd/orchestrate ./internal/store ./internal/queue
test: ## all tests
ifneq ($(CC_FOUND),)
	CGO_ENABLED=1 go test -race $(UNWATCHED) -timeout 20m $(FIRST) ./...
else ifeq ($(CI),true)
	@echo 'no C compiler: the race detector cannot run' >&2; exit 1
else
	@echo 'no C compiler found: testing without the race detector' >&2
	CGO_ENABLED=0 go test -timeout 20m $(FIRST) ./...
endif

lint: ## the linters, and the import law
	go run $(GOLANGCI) run

tidy: ## fail if go.mod or go.sum is not tidy
	go mod tidy -diff

completions: build ## generate completions/ from the commands
	for shell in bash:bash zsh:zsh fish:fish powershell:ps1; do \
		bin/orchestrate completion $${shell%:*} > completions/orchestrate.$${shell#*:} || exit 1; done

CHAOS_SEED ?= 1
NODES_ROUNDS ?= 10
nodes: ## receivers and workers on one PostgreSQL, with faults; NODES_ROUNDS=n, NODES_SEED=n
	NODES_ROUNDS=$(NODES_ROUNDS) go test -count=1 -timeout 2h -v -run '^TestNodes$$' ./cmd/orchestrate

# internal/chaos/disk is a module of its own: go-fuse never reaches the program.
chaos-programs:
	go build -buildvcs=false -o bin/ ./internal/chaos/crash ./internal/chaos/hostile ./internal/chaos/netns
	go build -C internal/chaos/disk -buildvcs=false -o "$(CURDIR)/bin/" . ./faults

# 3 is "not run", with the reason; the disks and the networks need root.
chaos: chaos-programs ## kills, power losses, failing disks, hostile HTTP, cut networks: 8 minutes
	bin/crash
	bin/disk || test $$? = 3
	bin/faults -short || test $$? = 3
	bin/hostile || test $$? = 3
	bin/netns || test $$? = 3

chaos-long: chaos-programs ## the same, 2,000 kills and 500 power losses; CHAOS_SEED=n
	bin/crash -seed $(CHAOS_SEED) -cycles 2000 -postgres 200 -calls 1000 -zombies 300 -poisons 10
	bin/disk -seed $(CHAOS_SEED) -ext4-cycles 140 -fuse-cycles 360 || test $$? = 3
	bin/faults -seed $(CHAOS_SEED) || test $$? = 3
	bin/hostile -for 10s || test $$? = 3
	NODES_ROUNDS=10 bin/netns || test $$? = 3
	go test -count=1 -timeout 1h ./internal/store -run '^TestCrashes$$' -v -args -crashes 20

SOAK ?= 30m
soak: chaos-programs ## everything at random for 30 minutes, and what the processes hold meanwhile; SOAK=2h
	bin/crash -seed $(CHAOS_SEED) -soak $(SOAK)

powerloss: chaos-programs ## the power goes under load; POWERLOSS="-ext4-cycles n -fuse-cycles n -seed n"
	bin/disk $(POWERLOSS)

faults: chaos-programs ## disks that fail: fsync, full, read-only, slow; and few descriptors; FAULTS="-short -only WORD -seed n"
	bin/faults $(FAULTS)

bench: ## benchmarks of intake, claim, settle and list
	go test -run '^$$' -bench . -benchmem ./internal/...

# A module of its own: River's dependencies never reach the program's. At most
# 15 minutes; PEERS="-only store,work" measures less.
bench-postgres: ## our stores beside River on one PostgreSQL: docs/performance.md
	cd internal/bench/peers && go run . $(PEERS)

# A find is kept as it is: to make each smaller took a minute, in which nothing
# is tried.
FUZZTIME ?= 10s
fuzz: ## every fuzz test, 10 s each; FUZZTIME=t
	@for pkg in $$(go list ./internal/...); do \
		for name in $$(go test -list '^Fuzz' $$pkg | grep '^Fuzz'); do \
			go test -run '^$$' -fuzz "^$$name\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 10x $$pkg || exit 1; done; done

MODEL_STEPS ?= 10000
model: ## random operations on each kind of store, against a model; MODEL_STEPS=n
	MODEL_STEPS=$(MODEL_STEPS) go test -count=1 -timeout 3h -v -run '^TestModel$$' ./internal/store

nightly: ## what takes too long for each change: 30 s a fuzz test, 100,000 operations a store
	$(MAKE) fuzz FUZZTIME=30s
	$(MAKE) model MODEL_STEPS=100000

cross: ## vet for the other systems
	for os in darwin windows freebsd; do CGO_ENABLED=0 GOOS=$$os go vet ./... || exit 1; done

clean: ## remove what was built
	rm -rf bin dist
