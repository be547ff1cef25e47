"""A token behind a PKCS#11 module that fails as it is told (`faulty_pkcs11.c`)."""

import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.running import Home

MODULE = "/usr/lib/softhsm/libsofthsm2.so"
SOURCE = Path(__file__).with_name("faulty_pkcs11.c")
FLAGS = ("-std=c11", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC")

DEVICE_ERROR = 0x30
TOKEN_NOT_PRESENT = 0xE0
SESSION_HANDLE_INVALID = 0xB3
GENERAL_ERROR = 0x05
"""Return codes of PKCS#11 2.40."""


def build(directory: Path) -> Path:
    """Compile the module."""
    made = directory / "faulty_pkcs11.so"
    subprocess.run(["cc", *FLAGS, "-o", made, SOURCE, "-ldl"], check=True)
    return made


@dataclass(frozen=True, slots=True)
class FaultyModule:
    """The compiled module, and the file that tells it how to fail."""

    path: Path
    orders: Path

    @property
    def environment(self) -> dict[str, str]:
        """What a process that loads it needs, besides what SoftHSM2 does."""
        return {"FAULTY_PKCS11_MODULE": MODULE, "FAULTY_PKCS11_ORDERS": str(self.orders)}

    def order(self, text: str) -> None:
        """From the next call on, do as the text says; nothing is in between."""
        new = self.orders.with_suffix(".new")
        new.write_text(text)
        new.chmod(0o644)
        new.replace(self.orders)

    def well(self) -> None:
        """Do nothing but pass on."""
        self.orders.unlink(missing_ok=True)

    @contextmanager
    def failing(self, text: str) -> Iterator[None]:
        """Fail so for as long as the context lasts."""
        self.order(text)
        try:
            yield
        finally:
            self.well()


def stand_before(home: Home) -> FaultyModule:
    """Put a faulty module between a home's signer and its token."""
    module = FaultyModule(build(home.root), home.root / "orders")
    module.path.chmod(0o755)
    token = home.settings.token
    environment = {**token.environment, **module.environment}
    pairs = ", ".join(f"{json.dumps(name)} = {json.dumps(to)}" for name, to in environment.items())
    path = home.path / "kms.toml"
    text = re.sub(r"(?m)^environment = .*$", f"environment = {{ {pairs} }}", path.read_text())
    text = re.sub(r"(?m)^(# )?module = .*$", f"module = {json.dumps(str(module.path))}", text)
    path.write_text(text)
    assert home.settings.token.module == module.path
    return module
