#!/bin/sh
# Prepares everything that the Makefile's targets need; does nothing the second time.
#
#   scripts/setup.sh run    Debian packages, .venv, what the service needs
#   scripts/setup.sh test   that, and what the tests need
#   scripts/setup.sh bench  Debian packages, .venv, what service and benchmark need
#   scripts/setup.sh fuzz   that of run, and the fuzzer; the fuzzed parsers need test, too
#   scripts/setup.sh mutate that of run, and what makes mutants; their tests need test, too
#   scripts/setup.sh venv   Debian packages and an empty .venv
#
# KMS_WHEELS=<dir> installs from a directory made by `make vendor` and from nowhere else.
# Exit status: 0 done, 1 an installation failed, 2 something is missing that only root can install.
set -eu
umask 022 # service users of their own must be able to read .venv
cd "$(dirname "$0")/.."

level=${1:-run}
log=var/setup.log
supported="3.11 3.12 3.13"

say() { printf 'setup: %s\n' "$*" >&2; }

fail() {
    say "$1"
    [ -s "$log" ] && { say "the end of $log:"; tail -n 15 "$log" >&2; }
    exit 1
}

quietly() { "$@" >>"$log" 2>&1 </dev/null; }

version_of() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || true; }

usable() { case " $supported " in *" ${1:-none} "*) return 0 ;; *) return 1 ;; esac; }

# The first Python that wheels are locked for. Debian's own comes first: it gets Debian's security
# updates, and service users can run it. One that can make a virtual environment beats one that
# first needs a package.
find_python() {
    python=
    for dir in /usr/bin/ ""; do
        for name in python3.11 python3.12 python3.13 python3; do
            command -v "$dir$name" >/dev/null 2>&1 || continue
            usable "$(version_of "$dir$name")" || continue
            [ -n "$python" ] || python=$dir$name
            "$dir$name" -c 'import ensurepip, venv' 2>/dev/null && { python=$dir$name; return; }
        done
    done
}

present() {
    case $1 in
    /*) [ -e "$1" ] ;;
    python:*) [ -n "$python" ] && "$python" -c "import ${1#python:}" 2>/dev/null ;;
    *) PATH=$PATH:/usr/sbin:/sbin command -v "$1" >/dev/null 2>&1 ;;
    esac
}

missing_packages() {
    [ -n "$python" ] || echo python3.11
    while read -r package probe wanted; do
        case $package in '' | '#'*) continue ;; esac
        [ "${wanted:-$level}" = "$level" ] || continue
        present "$probe" || echo "$package"
    done <scripts/packages.txt | sort -u
}

# Prints the prefix that makes a command run as root; fails where there is none.
as_root() {
    [ "$(id -u)" -eq 0 ] && return 0
    command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null && echo "sudo -n"
}

apt() { quietly $root env DEBIAN_FRONTEND=noninteractive apt-get -q -y "$@"; }

# Only its promtool is wanted; Debian would start the server on every address.
keep_prometheus_still() {
    [ ! -d /run/systemd/system ] || quietly $root systemctl mask prometheus.service
}

install_packages() {
    missing=$(missing_packages | tr '\n' ' ' | sed 's/ $//')
    [ -n "$missing" ] || return 0
    if ! command -v apt-get >/dev/null 2>&1 || ! root=$(as_root); then
        echo "sudo apt-get install --no-install-recommends $missing"
        exit 2
    fi
    case $missing in *prometheus*) keep_prometheus_still ;; esac
    say "installing Debian packages: $missing"
    # shellcheck disable=SC2086 # a list of words
    apt install --no-install-recommends $missing ||
        { apt update && apt install --no-install-recommends $missing; } ||
        fail "apt-get could not install: $missing"
    find_python
    [ -z "$(missing_packages)" ] || fail "still missing after installation: $(missing_packages)"
}

make_venv() {
    usable "$(version_of .venv/bin/python)" && .venv/bin/python -m pip --version >/dev/null 2>&1 && return
    say "making .venv with $python ($(version_of "$python"))"
    rm -rf .venv
    quietly "$python" -m venv .venv || fail "$python could not make a virtual environment"
}

pip_install() {
    if [ -n "${KMS_WHEELS:-}" ]; then
        set -- --no-index --find-links "$KMS_WHEELS" "$@"
    fi
    quietly .venv/bin/python -m pip --disable-pip-version-check install --no-input "$@"
}

install_lock() {
    pip_install --require-hashes --only-binary :all: -r "requirements/$1.txt" ||
        fail "pip could not install requirements/$1.txt${KMS_WHEELS:+ from $KMS_WHEELS}"
}

# One stamp for each level: what was installed, by hash. Any change of it installs anew.
fingerprint() {
    files="requirements/build.txt requirements/run.txt pyproject.toml"
    [ "$1" = run ] || files="$files requirements/$1.txt"
    # shellcheck disable=SC2086 # a list of words
    { cat $files && .venv/bin/python -VV && pwd; } | sha256sum
}

install_level() {
    stamp=.venv/.installed-$level
    [ "$(fingerprint "$level")" = "$(cat "$stamp" 2>/dev/null)" ] && return
    say "installing the locked requirements ($level)${KMS_WHEELS:+ from $KMS_WHEELS}"
    install_lock build
    install_lock run
    [ "$level" = run ] || install_lock "$level"
    # Editable by a plain path entry: what is edited is what runs. Everything that its build needs
    # has just been installed, so nothing is fetched.
    quietly .venv/bin/python -m pip --disable-pip-version-check install --no-input --no-index \
        --no-deps --no-build-isolation --config-settings editable_mode=compat -e . ||
        fail "pip could not install the project itself"
    fingerprint "$level" >"$stamp"
}

# A post-quantum token for the tests. Where its package cannot be had, they skip what needs it, and
# the run says why at its end (tests/conftest.py).
fetch_token() {
    [ ! -e var/tokens/nss/done ] || return 0
    say "fetching NSS softoken, a post-quantum token for the tests"
    mkdir -p var/tokens
    if scripts/tokens/nss.sh fetch var/tokens/nss 2>var/tokens/nss-missing; then
        rm var/tokens/nss-missing
    else
        say "it cannot be had: $(tail -n 1 var/tokens/nss-missing)"
    fi
}

case $level in venv | run | test | bench | fuzz | mutate) ;; *) say "unknown level: $level"; exit 2 ;; esac
mkdir -p var
: >>"$log"
if command -v flock >/dev/null 2>&1 && [ -z "${KMS_SETUP_LOCKED:-}" ]; then
    KMS_SETUP_LOCKED=1 exec flock var/setup.lock "$0" "$level"
fi
: >"$log"
root=
find_python
install_packages
[ "$(id -u)" -ne 0 ] || scripts/users.sh
make_venv
[ "$level" = venv ] || install_level
[ "$level" != test ] || fetch_token
