#!/bin/sh
# A post-quantum token for tests: opencryptoki's soft token in a Debian sid chroot.
#
#   opencryptoki.sh make  DIR LABEL   the chroot DIR/root with the token LABEL; asks for root
#   opencryptoki.sh start DIR         its slot daemon, until `stop`
#   opencryptoki.sh stop  DIR
#
# DIR gets root/ (some 250 MB), and pin and so-pin (random, 0600). In root/, /opt/kms/bin/python
# runs `hsm_drivers` and `policies` of this source tree; they are copied anew by every `make`, all
# else is left alone once it is finished. Debian's packages come from the mirror that this machine's
# apt uses, checked with its archive keys; wheels by requirements/run.txt, or from KMS_WHEELS.
#
# opencryptoki serves root and members of its group. In the chroot that group has the number of the
# signer's own group here, so that token processes of the signer's user may use the token.
# Exit: 0 done or done already, 1 failed, 2 wrong usage, not root, or something is missing.
set -eu
umask 022

fail() {
    echo "opencryptoki: $2" >&2
    exit "$1"
}

usage="usage: opencryptoki.sh make DIR LABEL | start DIR | stop DIR"
[ $# -ge 2 ] || fail 2 "$usage"
command=$1
mkdir -p -- "$2"
dir=$(cd -- "$2" && pwd -P)
source=$(cd -- "$(dirname -- "$0")/../.." && pwd -P)
root=$dir/root
log=$dir/log
PATH=$PATH:/usr/sbin:/sbin

[ "$(id -u)" -eq 0 ] || fail 2 "only root can make and enter a chroot; run this as root"

quietly() { "$@" >>"$log" 2>&1 </dev/null || { tail -n 15 "$log" >&2; fail 1 "failed: $1"; }; }

inside() { chroot "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin LC_ALL=C "$@"; }

# The archive that has this machine's own release.
mirror() {
    . /etc/os-release
    apt-get indextargets --format '$(REPO_URI) $(RELEASE)' 'Created-By: Packages' |
        sed -n "s/ ${VERSION_CODENAME:-none}\$//p" | head -n 1
}

# Unpacked, not installed: the machine needs no more than its files.
unpack_debootstrap() {
    command -v apt-get >/dev/null || fail 2 "apt-get is missing: this needs a Debian"
    mkdir -p "$dir/debootstrap"
    (cd "$dir" && quietly apt-get -q download debootstrap &&
        quietly dpkg -x debootstrap_*.deb debootstrap && rm debootstrap_*.deb)
}

make_root() {
    [ ! -e "$dir/root.done" ] || return 0
    archive=$(mirror)
    [ -n "$archive" ] || fail 2 "apt names no archive of this machine's release"
    rm -rf "$root" "$dir/debootstrap"
    unpack_debootstrap
    DEBOOTSTRAP_DIR=$dir/debootstrap/usr/share/debootstrap
    export DEBOOTSTRAP_DIR
    quietly "$dir/debootstrap/usr/sbin/debootstrap" --variant=minbase \
        --keyring=/usr/share/keyrings/debian-archive-keyring.gpg \
        --include=python3,opencryptoki sid "$root" "$archive"
    rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$dir/debootstrap"
    touch "$dir/root.done"
}

# What a token process imports, by the service's own lock; the chroot needs no network and no pip.
make_python() {
    site=$(echo "$root"/opt/kms/lib/python3*/site-packages)
    if [ ! -e "$root/opt/kms/done" ]; then
        quietly inside python3 -m venv --without-pip /opt/kms
        site=$(echo "$root"/opt/kms/lib/python3*/site-packages)
        version=${site%/site-packages}
        awk '/^[^ ]/ { wanted = /^(asn1crypto|msgspec|python-pkcs11)==/ } wanted' \
            "$source/requirements/run.txt" >"$dir/requirements.txt"
        set -- --require-hashes --no-deps -r "$dir/requirements.txt"
        [ -z "${KMS_WHEELS:-}" ] || set -- --no-index --find-links "$KMS_WHEELS" "$@"
        quietly "$source/.venv/bin/python" -m pip --disable-pip-version-check install --no-input \
            --only-binary :all: --python-version "${version##*/python}" --implementation cp \
            $(platforms) --target "$site" "$@"
        touch "$root/opt/kms/done"
    fi
    rm -rf "$site/hsm_drivers" "$site/policies"
    cp -R "$source/hsm_drivers" "$source/policies" "$site/"
    find "$site/hsm_drivers" "$site/policies" -name __pycache__ -prune -exec rm -rf {} +
}

platforms() {
    for glibc in 17 28 34; do printf -- '--platform manylinux_2_%s_%s ' $glibc "$(uname -m)"; done
    printf -- '--platform manylinux2014_%s' "$(uname -m)"
}

# The numbers of user and group kms-signer, where there are such (scripts/users.sh): the package's
# group takes that one's place, and opencryptoki looks up who its caller is.
make_group() {
    user=$(id -u kms-signer 2>/dev/null) || user=
    before=$(inside getent group pkcs11 | cut -d: -f3)
    if [ -n "$user" ] && [ "$before" != "$(id -g kms-signer)" ]; then
        quietly inside groupmod --non-unique --gid "$(id -g kms-signer)" pkcs11
        inside find / -xdev -gid "$before" -exec chgrp -h pkcs11 {} +
    fi
    [ -z "$user" ] || inside getent passwd kms-signer >/dev/null ||
        quietly inside useradd --non-unique --uid "$user" --gid pkcs11 --groups pkcs11 \
            --no-create-home kms-signer
    inside install -d -g pkcs11 -m 770 /run/lock/opencryptoki /run/lock/opencryptoki/swtok
    inside chown -R root:pkcs11 /var/lib/opencryptoki
    inside find /var/lib/opencryptoki -type d -exec chmod 770 {} +
    chmod 1777 "$root/dev/shm"
}

# This token takes PINs of 4 to 8 characters.
random() { od -An -vtx1 -N4 /dev/urandom | tr -d ' \n'; }

configure() {
    package=$(inside dpkg-query -W -f '${Version}' opencryptoki)
    printf 'version opencryptoki-%s\nslot 3\n{\nstdll = libpkcs11_sw.so\ntokversion = 3.12\n}\n' \
        "$(echo "$package" | cut -d. -f1,2)" >"$root/etc/opencryptoki/opencryptoki.conf"
}

# pkcsconf reads PINs from its input. A new token has the maker's; an unfinished one is made anew.
make_token() {
    [ ! -e "$dir/pin" ] || return 0
    find "$root/var/lib/opencryptoki/swtok" -type f -delete
    start
    (umask 077 && random >"$dir/so-pin" && random >"$dir/pin.new")
    so=$(cat "$dir/so-pin")
    user=$(cat "$dir/pin.new")
    printf '87654321\n%s\n' "$1" | tell -I
    printf '87654321\n%s\n%s\n' "$so" "$so" | tell -P
    printf '%s\n%s\n%s\n' "$so" "$user" "$user" | tell -u
    stop
    mv "$dir/pin.new" "$dir/pin"
}

tell() { inside pkcsconf -c 3 "$@" >>"$log" 2>&1 || { tail -n 5 "$log" >&2; fail 1 "failed: pkcsconf $1"; }; }

# A process number may be another's by now; the chroot is not.
running() {
    pid=$(cat "$root/run/opencryptoki/pkcsslotd.pid" 2>/dev/null) &&
        [ "/proc/$pid/root" -ef "$root" ]
}

# The daemon reads /proc, which is mounted for it alone and goes with it.
start() {
    running && return
    [ -e "$dir/root.done" ] || fail 2 "$dir has no chroot; first: opencryptoki.sh make"
    rm -rf "$root"/run/opencryptoki/*
    quietly unshare --mount --propagation private /bin/sh -c \
        'mount -t proc proc "$0/proc" && exec chroot "$0" /usr/sbin/pkcsslotd' "$root"
    await 'running && [ -S "$root/run/opencryptoki/pkcsslotd.socket" ]' ||
        fail 1 "the slot daemon did not start; see $log"
}

stop() {
    running || return 0
    kill "$pid"
    await '! running' || fail 1 "the slot daemon $pid does not end"
}

await() {
    tries=50
    until eval "$1"; do
        tries=$((tries - 1))
        [ $tries -gt 0 ] || return 1
        sleep 0.1
    done
}

case $command in
make)
    [ $# -eq 3 ] || fail 2 "$usage"
    : >>"$log"
    make_root
    make_python
    configure
    make_group
    make_token "$3"
    ;;
start) start ;;
stop) stop ;;
*) fail 2 "$usage" ;;
esac
