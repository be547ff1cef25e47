"""What a ceremony makes: reviewed beforehand, free of secrets, PINs and token paths."""

import hashlib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from kms.services.core import INFRASTRUCTURE, PEOPLE, ROOT
from kms.wire import canonical
from pki.names import Subject
from pki.profiles import authority_profile, authority_profiles
from policies.algorithms import UnknownAlgorithmError, algorithm
from policies.choices import ISSUING_KEYS, LOG_COSIGNER, LOG_KEY, ROOT_KEY
from policies.decisions import Protection

MAX_YEARS = 20
OWN_TOKEN = "main"  # noqa: S105 - a name that people call the service's own token by
_TOKEN = re.compile(r"[a-z0-9-]{1,32}")
_PROTECTIONS = (Protection.TOKEN, Protection.TRANSFERABLE, Protection.WRAPPED)


class PlanError(ValueError):
    """A plan that cannot be carried out; the message names the key."""


@dataclass(frozen=True, slots=True)
class AuthorityPlan:
    """One authority to be born.

    Attributes:
        label: Its key's name.
        token: Name of the token in the configuration; empty for the service's own.
        protection: TOKEN, TRANSFERABLE (for replicas by transfer), or WRAPPED under a key of that
            token.
    """

    name: str
    label: str
    algorithm: str
    subject: Subject
    validity: timedelta
    token: str = ""
    protection: Protection = Protection.TOKEN


@dataclass(frozen=True, slots=True)
class CosignerPlan:
    """The log's cosigner; attributes as an authority's."""

    token: str = ""
    protection: Protection = Protection.TOKEN
    label: str = "log-cosigner-1"


@dataclass(frozen=True, slots=True)
class Plan:
    """A whole ceremony.

    Attributes:
        log_name: Name of the log; the first epoch's origin is `<log_name>/1`.
        log_label: The log key's name on the token.
        identity_domain: Domain of the authority's own principals.
        authorities: To be made, in this order: in the first ceremony the root, then those below it.
        cosigner: The log's cosigner, if it is to be made.
    """

    log_name: str
    log_label: str
    organization: str
    identity_domain: str
    authorities: tuple[AuthorityPlan, ...]
    cosigner: CosignerPlan | None = None

    @property
    def sha256(self) -> str:
        """Hash of the plan as the log records it."""
        return hashlib.sha256(canonical(self.document())).hexdigest()

    def document(self) -> dict[str, Any]:
        """JSON form, for people to read and for the hash."""
        return {
            "log": {"name": self.log_name, "label": self.log_label, "algorithm": LOG_KEY},
            "cosigner": None if self.cosigner is None else _cosigner_document(self.cosigner),
            "organization": self.organization,
            "identity_domain": self.identity_domain,
            "authorities": [
                {
                    "name": item.name,
                    "label": item.label,
                    "algorithm": item.algorithm,
                    "common_name": item.subject.common_name,
                    "days": item.validity.days,
                    "token": item.token or OWN_TOKEN,
                    "protection": item.protection.value,
                }
                for item in self.authorities
            ],
        }


def _cosigner_document(cosigner: CosignerPlan) -> dict[str, str]:
    return {
        "label": cosigner.label,
        "algorithm": LOG_COSIGNER,
        "token": cosigner.token or OWN_TOKEN,
        "protection": cosigner.protection.value,
    }


_HELD: dict[str, Any] = {"token": OWN_TOKEN, "protection": Protection.TOKEN.value}
_FIRST: dict[str, dict[str, Any]] = {
    ROOT: {"algorithm": ROOT_KEY, "years": 20, "common_name": "Root CA"} | _HELD,
    PEOPLE: {"algorithm": ISSUING_KEYS[0], "years": 10, "common_name": "People CA"} | _HELD,
    INFRASTRUCTURE: {
        "algorithm": ISSUING_KEYS[0],
        "years": 10,
        "common_name": "Infrastructure CA",
    }
    | _HELD,
}
"""Authorities of every first ceremony, with what holds where a plan says nothing else."""


def load_plan(source: bytes | None, log_name: str, identity_domain: str | None = None) -> Plan:
    """The plan of a first ceremony, from a TOML file, or the default one.

    Keys: `organization`, `identity_domain`, tables `root`, `people`, `infrastructure` and
    `authorities.<name>` with `algorithm`, `years`, `common_name`, `token`, `protection`, and
    `cosigner` with the last two; each may be left out.

    Raises:
        PlanError: Not TOML, unknown keys, or values out of range.
    """
    given = _parse(source, {"organization", "identity_domain", "authorities", "cosigner", *_FIRST})
    organization = _text(given, "organization", "Sovereign Authority")
    domain = identity_domain or _text(given, "identity_domain", "authority.example")
    first = tuple(
        _authority(name, given.get(name, {}), defaults, organization)
        for name, defaults in _FIRST.items()
    )
    cosigner = plan_cosigner(given["cosigner"]) if "cosigner" in given else None
    further = _further(given, organization)
    return Plan(log_name, "log-1", organization, domain, first + further, cosigner)


def load_further(source: bytes, organization: str) -> tuple[AuthorityPlan, ...]:
    """Authorities to be added to those there are, from a TOML file of `authorities.<name>` alone.

    Args:
        source: The file.
        organization: The root's.

    Raises:
        PlanError: Not TOML, unknown keys, or values out of range.
    """
    further = _further(_parse(source, {"authorities"}), organization)
    if not further:
        raise PlanError("the plan names no authority: write [authorities.<name>]")
    return further


def plan_cosigner(given: Any) -> CosignerPlan:
    """The cosigner from the plan's table.

    Raises:
        PlanError: Unknown keys, or values out of range.
    """
    values = _values("cosigner", given, _HELD)
    return CosignerPlan(_token("cosigner", values), _protection("cosigner", values))


def _parse(source: bytes | None, known: set[str]) -> dict[str, Any]:
    try:
        given = tomllib.loads(source.decode()) if source is not None else {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise PlanError(f"the plan is not TOML: {error}") from error
    unknown = set(given) - known
    if unknown:
        raise PlanError(f"unknown keys in the plan: {', '.join(sorted(unknown))}")
    return given


def _further(given: Mapping[str, Any], organization: str) -> tuple[AuthorityPlan, ...]:
    tables = given.get("authorities", {})
    if not isinstance(tables, dict):
        raise PlanError("authorities are tables: write [authorities.<name>]")
    known = sorted(authority_profiles().keys() - _FIRST.keys())
    unknown = sorted(tables.keys() - set(known))
    if unknown:
        raise PlanError(f"no profile knows {', '.join(unknown)}; there are {', '.join(known)}")
    return tuple(
        _authority(name, table, _defaults(name), organization) for name, table in tables.items()
    )


def _defaults(name: str) -> dict[str, Any]:
    key = ISSUING_KEYS[authority_profile(name).minimum_quantum_category]
    return {"algorithm": key, "years": 10, "common_name": f"{name} CA"} | _HELD


def _authority(
    name: str, given: Any, defaults: Mapping[str, Any], organization: str
) -> AuthorityPlan:
    values = _values(name, given, defaults)
    years = values["years"]
    if type(years) is not int or not 1 <= years <= MAX_YEARS:
        raise PlanError(f"{name}.years must be a whole number from 1 to {MAX_YEARS}")
    chosen = _text(values, "algorithm", "")
    _check_category(name, chosen)
    return AuthorityPlan(
        name=name,
        label=f"{name}-1",
        algorithm=chosen,
        subject=Subject(_text(values, "common_name", ""), organization),
        validity=timedelta(days=years * 365),
        token=_token(name, values),
        protection=_protection(name, values),
    )


def _check_category(name: str, chosen: str) -> None:
    profile = authority_profile(name)
    try:
        fits = profile.admits(algorithm(chosen))
    except UnknownAlgorithmError:
        return  # the policy refuses it, and says why
    if not fits:
        raise PlanError(
            f"{name}.algorithm must sign at NIST category {profile.minimum_quantum_category} or"
            f" above, which {chosen} does not"
        )


def _values(name: str, given: Any, defaults: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(given, dict) or set(given) - set(defaults):
        raise PlanError(f"[{name}] takes {', '.join(defaults)} and nothing else")
    return {**defaults, **given}


def _token(name: str, values: Mapping[str, Any]) -> str:
    token = values["token"]
    if not isinstance(token, str) or not _TOKEN.fullmatch(token):
        raise PlanError(
            f"{name}.token must be the name of a token: {OWN_TOKEN}, or [tokens.<name>]"
        )
    return "" if token == OWN_TOKEN else token


def _protection(name: str, values: Mapping[str, Any]) -> Protection:
    if values["protection"] not in _PROTECTIONS:
        raise PlanError(f"{name}.protection must be one of {', '.join(_PROTECTIONS)}")
    return Protection(values["protection"])


def _text(values: Mapping[str, Any], key: str, default: str) -> str:
    value = values.get(key, default)
    if not isinstance(value, str) or not 0 < len(value) <= 64:
        raise PlanError(f"{key} must be a text of 1 to 64 characters")
    return value
