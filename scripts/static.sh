#!/bin/sh
# Everything that can be judged without running the code. Shows all findings, not just the first.
set -u
cd "$(dirname "$0")/.."

status=0
judge() {
    name=$1
    shift
    if output=$("$@" 2>&1); then
        printf '  ok    %s\n' "$name"
    else
        printf '  FAIL  %s\n%s\n' "$name" "$output"
        status=1
    fi
}

judge "ruff check" .venv/bin/ruff check --quiet .
judge "ruff format" .venv/bin/ruff format --check --quiet --diff .
judge "mypy --strict" .venv/bin/mypy
judge "import directions" .venv/bin/lint-imports
judge "shell syntax" scripts/shell-syntax.sh
exit $status
