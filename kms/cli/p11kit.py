"""p11-kit's configuration: which PKCS#11 modules this machine knows of (pkcs11.conf(5))."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

FOLDERS = (Path("/usr/share/p11-kit/modules"), Path("/etc/pkcs11/modules"))
"""What packages bring, and what the machine's administrator says; of one name the latter holds."""
MODULES = ("/usr/lib/{machine}/pkcs11", "/usr/lib64/pkcs11", "/usr/lib/pkcs11")
_MAX_BYTES = 64 * 1024
_MAX_FILES = 256


@dataclass(frozen=True, slots=True)
class ConfiguredModule:
    """One `.module` file.

    Attributes:
        name: The file's, without its ending.
        path: Of the module; empty for one that is reached by `remote`.
        remote: How p11-kit reaches it elsewhere: through p11-kit-client.so, if at all.
    """

    name: str
    path: str
    remote: str


def configured_modules(folders: Iterable[Path] = FOLDERS) -> list[ConfiguredModule]:
    """All of them by name; files that cannot be read are left out, as p11-kit does."""
    found: dict[str, ConfiguredModule] = {}
    for folder in folders:
        for path in sorted(folder.glob("*.module"))[:_MAX_FILES]:
            values = _values(path)
            if "module" in values or "remote" in values:
                found[path.stem] = ConfiguredModule(
                    path.stem, _absolute(values.get("module", "")), values.get("remote", "")
                )
    return [found[name] for name in sorted(found)]


def _values(path: Path) -> dict[str, str]:
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_BYTES).decode("utf-8", "replace")
    except OSError:
        return {}
    lines = (line.partition("#")[0].partition(":") for line in text.splitlines())
    return {name.strip(): value.strip() for name, colon, value in lines if colon}


def _absolute(module: str) -> str:
    """A name without a directory lies where modules are installed."""
    if not module or module.startswith("/"):
        return module
    places = [
        folder / module
        for pattern in MODULES
        for folder in Path("/").glob(pattern.format(machine="*").lstrip("/"))
    ]
    return next((str(place) for place in places if place.exists()), module)
