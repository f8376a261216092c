#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# tests/kernels.sh VMLINUZ [FILE...]: runs tests under another kernel, in QEMU, on this machine's files.
#
# VMLINUZ is vmlinuz-VERSION, as a distribution packages it, with its modules beside: in ../lib/modules/VERSION
# or ../usr/lib/modules/VERSION. A package that was only unpacked will do:
#
#     apt-get download linux-image-6.1.0-55-amd64 && dpkg -x linux-image-6.1.0-55-amd64_*.deb /var/tmp/6.1
#     make tests-build && sudo tests/kernels.sh /var/tmp/6.1/boot/vmlinuz-*
#
# The guest's root is the host's over 9p, read-only, under an overlay in memory: it has the tests, the
# programs and the libraries that are here, and nothing that it writes stays. What the tests use most is
# copied to the guest's memory first, as each look at a file over 9p takes long while it is emulated. The
# FILEs go to tests/run.sh in it, whose exit status is this one's; without them it is DEFAULT below, what
# depends on the kernel most.
#
#     ACCEL=tcg               or kvm
#     CPUS=1                  2 with CLOCK=host or kvm: by a counted clock QEMU emulates them in turns
#     MEMORY=3072             MiB
#     CLOCK=counted           the guest's clock while it is emulated: an instruction takes a nanosecond, so
#                             that no time-out is over only because emulation, or the host, is slow.
#                             host: the host's clock, and a thread for each CPU; for an idle host
#     LIMIT=1800              seconds of the guest's that a file may take
#     GUEST=COMMAND           run by bash in the guest instead of tests/run.sh
#     B, V, JOBS              as for tests/run.sh (JOBS=1 here); and UNDERSOCK_*, as UNDERSOCK_BULK of 144
#
# Needs root (to read what the host's root may read), qemu-system-x86, busybox-static, cpio and kmod.

set -u
TOP=$(cd "$(dirname "$0")/.." && pwd)
PATH=$PATH:/usr/sbin:/sbin
B=${B:-build}
DEFAULT=(
    tests/unit/bpf/test_*.c tests/unit/nft/test_*.c
    tests/net/20-*.sh tests/net/22-*.sh tests/net/110-*.sh tests/net/112-*.sh
    # Honest connect, but for the crowds of 103 and 104; stitch, but for the gigabytes of 144.
    tests/net/10[0-256]-*.sh tests/net/14[0-35-9]-*.sh tests/net/157-*.sh
)
# What the guest cannot begin without.
MODULES=(virtio_pci 9p 9pnet_virtio overlay)

die() {
    echo "kernels: $*" >&2
    exit 2
}

if (($# == 0)) || [[ $1 == -* ]]; then
    sed -n '4,/^$/s/^# \?//p' "$0"
    exit 2
fi
((EUID == 0)) || die "run it as root"
for tool in qemu-system-x86_64 busybox cpio depmod modprobe gzip; do
    command -v $tool >/dev/null || die "$tool is not installed"
done

kernel=$(realpath -e -- "$1") || die "no kernel $1"
shift
version=${kernel##*/vmlinuz-}
for modules in "${kernel%/*/*}"/{lib,usr/lib}/modules/"$version"; do
    [[ -d $modules/kernel ]] && break
done
[[ -d $modules/kernel ]] || die "no modules of $version: looked for $modules"
base=${modules%/lib/modules/*}
[[ -e $modules/modules.dep ]] || depmod -b "$base" "$version" || die "depmod"

cd "$TOP" || exit 2
(($#)) || set -- "${DEFAULT[@]}"
command=${GUEST:-"tests/run.sh -t ${LIMIT:-1800} ${*@Q}"}

tmp=$(mktemp -d) || exit 2
trap 'rm -rf "$tmp"' EXIT
trap 'exit 130' INT TERM HUP

# ---- What the guest keeps in memory --------------------------------------------------------------

# The distribution's python3, if it is there: another one may be a script that looks for one.
python=/usr/bin/python3
[[ -x $python ]] || python=$(python3 -c 'import sys; print(sys.executable)')
stdlib=$("$python" -ISc 'import sysconfig; print(sysconfig.get_path("stdlib"))')

# Nobody's modules are needed but Python's own; each directory of others makes it slower to start.
mapfile -t sites < <("$python" -ISc 'import site; print(*site.getsitepackages(), sep="\n")')
# Directories that are copied as a whole, and stand in the place of the host's.
whole=("$TOP/tests" "$(realpath -- "$B")/tests/tools" "$stdlib")
# The paths that are copied; one that is missing here, or forgotten, is only slower.
copied() {
    local programs=() words
    # A word of the tests that is the name of a program is one, or does no harm.
    mapfile -t words < <(grep -hoE '[A-Za-z0-9_][A-Za-z0-9_.-]*' tests/run.sh tests/net/*.sh | sort -u)
    mapfile -t programs < <(PATH=$PATH:/sbin:/bin type -P "${words[@]}" | xargs -d '\n' realpath -- |
        xargs -d '\n' sh -c 'find "$@" -size -8M' sh | sort -u)
    {
        # Its name is a link's perhaps, as awk's is.
        type -P "${words[@]}" | xargs -d '\n' sh -c 'find "$@" -type l' sh
        printf '%s\n' "${programs[@]}" "$python" "$(realpath -- "$python")"
        ldd "${programs[@]}" "$python" "$B"/undersock "$B"/tests/unit/bpf/test_probe 2>/dev/null |
            grep -oE '/[^ :]+ \(0x' | cut -d' ' -f1
        find "$stdlib" \
            \( -name site-packages -o -name dist-packages -o -name test -o -name tests -o -name idlelib \
            -o -name ensurepip -o -name 'config-*' -o -name lib2to3 \) -prune -o -type f -print
        find /etc/iproute2 /usr/lib/locale/C.utf8 /usr/lib/*/gconv/gconv-modules.cache -type f
        find / -maxdepth 1 -type l
        ls -d /var/run /etc/{ld.so.cache,localtime,passwd,group,nsswitch.conf,hosts,resolv.conf,protocols,services} \
            /usr/share/locale/locale.alias /lib/*/libnss_*.so.2 {,/usr}/lib{,64}/ld-linux*
        find "$TOP/tests" "$TOP/nft" -type f
        find "$(realpath -- "$B")" -name unit -prune -o -name fuzz -prune -o -type f ! -name '*.[oda]' -print
        ls -d "$@"
    } 2>/dev/null | sort -u | while read -r path; do
        echo "$(realpath -- "${path%/*}" 2>/dev/null)/${path##*/}"
        [[ ! -L $path ]] || readlink -e -- "$path"
    done
}
# The static tools that tests would build there.
mkdir "$tmp/static"
grep -hoE '\$\(static_tool [a-z]+' tests/net/*.sh | cut -d' ' -f2 | sort -u | while read -r tool; do
    ${CC:-cc} -std=c17 -D_GNU_SOURCE -O2 -static -o "$tmp/static/$tool" "tests/net/tools/$tool.c" -lpthread
done
# With the directories above each, for their modes.
copied "$tmp"/static/* "$@" | awk '{while ($0 != "") {if (!seen[$0]++) print; sub("/[^/]*$", "")}}' | sort | sed 's|^/||' |
    (cd / && cpio -o -H newc --quiet) >"$tmp/copied" || die "cpio"

# ---- What it boots ------------------------------------------------------------------------------

mkdir -p "$tmp"/root/{bin,proc,sys,dev,host,overlay,new,modules,copied}
cp "$(command -v busybox)" "$tmp/root/bin/busybox"
for module in "${MODULES[@]}"; do
    # A kernel may have it built in.
    modprobe -d "$base" -S "$version" --show-depends "$module" 2>/dev/null
done | awk '$1 == "insmod" && !seen[$2]++ {print $2}' | while read -r file; do
    name=${file##*/}
    name=${name%%.ko*}.ko
    case $file in
    *.xz) xz -dc "$file" ;;
    *.zst) zstd -dcq "$file" ;;
    *.gz) gzip -dc "$file" ;;
    *) cat "$file" ;;
    esac >"$tmp/root/modules/$name" && echo "$name" >>"$tmp/root/modules/order"
done

cat >"$tmp/root/init" <<'INIT'
#!/bin/busybox sh
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
$b mount -t devtmpfs dev /dev
[ ! -e /modules/order ] || while read -r m; do $b insmod /modules/$m; done </modules/order
$b mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144,ro,cache=loose host /host || $b poweroff -f
$b mount -t tmpfs -o size=75% overlay /overlay
$b mkdir /overlay/upper /overlay/work
$b mount -t tmpfs -o size=50% copied /copied
(cd /copied && $b cpio -i </host/COPIED) || $b poweroff -f
$b mount -t overlay -o lowerdir=/copied:/host,upperdir=/overlay/upper,workdir=/overlay/work root /new || $b poweroff -f
for d in WHOLE; do $b mount --bind "/copied$d" "/new$d"; done
for d in SITES; do [ ! -d "/new$d" ] || $b mount -t tmpfs none "/new$d"; done
for d in proc sys dev; do $b mount --move /$d /new/$d; done
$b mount -t tmpfs run /new/run
$b cp /guest /new/run/guest
exec $b switch_root /new /bin/bash /run/guest
INIT
sed -i "s|/COPIED|$tmp/copied|; s|WHOLE|${whole[*]@Q}|; s|SITES|${sites[*]@Q}|" "$tmp/root/init"
cat >"$tmp/root/guest" <<GUEST
export PATH=${python%/*}:$PATH HOME=/root LC_ALL=C.UTF-8 B=${B@Q} V=${V:-} JOBS=${JOBS:-1} STATIC_TOOLS=$tmp/static
$([[ ! ${!UNDERSOCK_*} ]] || declare -p "${!UNDERSOCK_@}")
cd ${TOP@Q} || exit
mkdir -p /dev/pts /dev/shm /lib/modules/$version
mount -t devpts devpts /dev/pts
mount -t tmpfs shm /dev/shm
ln -sf /proc/self/fd /dev/fd
mount --bind ${modules@Q} /lib/modules/$version
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
mount -t tracefs tracefs /sys/kernel/tracing
# With the module comes the device, which udev would otherwise see to.
modprobe -q tun
# A crash of the kernel is an end, and said on the console.
sysctl -qw kernel.panic_on_oops=1 kernel.printk='5 4 1 7'
ip link set lo up
echo "kernels: \$(uname -r) is up"
( $command )
echo "kernels: exit status \$?"
sync
echo o >/proc/sysrq-trigger
while :; do :; done
GUEST
chmod +x "$tmp/root/init"
(cd "$tmp/root" && find . | cpio -o -H newc --quiet | gzip -1) >"$tmp/initramfs" || die "cpio"

# ---- The guest ----------------------------------------------------------------------------------

machine=(-accel "${ACCEL:=tcg}")
case $ACCEL,${CLOCK:=counted} in
tcg,counted) machine+=(-icount "shift=0,sleep=on" -rtc clock=vm) CPUS=${CPUS:-1} ;;
tcg,host) machine=(-accel "tcg,thread=multi") ;;
*,counted | *,host) ;;
*) die "CLOCK=$CLOCK" ;;
esac
echo "kernels: booting $version"
qemu-system-x86_64 "${machine[@]}" -smp "${CPUS:-2}" -m "${MEMORY:-3072}" \
    -nodefaults -no-user-config -display none -no-reboot -serial stdio \
    -kernel "$kernel" -initrd "$tmp/initramfs" \
    -append "console=ttyS0 quiet panic=-1 mitigations=off random.trust_cpu=on" \
    -fsdev local,id=host,path=/,security_model=none,readonly=on,multidevs=remap \
    -device virtio-9p-pci,fsdev=host,mount_tag=host </dev/null 2>&1 | stdbuf -oL tr -d '\r' | tee "$tmp/console"
status=$(sed -n 's/^kernels: exit status //p' "$tmp/console")
[[ $status ]] || die "the guest ended before its tests did; what its kernel said is above"
exit "$status"
