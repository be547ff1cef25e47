#!/bin/sh
# `make serve`: a development service in var/kms. The first run sets it up: token, home, ceremony,
# clients. Later runs only start it. An interrupted first run is begun again from nothing.
set -eu
cd "$(dirname "$0")/.."

home=var/kms
kms=.venv/bin/kms
module=${KMS_MODULE:-/usr/lib/softhsm/libsofthsm2.so}

if [ ! -e "$home/complete" ]; then
    rm -rf "$home" "$home-signer"
    echo "serve: first run, making $home" >&2
    mkdir -p "$home"
    softhsm/init-token.sh "$home/token" kms
    $kms init --home "$home" --name log.kms.example --public-url http://127.0.0.1:8080 \
        --token-label kms --pin-file "$home/token/pin" --module "$module" \
        --softhsm-conf "$home/token/softhsm2.conf"
    $kms authority ceremony --home "$home" --officer alice --officer bob --yes
    $kms principal dev-clients --home "$home"
    : >"$home/complete"
fi
exec $kms serve --home "$home"
