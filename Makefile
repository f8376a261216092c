# SPDX-License-Identifier: GPL-2.0-or-later
# make            build/undersock, no privileges needed
# sudo make demo  dependencies, build, and the main job end to end
# sudo make check dependencies, build, every test
# Also: deps, test (check without deps), unit, net, lint, bench, fuzz, install, clean. V=1 shows the commands.

VERSION   = 0.1.0
PREFIX   ?= /usr/local
DESTDIR  ?=
B        ?= build
CC       ?= gcc
CLANG    ?= clang
PKG_CONFIG ?= pkg-config
Q        := $(if $(V),,@)

LIBS      = libbpf libnftnl libmnl libconfuse libseccomp libcap-ng libcares libcjson ldns
CFLAGS   ?= -O2 -g
WARN      = -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wvla -Wformat=2 \
            -Wundef -Wwrite-strings -Wimplicit-fallthrough $(if $(CI)$(WERROR),-Werror)
HARDEN   := -fstack-protector-strong -fstack-clash-protection -fPIE \
            $(if $(findstring -O0,$(CFLAGS)),,-D_FORTIFY_SOURCE=2)
CPPFLAGS += -D_GNU_SOURCE -DVERSION='"$(VERSION)"' -Iinclude -Idaemon -I.
override CFLAGS += -std=c17 $(WARN) $(HARDEN) $(SAN)
LDFLAGS  += -pie -Wl,-z,relro,-z,now -Wl,--as-needed $(SAN)
LDLIBS   += $(shell $(PKG_CONFIG) --libs $(LIBS) 2>/dev/null)
CPPFLAGS += $(shell $(PKG_CONFIG) --cflags $(LIBS) 2>/dev/null)

SRC      := $(sort $(wildcard daemon/*/*.c nft/*.c) $(filter-out %.bpf.c,$(wildcard bpf/*.c)))
OBJ      := $(SRC:%.c=$(B)/%.o)
BPF      := $(patsubst %.bpf.c,$(B)/%.bpf.o,$(wildcard bpf/*.bpf.c))
BPF_EMBED:= $(BPF:%.bpf.o=%.embed.o)
UNIT     := $(patsubst %.c,$(B)/%,$(sort $(wildcard tests/unit/*/test_*.c tests/unit/*/*/test_*.c)))
TOOLS    := $(patsubst tests/net/tools/%.c,$(B)/tests/tools/%,$(sort $(wildcard tests/net/tools/*.c)))
FUZZ     := $(patsubst %.c,$(B)/%,$(sort $(wildcard tests/fuzz/fuzz_*.c)))
REPLAY   := $(FUZZ:$(B)/tests/fuzz/fuzz_%=$(B)/tests/fuzz/replay_%)

all: $(B)/undersock

$(B)/undersock: $(B)/daemon/main.o $(B)/libundersock.a
	@echo "  LD    $@"
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS)

$(B)/libundersock.a: $(OBJ) $(BPF_EMBED)
	$(Q)rm -f $@ && ar rcs $@ $^

$(B)/%.o: %.c $(B)/flags
	@mkdir -p $(@D); echo "  CC    $<"
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) -MMD -MP -c -o $@ $<

# A change of compiler or flags rebuilds everything.
$(B)/flags: FORCE
	@mkdir -p $(B); echo '$(CC) $(CPPFLAGS) $(CFLAGS)' | cmp -s - $@ || echo '$(CC) $(CPPFLAGS) $(CFLAGS)' > $@

# BPF needs no BTF of the build machine: UAPI headers and CO-RE structs of our own.
BPF_ARCH := $(shell uname -m | sed 's/x86_64/x86/;s/aarch64/arm64/;s/ppc64le/powerpc/;s/riscv64/riscv/')
$(B)/%.bpf.o: %.bpf.c
	@mkdir -p $(@D); echo "  BPF   $<"
	$(Q)$(CLANG) -std=gnu17 -O2 -g -Wall -Wextra -Wno-unused-parameter $(if $(CI)$(WERROR),-Werror) -target bpf -mcpu=v3 \
	    -D__TARGET_ARCH_$(BPF_ARCH) -I/usr/include/$(shell uname -m)-linux-gnu -Iinclude \
	    -MMD -MP -MT $@ -c -o $@ $<

# The object goes into the binary as it is: bpf_embed_<name> and bpf_embed_<name>_end (bpf/embed.h).
$(B)/%.embed.o: $(B)/%.bpf.o
	$(Q)printf '.section .rodata\n.balign 16\n.global bpf_embed_$(notdir $*)\nbpf_embed_$(notdir $*):\n.incbin "$<"\n.global bpf_embed_$(notdir $*)_end\nbpf_embed_$(notdir $*)_end:\n.byte 0\n.section .note.GNU-stack,"",%%progbits\n' \
	    | $(CC) -c -x assembler -o $@ -

$(B)/tests/unit/%: tests/unit/%.c $(B)/libundersock.a
	@mkdir -p $(@D); echo "  TEST  $<"
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) $(LDFLAGS) -MMD -MP -o $@ $< $(B)/libundersock.a -lcmocka $(LDLIBS)

$(B)/tests/tools/%: tests/net/tools/%.c $(B)/flags
	@mkdir -p $(@D); echo "  TOOL  $<"
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) $(LDFLAGS) -MMD -MP -o $@ $< -lpthread

# The one tool that is made of what it tests.
$(B)/tests/tools/stitch: tests/net/tools/stitch.c $(B)/libundersock.a
	@mkdir -p $(@D); echo "  TOOL  $<"
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) $(LDFLAGS) -MMD -MP -o $@ $< $(B)/libundersock.a $(LDLIBS)

$(B)/tests/fuzz/fuzz_%: tests/fuzz/fuzz_%.c FORCE
	@mkdir -p $(@D); echo "  FUZZ  $<"
	$(Q)$(CLANG) $(CPPFLAGS) -std=c17 -g -O1 -fsanitize=fuzzer,address,undefined -o $@ $< \
	    $(sort $(wildcard daemon/base/*.c daemon/socks/*.c daemon/dns/*.c)) $(LDLIBS)

$(B)/tests/fuzz/replay_%: tests/fuzz/fuzz_%.c tests/fuzz/replay.c $(wildcard tests/fuzz/*.h) $(B)/libundersock.a
	@mkdir -p $(@D); echo "  TEST  $<"
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) $(LDFLAGS) -o $@ $< tests/fuzz/replay.c $(B)/libundersock.a $(LDLIBS)

tests-build: $(B)/undersock $(UNIT) $(TOOLS) $(REPLAY)

clean:
	rm -rf $(B)

-include $(shell find $(B) -name '*.d' 2>/dev/null)

.PHONY: all clean tests-build FORCE
.SECONDARY:
.DELETE_ON_ERROR:

# ---- Install ------------------------------------------------------------------------------------
# DESTDIR: where a package is put together. The unit, sysusers and tmpfiles go below PREFIX, where
# systemd looks for them with PREFIX=/usr and PREFIX=/usr/local.

SYSCONFDIR ?= /etc
BINDIR   = $(PREFIX)/bin
MANDIR   = $(PREFIX)/share/man
DOCDIR   = $(PREFIX)/share/doc/undersock
LIBDIR   = $(PREFIX)/lib
DOCS     = README.md BENCHMARK.md ARCHITECTURE.md HACKING.md LICENSE systemd/undersock.conf.example
INSTALL ?= install

install: all
	$(INSTALL) -D -m 755 $(B)/undersock $(DESTDIR)$(BINDIR)/undersock
	$(INSTALL) -D -m 644 daemon/cli/undersock.8 $(DESTDIR)$(MANDIR)/man8/undersock.8
	$(INSTALL) -D -m 644 daemon/config/undersock.conf.5 $(DESTDIR)$(MANDIR)/man5/undersock.conf.5
	$(INSTALL) -d -m 755 $(DESTDIR)$(DOCDIR)/nft && $(INSTALL) -m 644 $(DOCS) $(DESTDIR)$(DOCDIR)/
	$(INSTALL) -m 644 nft/examples/*.nft $(DESTDIR)$(DOCDIR)/nft/
	sed 's|@BINDIR@|$(BINDIR)|g' systemd/undersock.service >$(B)/undersock.service
	$(INSTALL) -D -m 644 $(B)/undersock.service $(DESTDIR)$(LIBDIR)/systemd/system/undersock.service
	$(INSTALL) -D -m 644 systemd/undersock.sysusers $(DESTDIR)$(LIBDIR)/sysusers.d/undersock.conf
	$(INSTALL) -D -m 644 systemd/undersock.tmpfiles $(DESTDIR)$(LIBDIR)/tmpfiles.d/undersock.conf
	[ -d $(DESTDIR)$(SYSCONFDIR)/undersock ] || $(INSTALL) -d -m 755 $(DESTDIR)$(SYSCONFDIR)/undersock

# The configuration stays.
uninstall:
	rm -f $(DESTDIR)$(BINDIR)/undersock $(DESTDIR)$(MANDIR)/man8/undersock.8 \
	    $(DESTDIR)$(MANDIR)/man5/undersock.conf.5 \
	    $(DESTDIR)$(LIBDIR)/systemd/system/undersock.service \
	    $(DESTDIR)$(LIBDIR)/sysusers.d/undersock.conf $(DESTDIR)$(LIBDIR)/tmpfiles.d/undersock.conf \
	    $(addprefix $(DESTDIR)$(DOCDIR)/,$(notdir $(DOCS))) \
	    $(addprefix $(DESTDIR)$(DOCDIR)/nft/,$(notdir $(wildcard nft/examples/*.nft)))
	[ ! -d $(DESTDIR)$(DOCDIR)/nft ] || rmdir $(DESTDIR)$(DOCDIR)/nft
	[ ! -d $(DESTDIR)$(DOCDIR) ] || rmdir $(DESTDIR)$(DOCDIR)
	[ ! -d $(DESTDIR)$(SYSCONFDIR)/undersock ] || \
	    rmdir --ignore-fail-on-non-empty $(DESTDIR)$(SYSCONFDIR)/undersock

# ---- Try it, test it ----------------------------------------------------------------------------

LINTS    = $(sort $(wildcard tests/lint/*.sh tests/lint/*.py))
SCENES   = $(sort $(wildcard tests/net/[0-9]*.sh))
RUN      = B=$(B) tests/run.sh
# A make of its own, so that pkg-config is asked after the packages are there; on all processors
# unless told otherwise.
MAKE_ALL = $(MAKE) --no-print-directory $(if $(filter -j% --jobserver%,$(MAKEFLAGS)),,-j$(shell nproc))
# After `sudo make` in a user's tree, what was built is the user's again.
GIVE_BACK= { [ "$$(id -u)" != 0 ] || [ ! -d $(B) ] || chown -hR --reference=. $(B); }

deps:
	$(Q)tests/deps.sh build

demo: deps
	$(Q)$(MAKE_ALL) all && $(B)/undersock demo; r=$$?; $(GIVE_BACK); exit $$r

check:
	$(Q)tests/deps.sh test
	$(Q)$(MAKE_ALL) tests-build && $(MAKE) --no-print-directory test; r=$$?; $(GIVE_BACK); exit $$r

test: tests-build
	$(Q)$(RUN) $(LINTS) $(UNIT) $(REPLAY) $(SCENES)

unit: $(UNIT) $(REPLAY)
	$(Q)$(RUN) $^

net: $(B)/undersock $(TOOLS)
	$(Q)$(RUN) $(SCENES)

lint:
	$(Q)$(RUN) $(LINTS)

# make bench BENCH="--quick --only native,output"
bench: $(B)/undersock $(TOOLS)
	$(Q)B=$(B) tests/bench/run.sh $(BENCH)

# What a fuzzer finds goes to $(B)/tests/fuzz/found; tests/fuzz/corpus is only read.
FUZZ_SECONDS ?= 60
fuzz: $(FUZZ)
	$(Q)for f in $^; do name=$${f##*/fuzz_}; mkdir -p $(B)/tests/fuzz/found/$$name && \
	    $$f -max_total_time=$(FUZZ_SECONDS) -artifact_prefix=$(B)/tests/fuzz/found/ \
	    $(B)/tests/fuzz/found/$$name tests/fuzz/corpus/$$name || exit 1; done

.PHONY: install uninstall deps demo check test unit net lint bench fuzz
