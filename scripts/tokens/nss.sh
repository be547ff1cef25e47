#!/bin/sh
# A post-quantum token on this machine: NSS softoken of Debian sid, unpacked beside the system.
#
#   nss.sh fetch LIB               its libraries into LIB, once
#   nss.sh make  LIB DIR LABEL     a token in DIR: token/, and pin (random, 0600)
#
# Nothing is installed. The package comes from the mirror that this machine's apt uses, checked with
# Debian's archive keys. `make` prints what the [token] of a kms.toml needs; a finished DIR is left
# alone. NSS has no security officer's PIN: whoever can write token/ can destroy keys, as everywhere.
# KMS_WHEELS set means that there is no network: `fetch` then fails at once.
# Exit: 0 done or done already, 1 failed, 2 wrong usage or something is missing.
set -eu
umask 022

fail() {
    echo "nss: $2" >&2
    exit "$1"
}

usage="usage: nss.sh fetch LIB | make LIB DIR LABEL"
here=$(cd -- "$(dirname -- "$0")/../.." && pwd -P)
keyring=/usr/share/keyrings/debian-archive-keyring.gpg

# The archive that has this machine's own release.
mirror() {
    . /etc/os-release
    apt-get indextargets --format '$(REPO_URI) $(RELEASE)' 'Created-By: Packages' |
        sed -n "s/ ${VERSION_CODENAME:-none}\$//p" | head -n 1
}

# apt with lists, cache and sources of its own: the machine's are neither read nor changed.
sid() {
    apt-get -q -o "Dir::Etc::SourceList=$work/sources.list" -o Dir::Etc::SourceParts=/dev/null \
        -o "Dir::State::Lists=$work/lists" -o "Dir::Cache=$work/cache" -o APT::Sandbox::User=root \
        -o Acquire::Languages=none -o Acquire::Retries=1 -o Acquire::http::Timeout=15 \
        -o Acquire::https::Timeout=15 "$@" >>"$work/log" 2>&1 ||
        { tail -n 5 "$work/log" >&2; fail 1 "apt-get $1 failed"; }
}

fetch() {
    lib=$1
    [ ! -e "$lib/done" ] || return 0
    [ -z "${KMS_WHEELS:-}" ] || fail 1 "KMS_WHEELS is set: nothing is fetched"
    command -v apt-get >/dev/null && [ -r "$keyring" ] ||
        fail 2 "this needs a Debian with its archive keys ($keyring)"
    archive=$(mirror)
    [ -n "$archive" ] || fail 2 "apt names no archive of this machine's release"
    rm -rf "$lib.new"
    mkdir -p "$lib.new/lists/partial" "$lib.new/cache/archives/partial"
    work=$(cd -- "$lib.new" && pwd -P)
    echo "deb [signed-by=$keyring] $archive sid main" >"$work/sources.list"
    sid update
    (cd "$work" && sid download libnss3 && dpkg -x libnss3_*.deb unpacked)
    # NSPR and SQLite are the machine's own; only the first may be missing.
    ldconfig -p 2>/dev/null | grep -q 'libnspr4\.so' ||
        (cd "$work" && sid download libnspr4 && dpkg -x libnspr4_*.deb unpacked)
    mkdir "$work/lib"
    find "$work/unpacked/usr/lib" -name '*.so' -exec cp {} "$work/lib/" \;
    (cd "$work" && echo libnss3_*.deb) >"$work/lib/version"
    LD_LIBRARY_PATH=$work/lib python3 -c 'import ctypes, sys; ctypes.CDLL(sys.argv[1])' \
        "$work/lib/libsoftokn3.so" >>"$work/log" 2>&1 ||
        { tail -n 1 "$work/log" >&2; fail 1 "this machine cannot load $(cat "$work/lib/version")"; }
    rm -rf "$lib"
    mv "$work/lib" "$lib"
    touch "$lib/done"
    rm -rf "$work"
}

make_token() {
    [ -e "$1/done" ] || fail 2 "no libraries in $1; first: nss.sh fetch $1"
    lib=$(cd -- "$1" && pwd -P)
    label=$3
    case $label in
    '' | *[!A-Za-z0-9._-]*) fail 2 "a token label has letters, digits, dots, _ and -: '$label'" ;;
    esac
    [ ${#label} -le 32 ] || fail 2 "a token label has at most 32 characters"
    mkdir -p -- "$2"
    dir=$(cd -- "$2" && pwd -P)
    case $dir in *[!A-Za-z0-9._/-]*) fail 2 "NSS cannot be told of the directory '$dir'" ;; esac
    NSS_LIB_PARAMS="configdir='sql:$dir/token' certPrefix='' keyPrefix='' secmod='' flags="
    NSS_LIB_PARAMS="$NSS_LIB_PARAMS dbTokenDescription='$label'"
    if [ ! -e "$dir/pin" ]; then
        [ -z "$(ls -A -- "$dir")" ] ||
            fail 1 "$dir is not empty and holds no finished token; remove it or name another"
        initialise
    fi
    printf 'module = "%s/libsoftokn3.so"\nlabel = "%s"\n' "$lib" "$label"
    printf 'environment = { NSS_LIB_PARAMS = "%s", LD_LIBRARY_PATH = "%s" }\n' \
        "$NSS_LIB_PARAMS" "$lib"
}

# pkcs11-tool takes a token that has no PIN yet for an uninitialised one. The PIN goes through a
# pipe; the file gets its name last and marks the token as finished.
initialise() {
    umask 077
    mkdir "$dir/token"
    od -An -vtx1 -N16 /dev/urandom | tr -d ' \n' >"$dir/pin.new"
    NSS_LIB_PARAMS=$NSS_LIB_PARAMS LD_LIBRARY_PATH=$lib "$here/.venv/bin/python" -c '
import sys
import pkcs11

token = pkcs11.lib(sys.argv[1]).get_token(token_label=sys.argv[2])
session = token.open(rw=True, so_pin="")
session.init_pin(sys.stdin.read())
session.close()
' "$lib/libsoftokn3.so" "$label" <"$dir/pin.new" || fail 1 "the token did not take a PIN"
    mv "$dir/pin.new" "$dir/pin"
}

case ${1:-}:$# in
fetch:2) fetch "$2" ;;
make:4) make_token "$2" "$3" "$4" ;;
*) fail 2 "$usage" ;;
esac
