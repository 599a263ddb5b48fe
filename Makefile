# Trysail's day-to-day commands. `make build`, `make demo` and `make test` each work by themselves on a fresh Debian 12
# machine with Go: what they need is installed by scripts/setup.sh, tools run as pinned Go modules.

SHELL       := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := build

VERSION   ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
BUILDFLAGS := -trimpath -buildvcs=false
LDFLAGS   := -s -w -X main.version=$(VERSION)
FUZZTIME  ?= 30s
export FUZZHOURS ?= 0.1
export SOAKTIME  ?= 10m
BENCHARGS ?=
DIAGNOSEARGS ?=

GOLANGCI_LINT := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
GOVULNCHECK   := golang.org/x/vuln/cmd/govulncheck@v1.9.0

# A bare chroot may have no home; Go wants one for its caches.
export HOME ?= /root
export XDG_CACHE_HOME ?= $(HOME)/.cache
# Where the end-to-end tests leave pictures of all pages of the console, at three widths, light and dark.
export TRYSAIL_TEST_SCREENS ?= $(CURDIR)/screens

# The tests of the engine on real containerd need root. They run without the race detector: containerd and the shims are
# the test program itself, and with the detector in them each takes ten times as long.
ENGINE = ./internal/engine/cri
UNIT   = $$(go list ./... | grep -vF internal/engine/cri)

.PHONY: build demo test unit engine e2e helm conformance wire lint fuzz vuln cover bench diagnose release release-verify package-test cluster cluster-down cluster-test fuzz-edge bench-edge soak clean help

build: ## bin/trysail: one static program
	@scripts/setup.sh build
	CGO_ENABLED=0 go build $(BUILDFLAGS) -ldflags "$(LDFLAGS)" -o bin/trysail ./cmd/trysail

demo: ## install what is missing, build, deploy a sample service and a broken one, clean up
	@began=$$(date +%s.%N); \
	scripts/setup.sh demo; \
	$(MAKE) --no-print-directory -s build; \
	go build $(BUILDFLAGS) -o bin/demo ./test/demo; \
	exec bin/demo -began "$$began"

test: ## everything that must pass: unit, wire, engine and end-to-end tests, and make cluster-test if anything it is about has changed
	@scripts/setup.sh test
	@$(MAKE) --no-print-directory build
	go test -race -shuffle=on -timeout 20m $(UNIT)
	TRYSAIL_TEST_DATABASE=postgres go test ./internal/control ./internal/reconcile
	go test -count 1 $(ENGINE)
	go test -tags e2e -count 1 -parallel 8 -timeout 20m ./test/...
	@scripts/cluster-test-if-needed.sh

unit: ## the Go tests that need neither root nor a network
	go test -short -shuffle=on $(UNIT)

engine: ## as root: the engine's contract on real containerd
	@scripts/setup.sh demo
	go test -count 1 $(ENGINE)

e2e: ## the built program, driven by the AWS CLI, boto3 and the SDKs (RUN=regexp for some of it)
	@scripts/setup.sh test
	@$(MAKE) --no-print-directory build
	go test -tags e2e -count 1 -parallel 8 -timeout 20m -v $(if $(RUN),-run '$(RUN)') ./test/e2e

cluster: ## a real Kubernetes cluster of three nodes on this machine, as root; prints its kubeconfig
	@scripts/setup.sh cluster
	@$(MAKE) --no-print-directory -s build
	@go build $(BUILDFLAGS) -o bin/cluster ./test/cluster
	@bin/cluster up

cluster-down: ## end it and remove all of it
	@go build $(BUILDFLAGS) -o bin/cluster ./test/cluster
	@bin/cluster down

cluster-test: cluster ## the engine's contract and the end-to-end scripts on that cluster (RUN=regexp for some of it)
	@scripts/setup.sh test
	go test -tags cluster -count 1 -parallel 6 -timeout 20m $(if $(RUN),-run '$(RUN)') ./internal/engine/kube
	go test -tags cluster -count 1 -timeout 20m -v $(if $(RUN),-run '$(RUN)') ./test/replicas
	TRYSAIL_TEST_ENGINE=kubernetes go test -tags e2e -count 1 -parallel 6 -timeout 30m $(if $(RUN),-run '$(RUN)') ./test/e2e

helm: ## the chart of packaging/helm: linted, rendered, compared with the manifests of packaging/kubernetes
	cd test/helm && go test -count 1 ./...

conformance: ## the OCI's conformance suite for registries, whose program OCI_CONFORMANCE names
	go test -tags conformance -count 1 -v -run TestConformance ./test/registry

wire: ## requests and responses against the samples inside the Go SDK
	go test -count 1 ./internal/api/... ./internal/sigv4/...

lint: ## formatting, vet, linters, tidy go.mod
	go vet ./...
	go vet -tags e2e ./test/...
	go vet -tags conformance ./test/registry
	go vet -tags package ./test/package
	go vet -tags cluster ./internal/engine/kube ./test/replicas
	go run $(GOLANGCI_LINT) run
	go mod tidy -diff

fuzz: ## every fuzz target for FUZZTIME
	@go list -f '{{.ImportPath}} {{.Dir}}' ./... | while read -r package dir; do \
		{ grep -hoP '^func \KFuzz\w+' "$$dir"/*_test.go 2>/dev/null || true; } | \
		while read -r target; do \
			echo "== $$package $$target"; \
			go test -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME) "$$package" </dev/null; \
		done; \
	done

fuzz-edge: ## the edge's own engine for FUZZHOURS of CPU time, written down in docs/fuzzing.md
	@scripts/fuzz-edge.sh

soak: ## ten minutes of mixed load on the edge while everything changes, with each engine (SOAKTIME=1m for less)
	go test -tags soak -count 1 -timeout 1h -v -run TestSoak ./internal/edge

vuln: ## known vulnerabilities in what we call
	go run $(GOVULNCHECK) ./...

# A program built for coverage writes a warning to standard error unless GOCOVERDIR is set, and containerd takes that for
# the answer of a shim. The engine hands on no such variable, so what runs containers is left out here.
cover: ## how much of the code the tests reach that run no containers
	mkdir -p coverage
	go test -count 1 -coverpkg=./... -coverprofile coverage/all.out $(UNIT)
	go tool cover -func=coverage/all.out | tail -1

bench: ## speed and memory side by side with bare pods and with Docker: one table (BENCHARGS='-help')
	@scripts/setup.sh bench
	@$(MAKE) --no-print-directory -s build
	@go build $(BUILDFLAGS) -o bin/bench ./test/bench
	@exec bin/bench $(BENCHARGS)

bench-edge: ## the edge beside nginx, HAProxy and Caddy: one table (BENCHARGS='-short' beside nginx only)
	@scripts/setup.sh bench
	@go build $(BUILDFLAGS) -o bin/bench ./test/bench
	@exec bin/bench -only edge $(BENCHARGS)

diagnose: ## how right the verdicts on broken and healthy deployments are: one table (DIAGNOSEARGS='-run regexp')
	@scripts/setup.sh test
	@$(MAKE) --no-print-directory -s build
	@go build $(BUILDFLAGS) -o bin/diagnose ./test/diagnose
	@exec bin/diagnose $(DIAGNOSEARGS)

release: ## dist/: archives, .deb, .rpm, OCI image, SBOM and checksums for amd64 and arm64, once the cluster tests have passed
	@CLUSTER=$${CLUSTER:-always} scripts/cluster-test-if-needed.sh
	@scripts/setup.sh release
	go run ./packaging/release -version "$(VERSION)"

release-verify: ## that, twice: the bytes must be the same
	@scripts/setup.sh release
	go run ./packaging/release -version "$(VERSION)" -verify

package-test: ## as root: the .deb and the OCI image, installed as users do, on machines of their own (RUN=regexp for some of it)
	@scripts/setup.sh package
	go test -tags package -count 1 -timeout 30m -v $(if $(RUN),-run '$(RUN)') ./test/package

clean: ## remove what the targets made in this folder
	rm -rf bin coverage dist screens test/js/node_modules

help: ## this list
	@grep -hP '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /\1\t/' | expand -t 10
