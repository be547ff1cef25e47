"""Reading a policy: TOML in, rules out, and nothing that is not understood is passed over.

A file has `name`, `version` and a list of `[[rule]]` tables:

    id                        names the rule in decisions and events
    use                       slot, infrastructure, authority, log, backup, key or kem-slot
    slot                      with use = "slot" the name of the bundle slot, with "key" the purpose
                              of the key; required there. With "kem-slot" the purpose of the slot,
                              or none for all of them. With no other use
    algorithms                registry names
    kind                      instead of names: all of one kind (signature, kem, hash, wrap),
    hybrid                    those that combine several algorithms (true) or do not (false),
    minimum_classical_bits    those of at least this strength,
    minimum_quantum_category  those of at least this NIST category
    protection                where keys may live: token, transferable, wrapped, software, device
    refuse                    true makes the rule forbid what it speaks of
    from                      first day it is in force
    deprecated_from           first day of deprecation
    until                     last day of use, and of reliance on what was made
    reason                    why, for people

Names and requirements may stand together: then every named algorithm must meet the requirements,
and a policy in which one does not is refused when it is read, not when it is first asked.
"""

import hashlib
import re
import tomllib
from collections.abc import Iterable, Mapping
from datetime import date, datetime
from enum import StrEnum
from importlib import resources
from typing import Any, TypeVar

from policies.algorithms import (
    Algorithm,
    Kind,
    UnknownAlgorithmError,
    algorithm,
    algorithms,
)
from policies.decisions import DEFAULT_RULE, Policy, Protection, Rule, Use

__all__ = ["MAX_SOURCE", "Policy", "PolicyError", "every_shipped", "load", "shipped"]

MAX_SOURCE = 256 * 1024
"""Largest policy file in bytes."""
MAX_RULES = 1000
DEFAULT = "sovereign-2026"
"""The policy that is in force where the settings name no other."""

_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,63}", re.ASCII)
_TOP_KEYS = frozenset({"name", "version", "rule"})
_REQUIREMENTS = frozenset({"kind", "hybrid", "minimum_classical_bits", "minimum_quantum_category"})
_SLOTTED = frozenset({Use.SLOT, Use.KEY})
_RULE_KEYS = _REQUIREMENTS | {
    "id",
    "use",
    "slot",
    "algorithms",
    "protection",
    "refuse",
    "from",
    "deprecated_from",
    "until",
    "reason",
}

E = TypeVar("E", bound=StrEnum)


class PolicyError(ValueError):
    """A policy that cannot be read; the message says where and what is wrong."""


def shipped(name: str = DEFAULT) -> Policy:
    """A policy that comes with the package.

    Raises:
        PolicyError: There is none of that name.
    """
    file = resources.files("policies") / "data" / f"{name}.toml"
    if not _ID.fullmatch(name) or not file.is_file():
        raise PolicyError(f"no policy called {name!r} is shipped")
    return load(file.read_bytes())


def every_shipped() -> tuple[Policy, ...]:
    """All policies that come with the package, the default one first."""
    files = (resources.files("policies") / "data").iterdir()
    names = {file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml")}
    return tuple(shipped(name) for name in sorted(names, key=lambda name: (name != DEFAULT, name)))


def load(source: bytes) -> Policy:
    """Read a policy from the exact bytes of its file.

    Raises:
        PolicyError: Not TOML, unknown or missing keys, unknown algorithms, contradictions.
    """
    if len(source) > MAX_SOURCE:
        raise PolicyError(f"the policy has {len(source)} bytes, more than {MAX_SOURCE}")
    try:
        document = tomllib.loads(source.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise PolicyError(f"the policy is not TOML: {error}") from error
    _check_keys(document, _TOP_KEYS, "the policy")
    tables = _get(document, "rule", list, "the policy")
    if not 0 < len(tables) <= MAX_RULES:
        raise PolicyError(f"the policy has {len(tables)} rules, not 1 to {MAX_RULES}")
    rules = tuple(_rule(table, f"rule {at}") for at, table in enumerate(tables, start=1))
    _check_ids(rule.id for rule in rules)
    return Policy(
        name=_identifier(document, "name", "the policy"),
        version=_positive(document, "version", "the policy"),
        hash=hashlib.sha256(source).hexdigest(),
        source=source,
        rules=rules,
    )


def _rule(table: object, where: str) -> Rule:
    if not isinstance(table, dict):
        raise PolicyError(f"{where} is not a table")
    where = f"{where} ({table.get('id', 'without id')})"
    _check_keys(table, _RULE_KEYS, where)
    rule = Rule(
        id=_identifier(table, "id", where),
        use=_member(Use, _get(table, "use", str, where), where),
        slot=_identifier(table, "slot", where) if "slot" in table else None,
        algorithms=_algorithms(table, where),
        protections=frozenset(
            _member(Protection, item, where) for item in _strings(table, "protection", where)
        ),
        refuses=_get(table, "refuse", bool, where, default=False),
        starts=_day(table, "from", where),
        deprecated_from=_day(table, "deprecated_from", where),
        until=_day(table, "until", where),
        reason=_get(table, "reason", str, where),
    )
    _check_rule(rule, where)
    return rule


def _check_rule(rule: Rule, where: str) -> None:
    if rule.use is not Use.KEM_SLOT and (rule.use in _SLOTTED) != (rule.slot is not None):
        raise PolicyError(f"{where}: a slot stands with use 'slot' or 'key', and only there")
    if rule.refuses and (rule.deprecated_from or rule.until):
        raise PolicyError(f"{where}: a rule that refuses has no deprecation and no end")
    if not rule.reason.strip():
        raise PolicyError(f"{where}: the reason is empty")
    days = [day for day in (rule.starts, rule.deprecated_from, rule.until) if day]
    if days != sorted(days):
        raise PolicyError(f"{where}: from, deprecated_from and until are not in this order")


def _algorithms(table: Mapping[str, Any], where: str) -> frozenset[str]:
    """The named algorithms, or all that meet the requirements."""
    meeting = {row.name for row in algorithms() if _meets(row, table, where)}
    if "algorithms" not in table:
        if not _REQUIREMENTS & table.keys():
            raise PolicyError(f"{where} says neither algorithms nor requirements")
        if not meeting:
            raise PolicyError(f"{where}: no algorithm meets the requirements")
        return frozenset(meeting)
    names = _strings(table, "algorithms", where)
    for name in names:
        try:
            algorithm(name)
        except UnknownAlgorithmError as error:
            raise PolicyError(f"{where}: {error}") from error
        if name not in meeting:
            raise PolicyError(f"{where}: {name} does not meet the rule's own requirements")
    return frozenset(names)


def _meets(row: Algorithm, table: Mapping[str, Any], where: str) -> bool:
    bits = _get(table, "minimum_classical_bits", int, where, default=0)
    category = _get(table, "minimum_quantum_category", int, where, default=0)
    return (
        ("kind" not in table or row.kind is _member(Kind, _get(table, "kind", str, where), where))
        and ("hybrid" not in table or row.hybrid is _get(table, "hybrid", bool, where))
        and row.classical_bits >= bits
        and row.quantum_category >= category
    )


def _check_keys(table: Mapping[str, Any], known: frozenset[str], where: str) -> None:
    unknown = sorted(table.keys() - known)
    if unknown:
        raise PolicyError(f"{where} has unknown keys: {', '.join(unknown)}")


def _check_ids(ids: Iterable[str]) -> None:
    seen = {DEFAULT_RULE}
    for item in ids:
        if item in seen:
            raise PolicyError(f"the rule id {item!r} is taken")
        seen.add(item)


def _get(table: Mapping[str, Any], key: str, kind: type, where: str, default: object = None) -> Any:
    value = table.get(key, default)
    # A TOML boolean is not an integer, whatever Python thinks.
    if value is None or type(value) is not kind:
        raise PolicyError(f"{where}: {key} is missing or not a {kind.__name__}")
    return value


def _strings(table: Mapping[str, Any], key: str, where: str) -> list[str]:
    items: list[str] = _get(table, key, list, where)
    if not items or any(type(item) is not str for item in items) or len(set(items)) < len(items):
        raise PolicyError(f"{where}: {key} is not a list of different strings")
    return items


def _identifier(table: Mapping[str, Any], key: str, where: str) -> str:
    value: str = _get(table, key, str, where)
    if not _ID.fullmatch(value):
        raise PolicyError(f"{where}: {key} {value[:80]!r} is not made of a-z, 0-9 and -")
    return value


def _positive(table: Mapping[str, Any], key: str, where: str) -> int:
    value: int = _get(table, key, int, where)
    if value < 1:
        raise PolicyError(f"{where}: {key} counts from 1")
    return value


def _member(kind: type[E], value: str, where: str) -> E:
    try:
        return kind(value)
    except ValueError as error:
        known = ", ".join(kind)
        raise PolicyError(f"{where}: {value!r} is none of {known}") from error


def _day(table: Mapping[str, Any], key: str, where: str) -> date | None:
    value = table.get(key)
    if value is None:
        return None
    if not isinstance(value, date) or isinstance(value, datetime):
        raise PolicyError(f"{where}: {key} is not a day like 2035-12-31")
    return value
