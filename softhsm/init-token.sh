#!/bin/sh
# Makes a SoftHSM2 token for development and tests:
#
#   init-token.sh DIR LABEL [MODULE]
#
# DIR gets tokens/, softhsm2.conf, and pin and so-pin (random, 0600). It can be passed through, so
# that a signer under its own user reaches tokens/, which only the token's owner can list. A
# finished DIR is left alone. Exit: 0 made or there already, 1 failed, 2 wrong usage or a package is
# missing.
#
# PINs reach pkcs11-tool through its environment, which only this user can read, never through its
# arguments, which everyone can.
set -eu
umask 077

fail() {
    echo "init-token: $2" >&2
    exit "$1"
}

[ $# -eq 2 ] || [ $# -eq 3 ] || fail 2 "usage: init-token.sh DIR LABEL [MODULE]"
label=$2
module=${3:-/usr/lib/softhsm/libsofthsm2.so}
template=$(dirname -- "$0")/softhsm2.conf.in

[ -r "$module" ] || fail 2 "no PKCS#11 module at $module; on Debian: apt-get install softhsm2"
command -v pkcs11-tool >/dev/null ||
    fail 2 "pkcs11-tool is missing; on Debian: apt-get install opensc"
case $label in
    '' | *[!A-Za-z0-9._-]*) fail 2 "a token label has letters, digits, dots, _ and -: '$label'" ;;
esac
[ ${#label} -le 32 ] || fail 2 "a token label has at most 32 characters"

mkdir -p -- "$1"
dir=$(cd -- "$1" && pwd -P)
case $dir in
    *[!A-Za-z0-9._/-]*) fail 2 "SoftHSM2's configuration cannot name the directory '$dir'" ;;
esac
if [ -e "$dir/softhsm2.conf" ]; then
    echo "init-token: $dir has a token already"
    exit 0
fi
[ -z "$(ls -A -- "$dir")" ] ||
    fail 1 "$dir is not empty and holds no finished token; remove it or name another directory"

chmod 711 "$dir"
mkdir "$dir/tokens"
random() { od -An -vtx1 -N16 /dev/urandom | tr -d ' \n'; }
random >"$dir/pin"
random >"$dir/so-pin"
# softhsm2.conf gets its name last: it marks the directory as finished.
sed "s|@TOKENS@|$dir/tokens/|" "$template" >"$dir/softhsm2.conf.new"

SOFTHSM2_CONF=$dir/softhsm2.conf.new
USER_PIN=$(cat "$dir/pin")
SO_PIN=$(cat "$dir/so-pin")
export SOFTHSM2_CONF USER_PIN SO_PIN
tool() {
    said=$(pkcs11-tool --module "$module" "$@" 2>&1) || fail 1 "pkcs11-tool failed: $said"
}
tool --init-token --label "$label" --so-pin env:SO_PIN
tool --token-label "$label" --login --login-type so --so-pin env:SO_PIN \
    --init-pin --new-pin env:USER_PIN
chmod 644 "$dir/softhsm2.conf.new"
mv "$dir/softhsm2.conf.new" "$dir/softhsm2.conf"
echo "init-token: made token $label in $dir"
