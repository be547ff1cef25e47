"""What a token process imports: it may run inside a chroot, where little is installed."""

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import importlib, sys
before = {"sitecustomize"} | set(sys.modules)  # Debian's
for name in sys.argv[1:]:
    importlib.import_module(name)
print(*{name.partition(".")[0] for name in sys.modules} - set(sys.stdlib_module_names) - before)
"""
MODULES = ("hsm_drivers.pkcs11", "hsm_drivers.token_process", "hsm_drivers.vendor")
ALLOWED = {"hsm_drivers", "policies", "pkcs11", "asn1crypto", "msgspec", "typing_extensions"}


def test_a_token_process_stands_on_few_packages() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *MODULES],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    imported = {name for name in done.stdout.split() if not name.startswith("_")}
    assert imported <= ALLOWED
    assert {"hsm_drivers", "pkcs11"} <= imported
