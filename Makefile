# Two commands do everything on a bare Debian 12: `make demo` and `make test`. See README.md.

SHELL := /bin/sh
.SHELLFLAGS := -eu -c
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help

# Where `make vendor` puts wheels.
WHEELS ?= var/wheels
# How often `make soak` kills; SEED, if given, decides whom and when.
KILLS ?= 1000
SEED ?=
PYTEST := .venv/bin/python -m pytest
RAW_SIGN := var/build/raw_sign
# How much `make bench` measures: short (two minutes), middle, long (for the record).
MODE ?= short
DJANGO_CA := var/build/django-ca
DJANGO_CA_VERSION := 3.2.0

.PHONY: help demo test test-pq serve check bench bench-record soak fuzz attack mutate vendor lock clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' Makefile | expand -t 16

demo: ## from an empty token to certified devices on a verified log, in var/demo
	@scripts/setup.sh run
	@.venv/bin/kms demo

test: ## everything: lint, types, import directions, all tests
	@scripts/setup.sh test
	@scripts/static.sh
	@$(PYTEST) -q -n 2 --dist loadgroup -m "not slow and not pq_token"

check: ## the quick part of it: lint, types, import directions, unit tests
	@scripts/setup.sh test
	@scripts/static.sh
	@$(PYTEST) -q tests/unit

test-pq: ## what wants a whole post-quantum token: opencryptoki in a chroot (asks for root, 250 MB)
	@scripts/setup.sh test
	@scripts/tokens/opencryptoki.sh make var/tokens/opencryptoki kms-pq
	@$(PYTEST) -q -m pq_token

serve: ## a service of your own, kept in var/kms
	@scripts/setup.sh run
	@scripts/serve.sh

bench: $(RAW_SIGN) ## rates as ratios, latencies, scale, in var/bench.json; MODE=short, middle or long
	@scripts/setup.sh bench
	@[ "$(MODE)" != long ] || $(MAKE) $(DJANGO_CA)/installed
	@.venv/bin/python scripts/bench/bench.py --mode "$(MODE)"
	@.venv/bin/python scripts/bench/plots.py var/bench.json var/bench

bench-record: ## the long benchmark, written into docs/performance.md
	@$(MAKE) bench MODE=long
	@.venv/bin/python scripts/bench/document.py var/bench.json var/bench

soak: ## the tests that take long, and KILLS=1000 kills of a busy service (SEED=… repeats them)
	@scripts/setup.sh test
	@$(PYTEST) -q -m slow
	@.venv/bin/python -m scripts.soak --kills $(KILLS) $(if $(SEED),--seed $(SEED))

fuzz: ## parsers of foreign bytes, each for SECONDS=600, guided by coverage (TARGET=… only one)
	@scripts/setup.sh test
	@scripts/setup.sh fuzz
	@.venv/bin/python -m scripts.fuzz --seconds $(or $(SECONDS),600) $(if $(TARGET),--target $(TARGET))

attack: ## attacks from outside, each for SECONDS=10, with honest clients measured beside them
	@scripts/setup.sh test
	@.venv/bin/python -m scripts.attack --seconds $(or $(SECONDS),10)

mutate: ## do tests notice every change of a security decision? (MODULE=kms/tlog only these)
	@scripts/setup.sh test
	@scripts/setup.sh mutate
	@.venv/bin/python -m scripts.mutate $(if $(MODULE),--module $(MODULE))

vendor: ## all wheels into var/wheels (or WHEELS=<dir>), for machines without an index
	@scripts/vendor.sh "$(WHEELS)"

lock: ## new versions and hashes into requirements/*.txt
	@scripts/lock.sh

clean: ## remove what was built; keeps var/kms and var/wheels
	@rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist
	@rm -rf *.egg-info var/build var/demo var/demo-* var/lock var/setup.log var/bench.json var/bench
	@find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +

# What the long benchmark compares with: never part of the service, nor of its environment.
$(DJANGO_CA)/installed:
	@.venv/bin/python -m venv $(@D)
	@$(@D)/bin/python -m pip --disable-pip-version-check install --quiet --no-input \
		--only-binary :all: "django-ca[hsm]==$(DJANGO_CA_VERSION)"
	@touch $@

$(RAW_SIGN): scripts/bench/raw_sign.c
	@scripts/setup.sh run
	@mkdir -p $(@D)
	@$(CC) -std=c11 -O2 -Wall -Wextra -Werror -o $@ $< -ldl
