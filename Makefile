# make          format check, vet, staticcheck, tests
# make help     everything else

GO       ?= go
VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
FUZZTIME ?= 1m
IMAGE    ?= gcemds:dev

# The platforms that gcemds is built for. Those that have a container image come first.
IMAGE_PLATFORMS := linux/amd64 linux/arm64
PLATFORMS       := $(IMAGE_PLATFORMS) darwin/amd64 darwin/arm64 windows/amd64 windows/arm64

# The image program is a module of its own: what it needs stays out of our go.mod. So is the chart, which needs Helm, and
# gcemds-pkcs11, which needs cgo besides: without a C compiler it is left out.
IMAGE_MODULE  := deploy/image
HELM_MODULE   := deploy/helm
PKCS11_MODULE := cmd/gcemds-pkcs11
CGO           := $(filter 1,$(shell $(GO) env CGO_ENABLED))
MODULES       := $(IMAGE_MODULE) $(HELM_MODULE) $(if $(CGO),$(PKCS11_MODULE))

# What only make e2e runs has to be right before.
LINTED := $(MODULES) examples e2e

# The race detector needs a C compiler. Go says CGO_ENABLED=0 when there is none.
RACE := $(if $(CGO),-race)

# It lets each program linger for a second when it ends, in case there is a race
# with the end; a tenth does for tests.
export GORACE := atexit_sleep_ms=100

.DEFAULT_GOAL := test
.DELETE_ON_ERROR:
.PHONY: help build pkcs11 lint test fips vuln fuzz e2e kube kube-world bench bench-gke cross image generate check-generated clean \
	$(PLATFORMS:%=cross/%)

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "%-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## build gcemds for this machine into dist/
	CGO_ENABLED=0 $(GO) build -trimpath -o dist/ ./cmd/gcemds

pkcs11: ## build gcemds-pkcs11, which signs with PKCS#11 tokens, into dist/; takes a C compiler
	cd $(PKCS11_MODULE) && CGO_ENABLED=1 $(GO) build -trimpath -o $(CURDIR)/dist/ .

lint: ## check format, vet and staticcheck; changes nothing
	@unformatted="$$(gofmt -l .)"; if [ -n "$$unformatted" ]; then \
		echo "not formatted (run gofmt -w):" >&2; echo "$$unformatted" >&2; exit 1; fi
	$(GO) vet ./...
	$(GO) tool staticcheck ./...
	staticcheck="$$($(GO) tool -n staticcheck)"; for module in $(LINTED); do \
		(cd $$module && $(GO) vet ./... && "$$staticcheck" ./...) || exit 1; done

test: lint ## lint, then every test that needs neither root nor network (the default)
	@$(if $(CGO),,echo "no C compiler: testing without the race detector, and not testing gcemds-pkcs11" >&2)
	for module in $(filter-out $(HELM_MODULE),$(MODULES)); do (cd $$module && $(GO) test $(RACE) ./...) || exit 1; done
	cd $(HELM_MODULE) && $(GO) test ./... # has no goroutines, and Helm takes minutes to be built once more
	$(GO) test $(RACE) ./...
	$(if $(RACE),$(GO) test -run Stack ./internal/server)

# What uses cryptography. Of the commands, those that run a whole server against a whole Google.
FIPS := . ./mdstest ./client/... $(addprefix ./internal/,credential daemon exchange gke issuer proxy server token tpm)

fips: export GODEBUG := fips140=only
fips: ## test what uses cryptography in FIPS 140-3 mode (GODEBUG=fips140=only)
	$(GO) test $(FIPS)
	$(GO) test -run 'Google|Secrets' ./internal/cli

vuln: ## look for known vulnerabilities (GOVULNDB=file:///... for a local database)
	@.ci/vuln

fuzz: ## fuzz every fuzz test for FUZZTIME each (default 1m)
	@.ci/fuzz $(FUZZTIME)

e2e: ## try real clients, the image and the units (Debian 12; all of it as root)
	e2e/run

kube: ## build the programs of Kubernetes that e2e runs (ten minutes, once; later nothing)
	e2e/kube/programs/build

kube-world: kube ## make a cluster of two nodes, say how to get there, keep it until Ctrl-C (root)
	cd e2e/kube && $(GO) test -timeout=0 -hold

bench: ## run the benchmarks and print the report
	$(GO) run ./bench

bench-gke: export GCEMDS_E2E_BINARY := $(CURDIR)/dist/gcemds
bench-gke: build kube ## measure gcemds on a full node of a real cluster, print the report (root)
	cd e2e/kube && $(GO) test -exec='unshare --net' -count=1 -timeout=30m -run='^TestMeasured$$' . -v -measure $(if $(TABLE),-table=$(abspath $(TABLE)))

cross: $(PLATFORMS:%=cross/%) ## build for every platform without cgo into dist/

$(PLATFORMS:%=cross/%): export CGO_ENABLED := 0
$(PLATFORMS:%=cross/%): cross/%:
	GOOS=$(*D) GOARCH=$(*F) $(GO) build -trimpath ./...
	GOOS=$(*D) GOARCH=$(*F) $(GO) build -trimpath -ldflags='-s -w' \
		-o dist/gcemds-$(*D)-$(*F)$(if $(filter windows,$(*D)),.exe) ./cmd/gcemds

image: $(IMAGE_PLATFORMS:%=cross/%) ## write the container image to dist/gcemds.tar, print its digest; no daemon
	cd $(IMAGE_MODULE) && $(GO) run . -o $(CURDIR)/dist/gcemds.tar -tag $(IMAGE) -version $(VERSION) \
		$(foreach p,$(IMAGE_PLATFORMS),$(p)=$(CURDIR)/dist/gcemds-$(subst /,-,$(p)))

generate: ## write the generated files anew
	$(GO) generate ./...
	cd $(HELM_MODULE) && $(GO) generate ./...

check-generated: ## fail if a generated file differs from what make generate writes
	@.ci/check-generated

clean: ## remove what the other targets left
	rm -rf dist
