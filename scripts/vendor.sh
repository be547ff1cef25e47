#!/bin/sh
# Downloads every locked wheel for this machine's platform and Python into a directory, from which
# KMS_WHEELS=<dir> installs without an index. Carry the directory with the source.
set -eu
cd "$(dirname "$0")/.."

dir=${1:-var/wheels}
env -u KMS_WHEELS scripts/setup.sh venv
mkdir -p "$dir"
for lock in build run test bench fuzz mutate; do
    .venv/bin/python -m pip --disable-pip-version-check download --quiet --no-input \
        --require-hashes --only-binary :all: --dest "$dir" -r "requirements/$lock.txt"
done
count=$(find "$dir" -name '*.whl' | wc -l)
echo "vendor: $count wheels in $dir; install with KMS_WHEELS=$dir make test"
