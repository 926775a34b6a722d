# Sluice. `make help` lists the targets.

GO     ?= go
BINARY := bin/sluice

# The version is a tag's; between tags the commit says it, which Go stamps
# itself. Where git does not trust the checkout, Go could not read it either and
# would refuse to build.
VERSION := $(shell git describe --tags --dirty 2>/dev/null)
VCS     := $(if $(shell git rev-parse HEAD 2>/dev/null),auto,false)

# What needs root runs under sudo unless make itself is root. Nothing is built
# as root then.
ROOT := $(if $(filter-out 0,$(shell id -u)),sudo)

# The race detector needs a C compiler.
HAVE_CC := $(shell command -v $$($(GO) env CC) 2>/dev/null)

# Packages whose tests are worth a second run under the race detector: those
# with goroutines that share memory.
RACE ?= ./...

LEFT_OUT := $(CURDIR)/bin/left-out
FUZZTIME ?= 1m
SOAKTIME ?= 10m
MUTATIONS ?= 10000000

.PHONY: all build run demo demo-dsr test lint bench profile generate fuzz soak faults package test-package test-systemd clean help

all: build

build: ## bin/sluice, static
	CGO_ENABLED=0 $(GO) build -pgo=bench/sluice.pgo -trimpath -buildvcs=$(VCS) -ldflags '-X main.release=$(VERSION)' -o $(BINARY) ./cmd/sluice

run: build ## the gateway in a lab of network namespaces, with real traffic (root; under a minute)
	$(ROOT) $(BINARY) lab demo

demo-dsr: build ## Direct Server Return in the same lab, captured packet by packet (root; seconds)
	$(ROOT) $(BINARY) lab dsr

demo: build ## the same lab, kept up, with commands to try (root; ^C ends it)
	$(ROOT) $(BINARY) lab up

test: ## everything that must hold (under 10 minutes on 2 cores; all of it needs root and gcc)
	$(GO) vet ./...
	GOARCH=arm64 $(GO) vet ./conntrack
	$(GO) test -count=1 -tags purego -run 'Prefetch|Stages' ./conntrack
	@mkdir -p bin && rm -f $(LEFT_OUT)
	SLUICE_LEFT_OUT=$(LEFT_OUT) $(GO) test -count=1 -timeout 5m ./...
ifneq ($(HAVE_CC),)
	CGO_ENABLED=1 $(GO) test -race -count=1 -timeout 8m $(RACE)
else ifeq ($(CI),true)
	@echo "make test: the race detector needs gcc; under CI=true nothing may be left out" >&2; exit 1
else
	@echo "the race detector, for want of a C compiler (apt-get install gcc libc6-dev)" >> $(LEFT_OUT)
endif
	@if [ -s $(LEFT_OUT) ]; then \
		echo; echo "Left out:"; sort -u $(LEFT_OUT) | sed 's/^/  /'; \
		echo "As root (sudo make test) the tests among these run, too."; \
	fi

lint: ## gofmt, go vet, staticcheck
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); \
	if [ -n "$$unformatted" ]; then echo "not formatted (gofmt -w): $$unformatted" >&2; exit 1; fi
	$(GO) vet ./...
	$(GO) tool staticcheck ./...

bench: build ## figures into bench/out, against C, the kernel and a bare forwarder (root; under 10 minutes; wants an idle machine)
	$(ROOT) $(BINARY) bench all

profile: ## bench/sluice.pgo, by which build optimises; after changes of the packet path
	$(GO) test -trimpath -run '^$$' -bench 'WholePass|SetUp' -benchtime 2s -cpuprofile bench/sluice.pgo -o bin/bench.test ./bench

generate: ## the eBPF objects from their C source (clang 14)
	$(GO) generate ./xdp ./internal/agent

# A number of inputs, and no time, so that a busy machine does not fail.
FUZZ     := ./internal/packet:FuzzParse ./nat:FuzzRewrite ./nat:FuzzRewriteError
FUZZRUNS ?= 20000

fuzz: ## FUZZRUNS (default 20000) new inputs for each that reads packets or translates them; soak does all targets, for longer
	@for target in $(FUZZ); do \
		$(GO) test -run '^$$' -fuzz "^$${target#*:}\$$" -fuzztime $(FUZZRUNS)x $${target%:*} || exit 1; \
	done

soak: ## MUTATIONS damaged frames (default ten million) through the pipeline, random faults under traffic for SOAKTIME (default 10m; root), every fuzz target for FUZZTIME (default 1m)
	SLUICE_MUTATIONS=$(MUTATIONS) $(GO) test -count=1 -timeout 0 -v -run '^TestMutatedFrames$$' ./internal/gateway
	SLUICE_SOAK=$(SOAKTIME) $(GO) test -count=1 -timeout 0 -v -run '^TestSoak$$' ./internal/faults
	@grep -rl --include='*_test.go' '^func Fuzz' . | xargs -n1 dirname | sort -u | while read -r dir; do \
		for target in $$(grep -ho '^func Fuzz[A-Za-z0-9_]*' $$dir/*_test.go | cut -c6-); do \
			echo "$$dir $$target"; \
			$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) $$dir || exit 1; \
		done; \
	done

faults: ## faults planted in the code one at a time: each must be noticed by the test that the list names (minutes)
	SLUICE_FAULTS=all $(GO) test -count=1 -timeout 30m -v -run '^TestFaultsAreNoticed$$' ./internal/plant

# Packages need a version that begins with a digit. Between tags it is 0.0 and the
# commit's time, so that a later one is newer.
PACKAGE_VERSION ?= $(or $(patsubst v%,%,$(shell git describe --tags --exact-match 2>/dev/null)),0.0.$(shell git log -1 --format=%cd --date=format:%Y%m%d%H%M%S 2>/dev/null))
PACKAGES := bin/packages

package: build ## deb, rpm and tarball for amd64 and arm64 into bin/packages
	@rm -rf $(PACKAGES) && mkdir -p $(PACKAGES)
	for arch in amd64 arm64; do \
		CGO_ENABLED=0 GOARCH=$$arch $(GO) build -pgo=bench/sluice.pgo -trimpath -buildvcs=$(VCS) -ldflags '-s -w -X main.release=$(PACKAGE_VERSION)' -o bin/sluice-$$arch ./cmd/sluice && \
		GO=$(GO) internal/packaging/build.sh $$arch $(PACKAGE_VERSION) $(PACKAGES) || exit 1; \
	done
	@cd $(PACKAGES) && sha256sum sluice-* | tee SHA256SUMS

test-package: package ## the packages: built twice they are equal; the deb installed into a clean root and removed (root, debootstrap)
	$(ROOT) env SLUICE_PACKAGES=$(CURDIR)/$(PACKAGES) $(GO) test -count=1 -v -run 'Package' ./internal/packaging

test-systemd: package ## the service under a systemd of its own: start, reload, watchdog, restart, removal (root, debootstrap, systemd-nspawn)
	$(ROOT) env SLUICE_PACKAGES=$(CURDIR)/$(PACKAGES) $(GO) test -count=1 -v -timeout 20m -run 'Systemd' ./internal/packaging

clean: ## what was built
	rm -rf bin bench/out

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22
