#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
#
# tests/deps.sh build|test: what is needed to build, or to build and test, installed through the
# distribution's package manager. When everything is there it does nothing: no network, no root.
#
# On Debian and Ubuntu missing packages are installed with apt-get; services are not started by it.
# Elsewhere the commands, headers and libraries are looked for, and what is missing is listed.
set -eu

BUILD="make gcc libc6-dev linux-libc-dev binutils clang pkg-config|pkgconf \
libbpf-dev libelf-dev zlib1g-dev libnftnl-dev libmnl-dev libconfuse-dev libseccomp-dev \
libcap-ng-dev libc-ares-dev libcjson-dev libldns-dev \
bash coreutils findutils grep sed mawk|gawk|original-awk \
curl ca-certificates iproute2 nftables util-linux procps"

TEST="$BUILD libcmocka-dev bpftool|linux-tools-common netbase python3 perl openssl iputils-ping \
dante-server microsocks shadowsocks-libev openssh-server openssh-client tor redsocks iperf3 wireguard-tools \
bind9-dnsutils|dnsutils busybox-static nmap libclang-rt-dev|libclang-rt-14-dev|libclang-rt-18-dev \
clang-format cppcheck"

die() {
    echo "deps: $*" >&2
    exit 1
}

installed() {
    # Multi-arch and virtual packages: the status line of any architecture will do.
    dpkg-query -W -f '${db:Status-Status}\n' "$1" 2>/dev/null | grep -qx installed
}

# missing LIST: those of it that are not installed. "a|b" means either; the first one that the
# package index knows is the one to install.
missing() {
    for want in $1; do
        found=
        for name in $(echo "$want" | tr '|' ' '); do
            if installed "$name"; then
                found=1
                break
            fi
        done
        [ "$found" ] || echo "$want"
    done
}

known() {
    apt-cache show --no-all-versions "$1" >/dev/null 2>&1
}

POLICY=/usr/sbin/policy-rc.d
policy_dir=

# Maintainer scripts ask policy-rc.d before they start a service: 101 says no. One that is already
# there is the administrator's and stays as it is.
forbid_services() {
    [ -e "$POLICY" ] || [ -L "$POLICY" ] && return 0
    policy_dir=$(mktemp -d)
    trap restore_services EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
    printf '#!/bin/sh\n# made by undersock tests/deps.sh, pid %s; removed when it ends\nexit 101\n' \
        $$ >"$policy_dir/policy"
    chmod 755 "$policy_dir/policy"
    # ln refuses to replace a file that somebody made in between.
    cp "$policy_dir/policy" "$POLICY.$$"
    ln "$POLICY.$$" "$POLICY" || echo "deps: $POLICY appeared meanwhile and is left alone" >&2
    rm -f "$POLICY.$$"
}

restore_services() {
    rm -rf "$policy_dir"
    rm -f "$POLICY.$$"
    if grep -q "deps.sh, pid $$;" "$POLICY" 2>/dev/null; then
        rm -f "$POLICY"
    fi
}

debian() {
    list=$(missing "$1")
    [ "$list" ] || return 0
    [ "$(id -u)" = 0 ] || die "missing: $(echo $list)
deps: run this as root: apt-get install --no-install-recommends $(echo $list | sed 's/|[^ ]*//g')"
    export DEBIAN_FRONTEND=noninteractive
    apt-get -q update || echo "deps: apt-get update failed; trying with the index that is there" >&2
    names=
    for want in $list; do
        pick=
        for name in $(echo "$want" | tr '|' ' '); do
            if known "$name"; then
                pick=$name
                break
            fi
        done
        [ "$pick" ] || die "no package $want is known to apt (Ubuntu: is \"universe\" enabled?)"
        names="$names $pick"
    done
    echo "deps: installing$names"
    forbid_services
    # shellcheck disable=SC2086
    apt-get -q -y --no-install-recommends -o Dpkg::Options::=--force-confold install $names
    left=$(missing "$1")
    [ -z "$left" ] || die "still missing after the installation: $(echo $left)"
}

# Another distribution: the same needs by command and by pkg-config name.
elsewhere() {
    commands="make gcc clang pkg-config ld bash awk curl ip nft nsenter unshare ps ss"
    libraries="libbpf libnftnl libmnl libconfuse libseccomp libcap-ng libcares libcjson ldns"
    if [ "$1" = test ]; then
        commands="$commands python3 prove openssl ping danted|sockd microsocks ss-local sshd ssh tor redsocks wg \
iperf3 dig busybox nmap bpftool clang-format cppcheck"
        libraries="$libraries cmocka"
    fi
    lost=
    for want in $commands; do
        found=
        for name in $(echo "$want" | tr '|' ' '); do
            PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin" command -v "$name" >/dev/null 2>&1 && found=1
        done
        [ "$found" ] || lost="$lost $want"
    done
    for name in $libraries; do
        if ! pkg-config --exists "$name" 2>/dev/null; then
            lost="$lost $name(headers)"
        fi
    done
    [ -z "$lost" ] && return 0
    echo "deps: this is not Debian or Ubuntu; install with its package manager:$lost" >&2
    exit 1
}

case "${1:-}" in
build) list=$BUILD ;;
test) list=$TEST ;;
*)
    echo "usage: tests/deps.sh build|test" >&2
    exit 2
    ;;
esac

if command -v dpkg-query >/dev/null 2>&1 && command -v apt-get >/dev/null 2>&1; then
    debian "$list"
else
    elsewhere "$1"
fi
