# Jailwright: build, try, test, install. `make` alone lists what there is.
#
#   PREFIX   where it goes (/usr/local)        DESTDIR  put in front of every installed path (packagers)
#   LIBC     gnu (default) or musl: the C library linked into the static programs
#   COMPAT   where install-compat puts jailkit's names (/usr/sbin, where panels look for them)
#   PROFILE  release (default) or dev: what `build` makes and `install` takes

PREFIX  ?= /usr/local
DESTDIR ?=
LIBC    ?= gnu
PROFILE ?= release
COMPAT  ?= /usr/sbin

CARGO      := tests/cargo
TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
HOST        = $(shell $(CARGO) -vV | sed -n 's/^host: //p')
# jail-sh is linked statically: no loader and no NSS module in the privileged process. A --target keeps its flags away from
# the procedural macros, which cannot be linked so; a target directory of its own keeps them away from everything else.
STATIC_TARGET  = $(if $(filter musl,$(LIBC)),$(firstword $(subst -, ,$(HOST)))-unknown-linux-musl,$(HOST))
STATIC_DIR    := $(TARGET_DIR)/static
PROFILE_DIR   := $(if $(filter dev,$(PROFILE)),debug,$(PROFILE))
BIN_DIR       ?= $(TARGET_DIR)/$(PROFILE_DIR)
STATIC_BIN    := $(STATIC_DIR)/$(STATIC_TARGET)/$(PROFILE_DIR)
JAIL_SH       ?= $(STATIC_BIN)/jail-sh
JAIL_RUN      ?= $(STATIC_BIN)/jail-run
JAIL_GUEST    ?= $(STATIC_BIN)/jail-guest
JAIL_MACHINE  ?= $(STATIC_BIN)/jail-machine
MAN_DIR       := $(TARGET_DIR)/man
COMPLETIONS_DIR := $(TARGET_DIR)/completions

SBIN_PROGRAMS := $(basename $(notdir $(wildcard crates/jail-init/src/bin/*.rs))) jail-user
BIN_PROGRAMS  := jail-run
# $(call static,PACKAGE,PROFILE): a program without a loader.
static         = CARGO_TARGET_$(subst -,_,$(shell echo $(STATIC_TARGET) | tr a-z A-Z))_RUSTFLAGS="-C target-feature=+crt-static" \
                 CC_$(subst -,_,$(STATIC_TARGET))=$(CC) \
                 $(CARGO) build --locked -p $(1) --profile $(2) --target $(STATIC_TARGET) --target-dir $(STATIC_DIR)
# jailkit's names; jk_chrootsh is the login shell itself, the others are one program.
COMPAT_NAMES  := jk_init jk_cp jk_jailuser jk_lsh jk_update jk_check jk_list jk_chrootlaunch
COMPAT_LINKS  := $(COMPAT_NAMES:%=$(PREFIX)/sbin/jk-compat:%) $(PREFIX)/sbin/jail-sh:jk_chrootsh
SHARE          = $(DESTDIR)$(PREFIX)/share/jailwright
ETC            = $(DESTDIR)/etc/jailwright


.PHONY: help build jail-sh jail-run jail-guest jail-machine probe static man demo test test-attack test-mutations test-distros test-fresh test-faults test-systemd test-cgroup2 test-crowd test-vm test-initramfs test-fleet install install-compat uninstall bench fuzz lint fmt clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' Makefile

build: jail-sh jail-run jail-guest jail-machine man ## build everything (static where it matters: jail-sh, jail-run, jail-guest, jail-machine)
	$(CARGO) build --locked --workspace --bins --exclude jail-probe --exclude jail-sh --exclude jail-run --exclude jail-guest --profile $(PROFILE)

jail-sh: # the one set-uid program
	$(call static,jail-sh,$(PROFILE))

jail-run: # without a loader it starts in half the time
	$(call static,jail-run,$(PROFILE))

jail-guest: # the first program of a virtual machine
	$(call static,jail-guest,$(PROFILE))

jail-machine: # what jail-sh becomes for a login into a virtual machine: nothing of the user's is loaded by it
	$(call static,jail-vm,$(PROFILE))

probe: # what the tests run inside a jail; static too
	$(call static,jail-probe,release) -q

static: ## build jail-sh and jail-run with musl instead: half the start-up (rustup target add …-linux-musl)
	$(MAKE) jail-sh jail-run LIBC=musl

man: # man pages and completions come from the programs' own definitions of their flags
	$(CARGO) run --locked -q -p xtask -- man $(MAN_DIR)
	$(CARGO) run --locked -q -p xtask -- completions $(COMPLETIONS_DIR)

demo: ## show what a process inside a jail can see; needs no root, changes nothing
	@tests/demo

test: ## every test but the slow ones; as root also those with real logins
	@tests/run

test-attack: ## the attack suite alone, under every policy (root)
	@tests/run attack

test-mutations: ## take each rule of the entry out once and see a test notice (slow, root)
	@tests/mutations

test-distros: ## the sections' programs in a debootstrap'ed Debian 13 (slow, root)
	@tests/distros

test-fresh: ## this README on a bare Debian 12: demo and test by a new user, by sudo and where much is forbidden (slow, root)
	@tests/fresh

test-crowd: ## a hundred users logged in at once, with one session each and with ten (root)
	for sessions in 1 10; do ulimit -n 65536; JAILWRIGHT_CROWD=$$sessions tests/run login hundred_users || exit 1; done

test-cgroup2: ## limits by cgroup version 2, on a Debian in a virtual machine (slow, root)
	@tests/cgroup2

test-vm: ## a jail as a virtual machine, by QEMU and a Debian kernel (slow; root installs them)
	@tests/vm

test-faults: ## every system call of a provisioning and of each kind of entry fails, each way (ten minutes)
	JAILWRIGHT_FAULTS=all $(CARGO) test --locked -p jail-init --test provision_faults -- --nocapture every_system_call
	JAILWRIGHT_FAULTS=all tests/run attack that_fails --test-threads 1

test-systemd: ## logins on a host that systemd runs, booted by systemd-nspawn (slow, root)
	@tests/systemd

test-initramfs: ## a jail exported with --cpio boots in an emulated machine (slow, root)
	$(CARGO) build --locked -q -p jail-init
	@tests/initramfs

test-fleet: ## the Ansible role against three hosts made on this machine (slow, root)
	$(CARGO) build --locked -q -p jail-init -p jail-user
	@tests/fleet

install: ## install to $(DESTDIR)$(PREFIX); run `make build` first
	@for p in $(addprefix $(BIN_DIR)/,$(SBIN_PROGRAMS)) $(JAIL_RUN) $(JAIL_SH) $(JAIL_GUEST) $(JAIL_MACHINE); do \
	    [ -x $$p ] || { echo "make install: '$$p' is not built: run 'make build' first" >&2; exit 1; }; done
	install -d $(DESTDIR)$(PREFIX)/sbin $(DESTDIR)$(PREFIX)/bin $(SHARE)
	install -d -m 755 $(ETC) $(ETC)/profiles
	install -m 755 $(addprefix $(BIN_DIR)/,$(SBIN_PROGRAMS)) $(DESTDIR)$(PREFIX)/sbin/
	install -m 755 $(JAIL_RUN) $(DESTDIR)$(PREFIX)/bin/
	install -m 755 $(JAIL_SH) $(DESTDIR)$(PREFIX)/sbin/jail-sh
	install -D -m 755 $(JAIL_GUEST) $(DESTDIR)$(PREFIX)/libexec/jailwright/jail-guest
	install -D -m 755 $(JAIL_MACHINE) $(DESTDIR)$(PREFIX)/libexec/jailwright/jail-machine
	@# Only root can make it root's; a package built by anyone else sets owner and mode on its own.
	@if [ "$$(id -u)" = 0 ]; then chown root:root $(DESTDIR)$(PREFIX)/sbin/jail-sh && chmod 4755 $(DESTDIR)$(PREFIX)/sbin/jail-sh; \
	else echo "make install: not root, so '$(DESTDIR)$(PREFIX)/sbin/jail-sh' is not set-uid: chown root:root and chmod 4755 it" >&2; fi
	@set -e; for d in profiles share/*; do \
	    [ -d $$d ] || continue; to=$(SHARE)/$$(basename $$d); \
	    (cd $$d && find . -type f) | while read -r f; do \
	        mode=644; [ -x "$$d/$$f" ] && mode=755; install -D -m $$mode "$$d/$$f" "$$to/$$f"; done; done
	@sed -i 's|/usr/local/sbin|$(PREFIX)/sbin|g' $(SHARE)/apt/* $(SHARE)/systemd/*
	@if [ -e share/jail-sh.toml ] && [ ! -e $(ETC)/jail-sh.toml ]; then install -m 644 share/jail-sh.toml $(ETC)/jail-sh.toml; fi
	@set -e; for page in $(MAN_DIR)/*.[0-9]; do [ -e $$page ] || continue; \
	    install -D -m 644 $$page $(DESTDIR)$(PREFIX)/share/man/man$${page##*.}/$$(basename $$page); done
	@set -e; cd $(COMPLETIONS_DIR) 2>/dev/null || exit 0; for f in bash/*.bash zsh/_* fish/*.fish; do [ -e $$f ] || continue; \
	    case $$f in \
	        bash/*) to=bash-completion/completions/$$(basename $$f .bash);; \
	        zsh/*) to=zsh/site-functions/$$(basename $$f);; \
	        *) to=fish/vendor_completions.d/$$(basename $$f);; esac; \
	    install -D -m 644 $$f $(abspath $(DESTDIR)$(PREFIX))/share/$$to; done

install-compat: ## also answer to jailkit's names (jk_init …) in $(COMPAT), for scripts that know no others; after `make install`
	@[ -x $(DESTDIR)$(PREFIX)/sbin/jail-sh ] || { echo "make install-compat: '$(DESTDIR)$(PREFIX)/sbin/jail-sh' is not there: run 'make install' first" >&2; exit 1; }
	@[ -x $(BIN_DIR)/jk-compat ] || { echo "make install-compat: '$(BIN_DIR)/jk-compat' is not built: run 'make build' first" >&2; exit 1; }
	@for link in $(COMPAT_LINKS); do at=$(DESTDIR)$(COMPAT)/$${link#*:}; \
	    if [ -e $$at ] || [ -L $$at ]; then \
	        [ "$$(readlink $$at)" = $${link%:*} ] || { \
	            echo "make install-compat: refused: '$$at' is there and is not ours (Debian's package jailkit?); nothing was changed. Move the accounts first (jail-user --from-jailkit --all), then remove that package" >&2; exit 4; }; fi; done
	install -d $(DESTDIR)$(COMPAT)
	install -m 755 $(BIN_DIR)/jk-compat $(DESTDIR)$(PREFIX)/sbin/jk-compat
	@set -e; for link in $(COMPAT_LINKS); do at=$(DESTDIR)$(COMPAT)/$${link#*:}; ln -sfn $${link%:*} $$at; echo "$$at -> $${link%:*}"; done

uninstall: ## remove what install and install-compat put there; refuses while an account has our shell
	@shells=$(PREFIX)/sbin/jail-sh; [ "$$(readlink $(COMPAT)/jk_chrootsh)" != $(PREFIX)/sbin/jail-sh ] || shells="$$shells $(COMPAT)/jk_chrootsh"; \
	users=$$([ -n "$(DESTDIR)" ] || for s in $$shells; do awk -F: -v s=$$s '$$7 == s { print $$1 }' /etc/passwd; done); \
	if [ -n "$$users" ]; then \
	    echo "make uninstall: refused: these accounts could not log in any more, since $$shells is their shell. Release them first:" >&2; \
	    for u in $$users; do echo "    $(PREFIX)/sbin/jail-user --release $$u" >&2; done; exit 4; fi
	@for link in $(COMPAT_LINKS); do at=$(DESTDIR)$(COMPAT)/$${link#*:}; [ "$$(readlink $$at)" != $${link%:*} ] || rm -f $$at; done
	rm -f $(DESTDIR)$(PREFIX)/sbin/jk-compat
	rm -f $(addprefix $(DESTDIR)$(PREFIX)/sbin/,$(SBIN_PROGRAMS) jail-sh) $(addprefix $(DESTDIR)$(PREFIX)/bin/,$(BIN_PROGRAMS))
	rm -rf $(SHARE) $(DESTDIR)$(PREFIX)/libexec/jailwright
	rm -f $(DESTDIR)$(PREFIX)/share/man/man[158]/jail-*.[158] $(DESTDIR)$(PREFIX)/share/man/man5/jailwright-section.5
	rm -f $(addprefix $(DESTDIR)$(PREFIX)/share/bash-completion/completions/,$(SBIN_PROGRAMS) $(BIN_PROGRAMS))
	rm -f $(addprefix $(DESTDIR)$(PREFIX)/share/zsh/site-functions/_,$(SBIN_PROGRAMS) $(BIN_PROGRAMS))
	rm -f $(patsubst %,$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/%.fish,$(SBIN_PROGRAMS) $(BIN_PROGRAMS))
	@echo "kept: $(ETC) (your policy) and /var/lib/jailwright (what is known of your jails)"

bench: build ## compare with jailkit and bubblewrap in one run (root)
	$(CARGO) build --locked -q -p jail-confine --example filter-cost --profile $(PROFILE)
	@bench/run $(BENCH_FLAGS)

fuzz: ## fuzz every parser that meets hostile bytes for a minute each (nightly, cargo-fuzz)
	@fuzz/run

lint: ## what .ci/run checks before the tests
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings

fmt: # write it as the linter wants it
	$(CARGO) fmt --all

clean: # remove what was built
	$(CARGO) clean
