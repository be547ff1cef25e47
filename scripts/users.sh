#!/bin/sh
# Makes the system users that worker and signers run as when the service is started as root.
# Where they cannot be made the service still runs, and `kms doctor` says that nothing is separated.
set -eu

for user in kms-worker kms-signer; do
    id "$user" >/dev/null 2>&1 && continue
    PATH=$PATH:/usr/sbin:/sbin
    command -v useradd >/dev/null 2>&1 || exit 0
    if useradd --system --user-group --no-create-home --home-dir /nonexistent \
        --shell /usr/sbin/nologin "$user" >/dev/null 2>&1; then
        echo "setup: made the system user $user" >&2
    fi
done
