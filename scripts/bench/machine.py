"""What the figures were measured on, and how quiet it was."""

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

from places import MODULE

_PACKAGES = ("cryptography", "fastapi", "msgspec", "python-pkcs11", "sqlalchemy", "uvicorn")


def machine() -> dict[str, Any]:
    """Processor, system and versions."""
    lines = Path("/proc/cpuinfo").read_text(encoding="ascii").splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    softhsm = subprocess.run(
        ["softhsm2-util", "--version"], capture_output=True, text=True, check=False
    )
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores": len(models),
        "system": platform.freedesktop_os_release().get("PRETTY_NAME", "unknown"),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "softhsm": softhsm.stdout.strip(),
        "module": str(MODULE),
        "packages": {name: version(name) for name in _PACKAGES},
    }


class Quiet:
    """How much of the machine others took while the benchmark ran."""

    def __init__(self) -> None:
        self._began = self._look()

    def shares(self) -> dict[str, float]:
        """Shares of all CPU time since: of other processes, and what the host withheld."""
        total, busy, stolen, own = (
            now - then for now, then in zip(self._look(), self._began, strict=True)
        )
        return {"others": max(0.0, busy - own) / total, "stolen": stolen / total}

    @staticmethod
    def _look() -> tuple[float, float, float, float]:
        """Seconds in all, busy and stolen (proc(5): stat), and of this process and its children.

        Children count once they have ended, with all of theirs.
        """
        fields = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:9]
        user, nice, system, idle, waiting, irq, softirq, stolen = map(int, fields)
        busy = user + nice + system + irq + softirq
        tick = os.sysconf("SC_CLK_TCK")
        own = sum(os.times()[:4])
        total = busy + idle + waiting + stolen
        return total / tick, busy / tick, stolen / tick, own
