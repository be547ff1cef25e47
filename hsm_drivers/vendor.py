"""Vendor profiles: how a maker's token differs from the standard, as data with its sources.

`data/standard.toml` is PKCS#11 3.2 as written and complete. Every other file says only what differs
on one maker's tokens; a profile may also be a file of the operator's (`docs/hsm/profiles.md`).
No claim stands without its source.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from fnmatch import fnmatchcase
from functools import cache
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Any

from hsm_drivers.errors import (
    BadCiphertextError,
    HsmError,
    PinRefusedError,
    TokenFailureError,
    TokenUnavailableError,
)
from hsm_drivers.profile_tables import MAX_SOURCE, ProfileError, Table, document
from policies.algorithms import Algorithm, Scheme

__all__ = [
    "MAX_SOURCE",
    "SHIPPED",
    "Attributes",
    "Concurrency",
    "CurveName",
    "PointForm",
    "Profile",
    "ProfileError",
    "Quirk",
    "Recognition",
    "Remedy",
    "Spelling",
    "TrustedBy",
    "Wraps",
    "called",
    "code_of",
    "load",
    "recognised",
    "remedy",
    "remedy_of",
    "shipped",
    "spelling_of",
    "standard",
]

SHIPPED = ("softhsm2", "opencryptoki", "nss-softoken", "thales-luna", "entrust-nshield")
"""Profiles that come with the package, besides the standard."""

_CODE = re.compile(r"CKR_[A-Z0-9_]{2,60}|0x[0-9a-f]{1,8}", re.ASCII)
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}", re.ASCII)
_SPELLING = re.compile(r"[a-z0-9-]{2,32}", re.ASCII)
_IN_BRACKETS = re.compile(r"\[(" + _CODE.pattern + r")\]$", re.ASCII)


class Remedy(StrEnum):
    """What may mend a token that answered with a return code."""

    NONE = "none"
    """Nothing is wrong with the token: the request was."""
    RETRY = "retry"
    """The same call again, here or at another token."""
    LOG_IN = "log-in"
    """The session lives and the login is gone."""
    REOPEN = "reopen"
    """Module, session and handles have to be had anew."""
    QUARANTINE = "quarantine"
    """No call until a person or a probe says that the token is well."""


class CurveName(StrEnum):
    """How CKA_EC_PARAMS names a curve when a key is made (PKCS#11 3.0, 2.3.3 and 2.3.10)."""

    OID = "oid"
    NAME = "name"


class PointForm(StrEnum):
    """How CKA_EC_POINT reads."""

    OCTET_STRING = "octet-string"
    RAW = "raw"


class Wraps(StrEnum):
    """How bytes are wrapped that are no key of the token's."""

    AS_KEY = "as-key"
    """Carried in as a session object, by C_WrapKey and C_UnwrapKey."""
    AS_CIPHER = "as-cipher"
    """By C_Encrypt and C_Decrypt with the same mechanism; the wrapping key may encrypt, too."""


class TrustedBy(StrEnum):
    """Who can make a wrapping key trusted (CKA_TRUSTED), so that keys move under it alone."""

    SECURITY_OFFICER = "so"
    NOBODY = "nobody"
    """The token does not know of trusted keys, or does not keep to it."""


@dataclass(frozen=True, slots=True)
class Recognition:
    """What a token says of itself; patterns as of a shell, `*` for anything.

    Attributes:
        manufacturer: CK_TOKEN_INFO.manufacturerID.
        model: CK_TOKEN_INFO.model.
        library: CK_INFO.libraryDescription.
    """

    source: str
    manufacturer: str = "*"
    model: str = "*"
    library: str = "*"

    def fits(self, manufacturer: str, model: str, library: str) -> bool:
        """Whether all that is asked for is met."""
        return (
            fnmatchcase(manufacturer, self.manufacturer)
            and fnmatchcase(model, self.model)
            and fnmatchcase(library, self.library)
        )


@dataclass(frozen=True, slots=True)
class Concurrency:
    """How many may use the token at once.

    Attributes:
        os_locking: Whether threads are safe once C_Initialize was given CKF_OS_LOCKING_OK.
        processes: How many processes may use one token; 0 for as many as there are.
        sessions: How many sessions the token has; 0 for no limit that is known.
    """

    source: str
    os_locking: bool
    processes: int
    sessions: int


@dataclass(frozen=True, slots=True)
class Attributes:
    """How attributes of keys behave.

    Attributes:
        extractable_default: What CKA_EXTRACTABLE of a private key is where nobody said.
        tells_local: Whether CKA_LOCAL is true for keys made on the token.
        trusted_by: Who makes trusted wrapping keys.
        wraps_zero_padded: A wrapped private key is padded with zeros to a multiple of 8 bytes.
    """

    source: str
    extractable_default: bool
    tells_local: bool
    trusted_by: TrustedBy
    wraps_zero_padded: bool


@dataclass(frozen=True, slots=True)
class Spelling:
    """How keys of one scheme are made and used on the token.

    Attributes:
        key_type: CKA_KEY_TYPE.
        generate: Mechanism that makes them.
        use: Mechanism of their operation: to sign, derive, decapsulate, encrypt or wrap.
        curve: How a curve is named.
        point: How the public point reads.
        wraps: How bytes are wrapped.
        hashes: Hashes that the operation takes, where it has a choice; `hashlib` names.
        refused: Return codes by which the operation refuses foreign bytes, besides the standard's.
    """

    source: str
    key_type: int
    generate: int
    use: int
    curve: CurveName = CurveName.OID
    point: PointForm = PointForm.OCTET_STRING
    wraps: Wraps = Wraps.AS_KEY
    hashes: tuple[str, ...] = ()
    refused: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Quirk:
    """Something to know of the token that no other field says; the driver copes with it."""

    what: str
    source: str


@dataclass(frozen=True, slots=True)
class Profile:
    """How one maker's token is spoken to.

    Attributes:
        name: `[a-z0-9-]{1,32}`.
        title: For people.
        tested: Whether this project ran its tests on such a token.
        recognised: A token that fits any of these has this profile.
        spellings: By scheme of the registry; HMACs by scheme and hash (`hmac-sha256`).
        remedies: By return code, its name in the standard or `0x…`.
    """

    name: str
    title: str
    tested: bool
    recognised: tuple[Recognition, ...]
    concurrency: Concurrency
    attributes: Attributes
    spellings: Mapping[str, Spelling]
    remedies: Mapping[str, Remedy] = field(repr=False)
    remedies_source: str
    quirks: tuple[Quirk, ...]


def spelling_of(profile: Profile, row: Algorithm) -> Spelling | None:
    """How the profile spells keys of an algorithm; None for what no token is asked to do."""
    key = f"{row.scheme}-{row.digest}" if row.scheme is Scheme.HMAC else str(row.scheme)
    return profile.spellings.get(key)


def remedy(profile: Profile, code: str) -> Remedy:
    """What a return code asks for: its name in the standard, or `0x…` where it has none.

    A code that nobody documented says nothing of the token: the call is made again.
    """
    return profile.remedies.get(code, Remedy.RETRY)


def code_of(error: HsmError) -> str:
    """The return code at the end of an error's sentence; empty if there is none."""
    found = _IN_BRACKETS.search(str(error))
    return found[1] if found else ""


def remedy_of(profile: Profile, error: HsmError) -> Remedy:
    """What an error of a driver asks for: by its return code, else by its kind."""
    if isinstance(error, BadCiphertextError):
        return Remedy.NONE
    if isinstance(error, PinRefusedError):
        return Remedy.QUARANTINE
    if code := code_of(error):
        return remedy(profile, code)
    if isinstance(error, TokenUnavailableError):
        return Remedy.REOPEN
    return Remedy.RETRY if isinstance(error, TokenFailureError) else Remedy.NONE


def recognised(manufacturer: str, model: str, library: str) -> Profile:
    """The shipped profile of a token that says this of itself; else the standard."""
    for name in SHIPPED:
        profile = shipped(name)
        if any(one.fits(manufacturer, model, library) for one in profile.recognised):
            return profile
    return standard()


def called(name_or_path: str) -> Profile:
    """A shipped profile by name, or a file by its path (it has a slash).

    Raises:
        ProfileError: There is none, or it cannot be used.
    """
    if "/" not in name_or_path:
        return shipped(name_or_path)
    path = Path(name_or_path)
    try:
        with path.open("rb") as file:
            source = file.read(MAX_SOURCE + 1)
    except OSError as error:
        raise ProfileError(f"profile {path}: {error.strerror}") from error
    return load(source, f"profile {path}")


@cache
def shipped(name: str) -> Profile:
    """A profile that comes with the package.

    Raises:
        ProfileError: There is none of that name.
    """
    if name == "standard":
        return standard()
    if name not in SHIPPED:
        known = ", ".join(("standard", *SHIPPED))
        raise ProfileError(f"no profile is called {name!r}; there are {known}, or give a path")
    return load(_data(name), f"profile {name}")


@cache
def standard() -> Profile:
    """PKCS#11 as written."""
    where = "profile standard"
    return _profile(document(_data("standard"), where), None, where)


def load(source: bytes, where: str = "the profile") -> Profile:
    """Read a profile from the bytes of its file; what it does not say is as in the standard.

    Raises:
        ProfileError: Not TOML, unknown or missing keys, values of a wrong kind.
    """
    return _profile(document(source, where), standard(), where)


def _data(name: str) -> bytes:
    return (resources.files("hsm_drivers") / "data" / f"{name}.toml").read_bytes()


def _profile(values: Mapping[str, Any], base: Profile | None, where: str) -> Profile:
    read = Table(values, where)
    name = read.matching("name", _NAME)
    title, tested = read.text("title"), read.boolean("tested")
    recognitions = tuple(_recognition(each) for each in read.tables("recognised"))
    quirks = tuple(_quirk(each) for each in read.tables("quirk"))
    spellings = {key: _spelling(each) for key, each in read.named_tables("spelling", _SPELLING)}
    remedies = read.table("remedies", optional=base is not None)
    own = _remedies(remedies) if remedies else {}
    concurrency = read.table("concurrency", optional=base is not None)
    attributes = read.table("attributes", optional=base is not None)
    read.nothing_else()
    made = Profile(
        name=name,
        title=title,
        tested=tested,
        recognised=recognitions,
        concurrency=_concurrency(concurrency) if concurrency else standard().concurrency,
        attributes=_attributes(attributes) if attributes else standard().attributes,
        spellings=MappingProxyType(spellings),
        remedies=MappingProxyType(own),
        remedies_source=remedies.text("source") if remedies else standard().remedies_source,
        quirks=quirks,
    )
    if base is None:
        return made
    _check_known(made, base, where)
    return replace(
        made,
        spellings=MappingProxyType({**base.spellings, **spellings}),
        remedies=MappingProxyType({**base.remedies, **own}),
    )


def _check_known(made: Profile, base: Profile, where: str) -> None:
    """Schemes and named codes are those of the standard's file: anything else is a slip."""
    for key, spelling in made.spellings.items():
        if key not in base.spellings:
            known = ", ".join(base.spellings)
            raise ProfileError(f"{where}, spelling: {key!r} is none of {known}")
        _check_codes(spelling.refused, base, f"{where}, spelling {key}")
    _check_codes(made.remedies, base, f"{where}, remedies")


def _check_codes(codes: Iterable[str], base: Profile, where: str) -> None:
    for code in codes:
        if code.startswith("CKR_") and code not in base.remedies:
            raise ProfileError(f"{where}: the standard has no {code}; write others as 0x…")


def _recognition(table: Table) -> Recognition:
    made = Recognition(
        source=table.text("source"),
        manufacturer=table.text("manufacturer", "*"),
        model=table.text("model", "*"),
        library=table.text("library", "*"),
    )
    table.nothing_else()
    if made.manufacturer == made.model == made.library == "*":
        raise ProfileError(f"{table.where} fits every token")
    return made


def _quirk(table: Table) -> Quirk:
    made = Quirk(what=table.text("what"), source=table.text("source"))
    table.nothing_else()
    return made


def _concurrency(table: Table) -> Concurrency:
    made = Concurrency(
        source=table.text("source"),
        os_locking=table.boolean("os_locking"),
        processes=table.number("processes"),
        sessions=table.number("sessions"),
    )
    table.nothing_else()
    return made


def _attributes(table: Table) -> Attributes:
    made = Attributes(
        source=table.text("source"),
        extractable_default=table.boolean("extractable_default"),
        tells_local=table.boolean("tells_local"),
        trusted_by=table.member("trusted_by", TrustedBy),
        wraps_zero_padded=table.boolean("wraps_zero_padded"),
    )
    table.nothing_else()
    return made


def _spelling(table: Table) -> Spelling:
    made = Spelling(
        source=table.text("source"),
        key_type=table.number("key_type"),
        generate=table.number("generate"),
        use=table.number("use"),
        curve=table.member("curve", CurveName, CurveName.OID),
        point=table.member("point", PointForm, PointForm.OCTET_STRING),
        wraps=table.member("wraps", Wraps, Wraps.AS_KEY),
        hashes=table.strings("hashes", _SPELLING),
        refused=frozenset(table.strings("refused", _CODE)),
    )
    table.nothing_else()
    return made


def _remedies(table: Table) -> dict[str, Remedy]:
    """Per remedy the codes that ask for it, each at one place only."""
    found: dict[str, Remedy] = {}
    for one in Remedy:
        for code in table.strings(one, _CODE):
            if code in found:
                raise ProfileError(f"{table.where}: {code} stands under {found[code]} and {one}")
            found[code] = one
    table.text("source")
    table.nothing_else()
    return found
