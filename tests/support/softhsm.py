"""A SoftHSM2 token of a test's own."""

import secrets
import shutil
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

import pkcs11
from pkcs11 import Attribute, KeyType, ObjectClass

from hsm_drivers.pin import Pin

_SCRIPT = Path(__file__).parents[2] / "softhsm" / "init-token.sh"


@dataclass(frozen=True, slots=True)
class SoftHsm:
    """Where the token is and how to log in to it; `directory` is what init-token.sh made."""

    module: str
    label: str
    pin: Pin
    conf: Path
    directory: Path


def make_token(directory: Path, label: str = "test") -> SoftHsm:
    done = subprocess.run([_SCRIPT, directory, label], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return SoftHsm(
        module="/usr/lib/softhsm/libsofthsm2.so",
        label=label,
        pin=Pin((directory / "pin").read_text()),
        conf=directory / "softhsm2.conf",
        directory=directory,
    )


def beside(first: SoftHsm, second: SoftHsm) -> SoftHsm:
    """The second token, moved into the first one's directory: one module then sees both."""
    for token in (second.directory / "tokens").iterdir():
        shutil.move(token, first.directory / "tokens")
    return replace(second, conf=first.conf)


def make_trusted(token: SoftHsm, label: str, value: bytes) -> None:
    """A trusted wrapping key, by the token's security officer; no driver may be open meanwhile.

    SoftHSM2 lets an SO see public objects only, so that the key is one.
    """
    library = pkcs11.lib(token.module)
    found = library.get_token(token_label=token.label)
    session = found.open(rw=True, so_pin=(token.directory / "so-pin").read_text())
    session.create_object(
        {
            Attribute.CLASS: ObjectClass.SECRET_KEY,
            Attribute.KEY_TYPE: KeyType.AES,
            Attribute.ID: secrets.token_bytes(16),
            Attribute.LABEL: label,
            Attribute.VALUE: value,
            Attribute.TOKEN: True,
            Attribute.PRIVATE: False,
            Attribute.SENSITIVE: True,
            Attribute.EXTRACTABLE: False,
            Attribute.TRUSTED: True,
            Attribute.WRAP: True,
            Attribute.UNWRAP: True,
            Attribute.ENCRYPT: False,
            Attribute.DECRYPT: False,
        }
    )
    session.close()
    library.finalize()
