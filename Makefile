# vhdtool: run 'make help' for the targets.
SHELL := /bin/bash
GO ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X main.version=$(VERSION)
PREFIX ?= /usr/local
MANDIR ?= $(PREFIX)/share/man
BASHDIR ?= $(PREFIX)/share/bash-completion/completions
ZSHDIR ?= $(PREFIX)/share/zsh/site-functions
FISHDIR ?= $(PREFIX)/share/fish/vendor_completions.d
FUZZTIME ?= 30s
# All internal packages except interop, which runs other programs.
INTERNALS = $(shell $(GO) list ./internal/... | grep -v /interop)
# These tests build, kill or compare whole programs, and share no memory with what they run. Under
# the race detector they take most of the time. Each program that the others start would also sleep
# for a second when it ends (atexit_sleep_ms).
SLOW_UNDER_RACE = ^(TestMakeInstall|TestGoInstall|TestKill.*|TestLikeEachRelease|TestOptionsOfEachRelease|TestSameAsQEMU|TestREADME.*|TestManPages.*|TestArchitecturePicture|TestDocs)$$
# These tests of pkg/vhd replay changes in one goroutine. Under the race detector they need minutes
# and cannot find a race.
ONE_GOROUTINE = ^(TestCrash.*|TestFailures|TestLongChain|TestNewBatmap|TestGeometryAgainst.*|TestPairsOfFaults)$$
DEMO ?= $(CURDIR)/bin/demo

.DEFAULT_GOAL := build
.PHONY: build install uninstall test race interop portable platforms lint api api-check dist dist-check deb-check rpm-check container fuzz fuzz-smoke vuln tidy-check torture man bench demo clean help

build: ## build bin/vhdtool
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/vhdtool ./cmd/vhdtool

install: build ## install program, man pages and completions below PREFIX (/usr/local)
	install -d -m 755 $(addprefix $(DESTDIR),$(PREFIX)/bin $(MANDIR)/man1 $(MANDIR)/man7 $(BASHDIR) $(ZSHDIR) $(FISHDIR))
	install -m 755 bin/vhdtool $(DESTDIR)$(PREFIX)/bin/vhdtool
	install -m 644 docs/man/*.1 $(DESTDIR)$(MANDIR)/man1
	install -m 644 docs/man/*.7 $(DESTDIR)$(MANDIR)/man7
	bin/vhdtool completion bash >bin/vhdtool.bash
	bin/vhdtool completion zsh >bin/_vhdtool
	bin/vhdtool completion fish >bin/vhdtool.fish
	install -m 644 bin/vhdtool.bash $(DESTDIR)$(BASHDIR)/vhdtool
	install -m 644 bin/_vhdtool $(DESTDIR)$(ZSHDIR)/_vhdtool
	install -m 644 bin/vhdtool.fish $(DESTDIR)$(FISHDIR)/vhdtool.fish

uninstall: ## remove what install has installed, with the same PREFIX and DESTDIR
	rm -f $(DESTDIR)$(PREFIX)/bin/vhdtool
	rm -f $(addprefix $(DESTDIR)$(MANDIR)/man1/,$(notdir $(wildcard docs/man/*.1)))
	rm -f $(addprefix $(DESTDIR)$(MANDIR)/man7/,$(notdir $(wildcard docs/man/*.7)))
	rm -f $(DESTDIR)$(BASHDIR)/vhdtool $(DESTDIR)$(ZSHDIR)/_vhdtool $(DESTDIR)$(FISHDIR)/vhdtool.fish

test: ## run the tests; needs nothing but Go (tests without their peer program are skipped)
	$(GO) test ./...

race: ## run the tests under the race detector (needs a C compiler)
	$(GO) test -race $(filter-out %/pkg/vhd,$(shell $(GO) list ./pkg/...)) $(INTERNALS)
	$(GO) test -race ./pkg/vhd -skip '$(ONE_GOROUTINE)'
	GORACE=atexit_sleep_ms=0 $(GO) test -race ./cmd/vhdtool -skip '$(SLOW_UNDER_RACE)' -timeout 30m

interop: ## compare with other programs: qemu 7.2, 10, libvhdi; newest qemu, VirtualBox if unpacked
	VHDTOOL_REQUIRE_PEERS=1 $(GO) test -count=1 ./internal/interop/...

portable: ## run the tests without the fast paths of Linux
	$(GO) test -tags portable ./pkg/... $(INTERNALS)
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

rpm-check: ## install the rpm package in dist, use it and remove it (as root)
	scripts/rpm-check.sh

container: ## build a container image from dist and run it (with docker or podman)
	scripts/container.sh

fuzz: ## run every fuzz target for FUZZTIME (30s)
	scripts/fuzz.sh $(FUZZTIME)

fuzz-smoke: ## run every fuzz target for 5 seconds, from the seeds alone
	scripts/fuzz.sh 5s seeds

vuln: ## search for known vulnerabilities in what the program calls (needs the network)
	scripts/vuln.sh

tidy-check: ## fail if go.mod or tools/go.mod needs go mod tidy
	$(GO) mod tidy -diff
	cd tools && $(GO) mod tidy -diff

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
