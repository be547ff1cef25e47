#!/bin/sh
# Locks the requirements anew: newest versions, all hashes, one file for every supported Python and
# platform, then proves that each of those can install from wheels alone.
#
# Needs an index and uv: on PATH, or installed into var/lock for the occasion.
set -eu
cd "$(dirname "$0")/.."

uv=$(command -v uv || true)
if [ -z "$uv" ]; then
    env -u KMS_WHEELS scripts/setup.sh venv
    [ -x var/lock/bin/uv ] || { .venv/bin/python -m venv var/lock && var/lock/bin/pip -q install uv; }
    uv=$PWD/var/lock/bin/uv
fi

cd requirements
for lock in build run test bench fuzz mutate; do # each is constrained by one before it
    "$uv" pip compile --quiet --upgrade --universal --python-version 3.11 --only-binary :all: \
        --generate-hashes --no-emit-index-url --no-header "$lock.in" --output-file "$lock.txt"
done

nowhere=$(mktemp -d)
trap 'rm -rf "$nowhere"' EXIT
for version in 3.11 3.12 3.13; do
    for platform in x86_64-manylinux_2_28 aarch64-manylinux_2_28; do
        for lock in build run test bench fuzz mutate; do
            "$uv" pip install --quiet --dry-run --target "$nowhere" --python-version "$version" \
                --python-platform "$platform" --only-binary :all: --no-deps --require-hashes \
                -r "$lock.txt" || { echo "lock: $lock.txt lacks wheels for $version $platform"; exit 1; }
        done
    done
done
echo "lock: all of requirements/*.txt is new; look at the diff, then run make test"
