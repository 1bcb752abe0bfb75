# Everything runs as root on Debian 12 with Go; each target installs what it needs and says so.
#   make build   binaries in bin/            make demo    the main job, end to end, as a transcript
#   make check   format, vet, staticcheck, dependency closures, budgets, Rego tests
#   make test    check, and every test       make fuzz    each fuzz target for FUZZTIME
#   make bench   ratios against containerd   make clean   removes bin/
#   make test-vm what touches the kernel, in an emulated machine with cgroup v2 and AppArmor (LSM=selinux: SELinux)
#   make test-lsm  what AppArmor and SELinux alone hold, likewise; a part of make test
#   make test-kubelet   a real kubelet on Postern     make test-node-e2e   the upstream node e2e suite
#   make test-long   what takes too long for make test: test-kubelet, test-node-e2e, critest, critest-vm, 1,000 pods that come and go
#   make critest the upstream CRI validation suite, by SPDY and by WebSocket
SHELL := /bin/bash
GO ?= go
FUZZTIME ?= 20000x
export GOFLAGS := -trimpath
TAGS := containers_image_openpgp,grpcnotrace
LAUNCH_TAGS := seccomp,netgo,osusergo,runc_nocriu
STATIC := postern postern-init postern-helper posternd postern-streamd postern-logd postern-policyd postern-imaged postern-auditd postern-cni
LDFLAGS := -s -w

.PHONY: all build tools testbin demo test test-kubelet test-node-e2e test-vm test-lsm test-long test-churn check critest critest-vm fuzz bench clean deps-build deps-run vet staticcheck format
all: build

deps-build:
	@test/install.sh build
deps-run: deps-build
	@test/install.sh run

build: deps-build
	@mkdir -p bin
	CGO_ENABLED=0 $(GO) build -tags $(TAGS) -ldflags '$(LDFLAGS)' -o bin/ $(addprefix ./cmd/,$(STATIC))
	CGO_ENABLED=1 $(GO) build -tags $(LAUNCH_TAGS) -ldflags '$(LDFLAGS) -extldflags "-static"' -o bin/ ./cmd/postern-launch

# crictl, for the demo and the tests; pinned in test/tools/go.mod.
bin/tools/crictl: test/tools/go.mod
	@mkdir -p bin/tools; echo "building crictl (pinned in test/tools/go.mod)"
	@cd test/tools && CGO_ENABLED=0 $(GO) build -o ../../bin/tools/crictl sigs.k8s.io/cri-tools/cmd/crictl
tools: bin/tools/crictl
# The registry of the demo and the tests, and the front end that attacks.
testbin:
	@mkdir -p bin/test
	CGO_ENABLED=0 $(GO) build -tags $(TAGS) -o bin/test/ ./test/cmd/... ./test/hostile

demo: build deps-run tools testbin
	@test/demo/demo.sh

format:
	@out=$$(gofmt -l cmd privsep policy profiles verify runtime audit fuzz test); [ -z "$$out" ] || { echo "not formatted (run gofmt -w):"; echo "$$out"; exit 1; }
vet: deps-build
	$(GO) vet -tags $(TAGS),seccomp ./...
staticcheck: deps-build
	$(GO) tool -modfile=test/lint/go.mod staticcheck -tags $(TAGS),seccomp ./...
check: format vet staticcheck
	$(GO) test -count=1 ./test/repo/... ./policy/rego/...

# What each LSM alone holds: profiles of our own processes, labels of containers. Two emulated machines, about five minutes each.
define test_lsm
@POSTERN_RUN='TestAppArmor|TestPodOptions' LSM=apparmor test/vm/test.sh test/undo test/e2e
@POSTERN_RUN='TestSELinux|TestPortForward|TestMountOptions' LSM=selinux test/vm/test.sh test/undo test/e2e
endef

test: build deps-run tools testbin check
	test/test.sh
	$(test_lsm)

# A real kubelet on Postern (docs/KUBELET.md), once a profile. Not part of make test: compiling a kubelet takes its time.
KUBELET_PROFILES ?= baseline conformance
KUBE_VERSION := -X k8s.io/component-base/version.gitVersion=v1.37.2 -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=37
bin/tools/kubelet: test/kubelet/go.mod
	@mkdir -p bin/tools; echo "building the kubelet (pinned in test/kubelet/go.mod)"
	cd test/kubelet && $(GO) build -ldflags '$(KUBE_VERSION)' -o ../../bin/tools/kubelet k8s.io/kubernetes/cmd/kubelet
test-kubelet: build deps-run tools testbin bin/tools/kubelet
	cd test/kubelet && $(GO) build -o ../../bin/test/kubeletctl .
	@for p in $(KUBELET_PROFILES); do test/kubelet/kubelet.sh $$p || exit 1; done

# The upstream node e2e suite; its test binary takes a quarter of an hour to compile, and as long to run.
bin/tools/e2e_node.test: test/node-e2e/tools/go.mod
	@mkdir -p bin/tools bin/test; echo "building the node e2e suite (pinned in test/node-e2e/tools/go.mod)"
	cd test/node-e2e/tools && $(GO) build -o ../../../bin/test/agnhost k8s.io/kubernetes/test/images/agnhost
	cd test/node-e2e/tools && $(GO) build -o ../../../bin/tools/ginkgo github.com/onsi/ginkgo/v2/ginkgo
	cd test/node-e2e/tools && $(GO) test -ldflags '$(KUBE_VERSION)' -c -o ../../../bin/tools/e2e_node.test k8s.io/kubernetes/test/e2e_node
test-node-e2e: build deps-run tools bin/tools/kubelet bin/tools/e2e_node.test
	@test/install.sh node-e2e
	CGO_ENABLED=0 $(GO) build -tags $(TAGS) -o bin/test/node-e2e ./test/node-e2e
	@test/node-e2e/node-e2e.sh

# What make test has not the time for. A target that belongs here is added to the list.
test-long: test-kubelet test-node-e2e test-churn critest critest-vm

# About a quarter of an hour: 1,000 pods, eight at a time, then a wait for heaps to come to rest.
test-churn: build deps-run tools testbin
	POSTERN_CHURN=1000 $(GO) test -count=1 -v -timeout 60m -tags containers_image_openpgp,seccomp -run '^Test(Churn|PluginHangs|PowerLoss)$$' ./test/e2e ./test/image

# About half an hour: emulation is ten to twenty times slower than the machine.
test-vm: build deps-run tools testbin
	@test/vm/test.sh

test-lsm: build deps-run tools testbin
	$(test_lsm)
critest-vm: build deps-run
	@test/vm/critest.sh

critest: build deps-run
	@test/critest/critest.sh
	@test/critest/critest.sh -ginkgo.focus Streaming -websocket-exec -websocket-attach -websocket-portforward

fuzz: deps-build
	FUZZTIME=$(FUZZTIME) test/fuzz.sh

bench: build deps-run
	@test/install.sh bench
	@test/bench/bench.sh

clean:
	rm -rf bin
