# vhdtool: run 'make help' for the targets.
SHELL := /bin/bash
GO ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X main.version=$(VERSION)
PREFIX ?= /usr/local
FUZZTIME ?= 30s
DEMO ?= $(CURDIR)/bin/demo

.DEFAULT_GOAL := build
.PHONY: build install test race interop portable platforms lint api api-check dist dist-check deb-check fuzz torture man bench demo clean help

build: ## build bin/vhdtool
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/vhdtool ./cmd/vhdtool

install: build ## install it into PREFIX/bin
	install -D -m 755 bin/vhdtool $(DESTDIR)$(PREFIX)/bin/vhdtool

test: ## run the tests; needs nothing but Go (tests without their peer program are skipped)
	$(GO) test ./...

race: ## run the tests of the library under the race detector (needs a C compiler)
	$(GO) test -race ./pkg/...

interop: ## compare with other programs: qemu 7.2, 10, libvhdi; newest qemu, VirtualBox if unpacked
	VHDTOOL_REQUIRE_PEERS=1 $(GO) test -count=1 ./internal/interop/...

portable: ## run the tests without the fast paths of Linux
	$(GO) test -tags portable ./pkg/... ./internal/sparse ./internal/imagelock ./internal/atomicfile
	$(GO) test -tags portable ./cmd/vhdtool -run 'TestScripts|TestREADME'

platforms: ## compile and vet for every release platform
	scripts/platforms.sh

lint: ## gofumpt, vet, staticcheck, shellcheck, prose, spelling
	scripts/lint.sh

api: ## keep the current interface of the library, in api
	scripts/api.sh --update

api-check: ## fail if the interface is incompatible with the one in api
	scripts/api.sh

dist: ## build the archives and packages of a release into dist
	rm -rf dist
	$(GO) run ./scripts/dist -tools bin/tools -version "$(VERSION)"

dist-check: ## build a release twice and compare the bytes (PLATFORMS=linux/amd64,... selects)
	scripts/dist-check.sh $(PLATFORMS)

deb-check: ## install, use and remove the Debian package in dist (as root)
	scripts/deb-check.sh

fuzz: ## run every fuzz target for FUZZTIME (30s)
	scripts/fuzz.sh $(FUZZTIME)

torture: ## the long forms of the tests that kill, cut and damage (several minutes)
	VHDTOOL_TORTURE=500 $(GO) test ./cmd/vhdtool -count=1 -run Kill -timeout 30m
	VHDTOOL_TORTURE=1 $(GO) test ./pkg/vhd -count=1 -run 'Model|Crash|Fail|Repair|Relink|Commit' -rapid.checks=2000 -timeout 30m

man: ## update man pages, pictures and product tables
	$(GO) test ./cmd/vhdtool -run '^(TestManPages|TestREADMECommands|TestArchitecturePicture|TestProductsPage)$$' -update-man

bench: ## run the Go benchmarks
	$(GO) test -run '^$$' -bench . -benchmem ./...

demo: build ## convert a raw disk to fixed and dynamic VHD and back, in bin/demo
	scripts/demo.sh bin/vhdtool $(DEMO)

clean: ## remove build results
	rm -rf bin dist

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12
