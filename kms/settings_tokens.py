"""What can be configured about a token, and about several."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from pydantic import Field

from kms.settings_kinds import HomePath, Section, Text, count

MAIN = "main"
"""What people call the service's own token, `[token]`; everywhere else its name is empty."""
_NAME = re.compile(r"[a-z0-9-]{1,32}")


class Token(Section):
    """The HSM: a PKCS#11 module and one of its tokens. Further ones are tables [tokens.<name>]."""

    module: HomePath = Field(
        default=Path("/usr/lib/softhsm/libsofthsm2.so"),
        description="PKCS#11 module. Only processes without any other task load it; it runs with "
        "their rights and sees the PIN. SoftHSM2, the default, keeps keys in files: for "
        "development, not for duty.",
    )
    label: Text = Field(default="kms", description="CKA_LABEL of the token.")
    serial: Text | None = Field(
        default=None,
        description="Serial number of the token. Where it is given, another token behind the "
        "right label is refused.",
    )
    profile: Text | None = Field(
        default=None,
        description="Vendor profile: a shipped name, or a path (with a slash) of a file in the "
        "same form. Default: recognised by what the token says of itself.",
    )
    pin_file: HomePath | None = Field(
        default=None,
        description="File with the user PIN, 0600. Whoever reads it and reaches the token can use "
        "every key. Default: the credential `kms-pin` (of a further token `kms-pin-<name>`) in "
        "$CREDENTIALS_DIRECTORY, --pin-fd, or a prompt.",
    )
    directory: HomePath | None = Field(
        default=None,
        description="Directory of a token that is kept in files (SoftHSM2); given to the signer's "
        "user when processes run under users of their own.",
    )
    environment: dict[Text, str] = Field(
        default_factory=dict,
        description="Environment variables that the module wants, such as SOFTHSM2_CONF. The "
        "token's processes get these and no others. Not for secrets.",
    )
    signers: int = count(
        1,
        1,
        64,
        "Processes that use the token at once: several hide the latency of an HSM in the network. "
        "SoftHSM2 bears one only.",
    )
    call_seconds: int = count(
        1,
        1,
        600,
        "A call that takes longer is made by another process or on a replica as well, and this "
        "process gets no more until it has answered. Wants more for keys that sign slowly.",
    )
    chroot: HomePath | None = Field(
        default=None,
        description="Root directory for the token's processes, for modules that want another "
        "system than this one. Module, profile and environment are then paths inside it, and "
        "hsm_drivers and policies must be importable there. Wants a service started as root.",
    )
    python: HomePath | None = Field(
        default=None,
        description="Interpreter of the token's processes. Default: this service's own; in a "
        "chroot /usr/bin/python3.",
    )

    @property
    def apart(self) -> bool:
        """Whether only processes of its own can serve it."""
        return self.signers > 1 or self.chroot is not None or self.python is not None


def refuse_misnamed(tokens: Iterable[str]) -> None:
    """Names are short and plain: sockets, credentials and records carry them.

    Raises:
        ValueError: One is not, or is the service's own token's.
    """
    for name in tokens:
        if not _NAME.fullmatch(name):
            raise ValueError(f"tokens.{name[:40]}: a name has 1 to 32 of a-z, 0-9 and -")
        if name == MAIN:
            raise ValueError(f"tokens.{MAIN}: that is what [token] is called")


def shown(name: str) -> str:
    """A token's name for people."""
    return name or MAIN


def refuse_twice(estate: Mapping[str, Token]) -> None:
    """One token, one name: a replica must be somewhere else than its key.

    Raises:
        ValueError: Two names lead to the same token, or to one directory.
    """
    ways: dict[object, str] = {}
    directories: dict[object, str] = {}
    for name, token in estate.items():
        variables = tuple(sorted(token.environment.items()))
        way = (token.chroot, token.module, token.label, token.serial, variables)
        first = ways.setdefault(way, name)
        if first != name:
            raise ValueError(
                f"tokens {shown(first)} and {shown(name)} are the same one: module, label, serial "
                "and environment are equal"
            )
        if token.directory is None:
            continue
        first = directories.setdefault(token.directory, name)
        if first != name:
            raise ValueError(
                f"tokens {shown(first)} and {shown(name)} lie in the same directory, and would "
                "break it: give each its own"
            )
