# The verbs of this repository. The logic is in the programs that they call.
SHELL := /bin/sh
CARGO ?= cargo
export CARGO

.PHONY: help deps build check test test-long test-boot-all test-power test-storm test-chaos test-console test-guest test-cards hwprofiles fuzz deb test-deb image lock release reproducible buildroot-image buildroot-source buildroot-release check-buildroot test-boot run boot bench bench-quick bench-icount check-icount bless-icount bless clean

help: ## print this list
	@echo 'Headgate: a layer-4 load balancer in the Linux kernel, as an appliance.'
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-17s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

deps: ## bring the Debian packages that everything here needs (as root; else prints what to type)
	@scripts/deps

# The programs behind the verbs, compiled with cargo's own progress: `cargo run -q` would be silent for minutes.
.PHONY: image-tool bench-tool
image-tool: deps
	$(CARGO) build --release -p headgate-image

bench-tool: deps
	$(CARGO) build --release -p headgate-bench

build: deps ## compile everything
	$(CARGO) build --workspace --all-targets

# --all-targets leaves out tests that have a make target of their own.
check: deps ## formatting, clippy, rustdoc: all warnings are errors
	$(CARGO) fmt --all --check
	$(CARGO) fmt --manifest-path fuzz/Cargo.toml --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	$(CARGO) clippy -p headgate-tests --test '*' -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --workspace --no-deps --document-private-items

# Images that tests boot: see the profile in Cargo.toml.
test test-boot-all test-power: export HEADGATE_PROFILE = trial

test: deps ## every test but the long ones: unit, golden, kernel namespaces, one boot by BIOS and one by UEFI (as root)
	$(CARGO) test --workspace

test-long: deps ## random configurations on the kernel, ROUNDS=50 times as many, others in each run (as root)
	HEADGATE_ROUNDS=$(or $(ROUNDS),50) HEADGATE_SEED=$(or $(SEED),$$(date +%s)) $(CARGO) test --release -p headgate-tests --test random

test-storm: deps ## 1,000 reloads, 100 restarts and 100 kills of the supervisor under load; 3 minutes (as root)
	HEADGATE_ROUNDS=5 $(CARGO) test --release -p headgate-tests --test storm -- --nocapture

test-chaos: deps ## faults of sixteen kinds under load for 10 minutes, SECONDS=600, others in their order in each run (as root)
	HEADGATE_CHAOS=$(or $(SECONDS),600) HEADGATE_SEED=$(or $(SEED),$$(date +%s)) $(CARGO) test --release -p headgate-tests --test chaos -- --nocapture

test-boot: deps ## boot the image by BIOS and by UEFI, send traffic through it, try to get in; IMAGE=FILE tries another one (as root)
	IMAGE=$(if $(IMAGE),$(abspath $(IMAGE))) $(CARGO) test -p headgate-tests --test boot

test-boot-all: deps ## the appliance over several starts: failing slots, updates, growing disks, tunnels, leases, turned NICs; 30 minutes; IMAGE=FILE is what is updated to (as root)
	IMAGE=$(if $(IMAGE),$(abspath $(IMAGE))) $(CARGO) test -p headgate-tests --test appliance -- --test-threads=1

test-power: deps ## the power goes at CUTS=1000 points of an update and of changes, and BOOTS=20 of them start again; 40 minutes (as root)
	HEADGATE_CUTS=$(or $(CUTS),1000) HEADGATE_BOOTS=$(or $(BOOTS),20) HEADGATE_SEED=$(or $(SEED),$$(date +%s)) \
	$(CARGO) test -p headgate-tests --test appliance -- --ignored --nocapture --exact power::a_power_cut_leaves_a_good_slot_and_the_configuration

test-console: deps ## the console under axe-core, which npm brings; PICTURES=docs draws its pictures anew (as root)
	mkdir -p target/axe && cd target/axe && npm pack --silent axe-core@4.14.1 >/dev/null && tar -xzf axe-core-4.14.1.tgz
	HEADGATE_AXE=$(CURDIR)/target/axe/package/axe.min.js $(if $(PICTURES),PICTURES=$(abspath $(PICTURES))) \
	$(CARGO) test -p headgate --test console -- --ignored --exact axe_finds_nothing

test-guest: deps ## tunnels, VLANs, bonds, VRFs, offload and queues in a guest with the image's kernel; GUEST=word for some of them (as root)
	$(CARGO) test -p headgate-tests --test guest -- --ignored --nocapture --exact the_kernel_of_the_image_carries_packets

test-cards: deps ## NICs that are turned by hand or bound anew, in a guest with two igb and a virtio; 2 minutes (as root)
	$(CARGO) test --release -p headgate-tests --test guest -- --ignored --nocapture --exact the_kernel_of_the_image_keeps_cards_tuned

hwprofiles: ## validate the hardware profiles of hwprofiles/
	$(CARGO) run -q -p headgate --bin headgate -- hw check hwprofiles

fuzz: ## look for bytes that break a parser, SECONDS=600 for each target (needs cargo-fuzz and a C++ compiler)
	@scripts/fuzz $(or $(SECONDS),600)

deb: deps ## build the Debian package of the service: target/debian/headgate_*.deb (needs cargo-deb)
	@scripts/deb

test-deb: deb ## install, upgrade, remove and purge the package in a copy of this machine, and run its service under systemd (as root)
	@scripts/try-deb
	@scripts/try-systemd

image: image-tool ## build the appliance image: build/headgate.img
	$(CARGO) run -q --release -p headgate-image -- build

lock: image-tool ## pin the newest Debian packages of the image by version and checksum: image/packages.lock
	$(CARGO) run -q --release -p headgate-image -- lock

release: image-tool ## what is published, in build/headgate-VERSION: disks, update file (KEY=FILE), bill of materials, inputs, checksums
	$(CARGO) run -q --release -p headgate-image -- release $(if $(KEY),--key $(KEY) --update-key $(KEY:.key=.pub))

reproducible: deps ## build the image twice, in other directories, at other times, as other users: the same bytes? 10 minutes
	@scripts/reproducible

buildroot-image: deps ## the production image by Buildroot, hours the first time: BUILDROOT=DIR, O=DIR, KEY=FILE, SITE=FILE (docs/buildroot.md)
	@scripts/buildroot image

buildroot-source: ## download all that the production image is built from, into Buildroot's dl/: archive that with a release
	@scripts/buildroot source

buildroot-release: buildroot-source buildroot-image ## the production image as it is published, with the licences and sources of its parts
	@scripts/buildroot release

check-buildroot: deps ## what of the production image can be checked without building it, minutes; more with BUILDROOT=DIR
	@scripts/check-buildroot

run: image-tool ## build the image, boot it in QEMU, send HTTP through it, say what happened (KEEP=1 leaves it up)
	$(CARGO) run -q --release -p headgate-image -- demo $(if $(KEEP),--keep)

boot: image ## boot the image in QEMU with its console on this terminal
	$(CARGO) run -q --release -p headgate-image -- boot

bench: bench-tool image ## measure Headgate beside its peers and write docs/benchmarks.md (as root, on a quiet machine)
	$(CARGO) run -q --release -p headgate-bench -- dataplane --write
	$(CARGO) run -q --release -p headgate-bench -- control --write
	$(CARGO) run -q --release -p headgate-bench -- consistency --write
	$(CARGO) run -q --release -p headgate-bench -- paper --image --write
	$(CARGO) run -q --release -p headgate-bench -- image --write
	$(CARGO) run -q --release -p headgate-bench -- boot --write
	$(CARGO) run -q --release -p headgate-bench -- steer --write

bench-quick: bench-tool ## the same measurements in two minutes, to see that they run; writes nothing
	$(CARGO) run -q --release -p headgate-bench -- dataplane --rounds 3 --slice 200
	$(CARGO) run -q --release -p headgate-bench -- control --sizes 1x10,1000x4 --rounds 2
	$(CARGO) run -q --release -p headgate-bench -- consistency --clients 10000
	$(CARGO) run -q --release -p headgate-bench -- paper --seconds 2
	$(CARGO) run -q --release -p headgate-bench -- steer --pairs 2 --slice 300 --only veth

bench-icount: bench-tool ## count instructions per packet, flow and connection in a guest, and write docs/benchmarks.md
	$(CARGO) run -q --release -p headgate-bench -- icount --write

check-icount: bench-tool ## fail when a packet or a new flow takes more instructions than tests/bench/icount.toml says
	$(CARGO) run -q --release -p headgate-bench -- icount --check

bless-icount: bench-tool ## rewrite tests/bench/icount.toml from what is counted now; read the difference before you commit it
	$(CARGO) run -q --release -p headgate-bench -- icount --bless

bless: ## rewrite the golden files from what the code says now; read the difference before you commit it
	BLESS=1 $(CARGO) test -p headgate-tests

clean: ## remove what was built
	$(CARGO) clean
	rm -rf build
