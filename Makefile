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

LIBS      = libbpf libnftnl libmnl libconfuse libseccomp libcap-ng libcares libcjson
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

$(B)/tests/fuzz/fuzz_%: tests/fuzz/fuzz_%.c FORCE
	@mkdir -p $(@D); echo "  FUZZ  $<"
	$(Q)$(CLANG) $(CPPFLAGS) -std=c17 -g -O1 -fsanitize=fuzzer,address,undefined -o $@ $< \
	    $(sort $(wildcard daemon/base/*.c daemon/socks/*.c))

$(B)/tests/fuzz/replay_%: tests/fuzz/fuzz_%.c tests/fuzz/replay.c $(B)/libundersock.a
	@mkdir -p $(@D); echo "  TEST  $<"
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) $(LDFLAGS) -o $@ $< tests/fuzz/replay.c $(B)/libundersock.a $(LDLIBS)

tests-build: $(B)/undersock $(UNIT) $(TOOLS) $(REPLAY)

clean:
	rm -rf $(B)

-include $(shell find $(B) -name '*.d' 2>/dev/null)

.PHONY: all clean tests-build FORCE
.SECONDARY:
.DELETE_ON_ERROR:
