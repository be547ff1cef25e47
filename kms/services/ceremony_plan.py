"""What a ceremony makes: reviewed beforehand, free of secrets, PINs and token paths."""

import hashlib
import tomllib
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from kms.services.core import INFRASTRUCTURE, PEOPLE, ROOT
from kms.wire import canonical
from pki.names import Subject
from policies.choices import ISSUING_KEY, LOG_KEY, ROOT_KEY

MAX_YEARS = 20


class PlanError(ValueError):
    """A plan that cannot be carried out; the message names the key."""


@dataclass(frozen=True, slots=True)
class AuthorityPlan:
    """One authority to be born: `label` is its key's name on the token."""

    name: str
    label: str
    algorithm: str
    subject: Subject
    validity: timedelta


@dataclass(frozen=True, slots=True)
class Plan:
    """A whole ceremony.

    Attributes:
        log_name: Name of the log; the first epoch's origin is `<log_name>/1`.
        log_label: The log key's name on the token.
        identity_domain: Domain of the authority's own principals.
        authorities: Root first, then the issuing authorities under it.
    """

    log_name: str
    log_label: str
    organization: str
    identity_domain: str
    authorities: tuple[AuthorityPlan, ...]

    @property
    def sha256(self) -> str:
        """Hash of the plan as the log records it."""
        return hashlib.sha256(canonical(self.document())).hexdigest()

    def document(self) -> dict[str, Any]:
        """JSON form, for people to read and for the hash."""
        return {
            "log": {"name": self.log_name, "label": self.log_label, "algorithm": LOG_KEY},
            "organization": self.organization,
            "identity_domain": self.identity_domain,
            "authorities": [
                {
                    "name": item.name,
                    "label": item.label,
                    "algorithm": item.algorithm,
                    "common_name": item.subject.common_name,
                    "days": item.validity.days,
                }
                for item in self.authorities
            ],
        }


_DEFAULTS: dict[str, dict[str, Any]] = {
    ROOT: {"algorithm": ROOT_KEY, "years": 20, "common_name": "Root CA"},
    PEOPLE: {"algorithm": ISSUING_KEY, "years": 10, "common_name": "People CA"},
    INFRASTRUCTURE: {"algorithm": ISSUING_KEY, "years": 10, "common_name": "Infrastructure CA"},
}


def load_plan(source: bytes | None, log_name: str, identity_domain: str | None = None) -> Plan:
    """The plan in a TOML file, or the default one.

    Keys: `organization`, `identity_domain`, and tables `root`, `people`, `infrastructure` with
    `algorithm`, `years`, `common_name`; each may be left out.

    Raises:
        PlanError: Not TOML, unknown keys, or values out of range.
    """
    try:
        given = tomllib.loads(source.decode()) if source is not None else {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise PlanError(f"the plan is not TOML: {error}") from error
    unknown = set(given) - {"organization", "identity_domain", *_DEFAULTS}
    if unknown:
        raise PlanError(f"unknown keys in the plan: {', '.join(sorted(unknown))}")
    organization = _text(given, "organization", "Sovereign Authority")
    domain = identity_domain or _text(given, "identity_domain", "authority.example")
    authorities = tuple(_authority(name, given.get(name, {}), organization) for name in _DEFAULTS)
    return Plan(log_name, "log-1", organization, domain, authorities)


def _authority(name: str, given: Any, organization: str) -> AuthorityPlan:
    if not isinstance(given, dict) or set(given) - set(_DEFAULTS[name]):
        raise PlanError(f"[{name}] takes {', '.join(_DEFAULTS[name])} and nothing else")
    values = {**_DEFAULTS[name], **given}
    years = values["years"]
    if not isinstance(years, int) or not 1 <= years <= MAX_YEARS:
        raise PlanError(f"{name}.years must be a whole number from 1 to {MAX_YEARS}")
    return AuthorityPlan(
        name=name,
        label=f"{name}-1",
        algorithm=_text(values, "algorithm", ""),
        subject=Subject(_text(values, "common_name", ""), organization),
        validity=timedelta(days=years * 365),
    )


def _text(values: dict[str, Any], key: str, default: str) -> str:
    value = values.get(key, default)
    if not isinstance(value, str) or not 0 < len(value) <= 64:
        raise PlanError(f"{key} must be a text of 1 to 64 characters")
    return value
