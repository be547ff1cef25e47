#!/bin/sh
# Every shell script parses.
set -eu
cd "$(dirname "$0")/.."
for script in .ci/run scripts/*.sh scripts/*/*.sh softhsm/*.sh; do
    case $(head -n 1 "$script") in
    *bash*) bash -n "$script" ;;
    *) sh -n "$script" ;;
    esac
done
