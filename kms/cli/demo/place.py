"""Where a demonstration lies: its record, and beside it the home of the service it ran."""

import os
import shutil
import socket
import subprocess
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from kms.cli.demo.errors import DemoError, SurroundingsError

TOKEN_LABEL = "kms-demo"  # noqa: S105 - the name of the token, not a secret
MARKER = ".sovereign-kms-demo"
"""The first file in every directory of a demonstration; only what has it is ever deleted."""
_MARKER_TEXT = "A demonstration lies here. The next one (`kms demo`) deletes this directory.\n"


@dataclass(frozen=True, slots=True)
class Ports:
    """Loopback ports of the three listeners."""

    api: int
    public: int
    operator: int


@dataclass(frozen=True, slots=True)
class Place:
    """Directories of one demonstration.

    Attributes:
        record: What strangers look at (DESIGN section 6).
        home: Home of the service; beside the record, because it is not part of it.
    """

    record: Path
    home: Path

    @classmethod
    def at(cls, directory: Path) -> "Place":
        """The demonstration that leaves its record there.

        Raises:
            SurroundingsError: A path without a name, which nothing can lie beside.
        """
        record = directory.absolute()
        if record.name in {"", ".."}:
            raise SurroundingsError(f"{directory} cannot hold a demonstration: name a directory")
        return cls(record, record.with_name(f"{record.name}-service"))

    @property
    def token(self) -> Path:
        """Files of the token."""
        return self.record / "token"

    @property
    def pin(self) -> Path:
        """The user PIN, 0600."""
        return self.record / "pin"

    @property
    def conf(self) -> Path:
        """SoftHSM2's configuration."""
        return self.record / "softhsm2.conf"

    @property
    def signer_state(self) -> Path:
        """What the signer of the service remembers."""
        return self.home.with_name(f"{self.home.name}-signer")

    @property
    def log_file(self) -> Path:
        """Log lines of the service."""
        return self.home / "service.log"

    def client(self, name: str) -> tuple[Path, Path]:
        """Certificate and key of a client."""
        return self.home / "clients" / f"{name}.pem", self.home / "clients" / f"{name}.key"

    @property
    def trust(self) -> Path:
        """The root certificate."""
        return self.home / "trust.pem"


def clear(place: Place) -> None:
    """Begin from nothing: the three directories, each with its marker alone.

    Raises:
        SurroundingsError: One of them holds something else than a demonstration; all are left
            as they are.
    """
    directories = (place.record, place.home, place.signer_state)
    for directory in directories:
        _refuse_foreign(directory)
    for directory in directories:
        _remake(directory, 0o700 if directory == place.signer_state else 0o755)


def _refuse_foreign(directory: Path) -> None:
    if not os.path.lexists(directory):
        return
    if directory.is_symlink() or not directory.is_dir():
        raise SurroundingsError(f"{directory} is no directory: left alone")
    marker = directory / MARKER
    if any(directory.iterdir()) and (marker.is_symlink() or not marker.is_file()):
        raise SurroundingsError(
            f"{directory} is not empty and no demonstration made it, or one of an older version "
            f"({MARKER} is missing): left alone; name another with --dir, or remove it yourself"
        )


def _remake(directory: Path, mode: int) -> None:
    """The marker goes last and comes first: what a crash leaves is ours, or empty, or gone."""
    if directory.exists():
        for path in directory.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name != MARKER:
                path.unlink()
        shutil.rmtree(directory)
    directory.mkdir(mode=mode, parents=True)
    fd = os.open(directory / MARKER, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "w", encoding="utf-8") as file:
        file.write(_MARKER_TEXT)


def free_ports() -> Ports:
    """Three loopback ports that nobody listens on now."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(3)]
        for item in sockets:
            item.bind(("127.0.0.1", 0))
        return Ports(*(item.getsockname()[1] for item in sockets))


def make_token(place: Place, module: Path) -> None:
    """Initialise a SoftHSM2 token with random PINs.

    Raises:
        SurroundingsError: A package is missing, or this is no checkout of the project.
        DemoError: The token could not be made.
    """
    script = _script()
    done = subprocess.run(
        [script, place.token, TOKEN_LABEL, module],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if done.returncode == 2:
        raise SurroundingsError(done.stderr.strip())
    if done.returncode != 0:
        raise DemoError(f"no token could be made: {done.stderr.strip()}")
    for path in (place.pin, place.conf):  # a record's layout has them beside the token
        (place.token / path.name).rename(path)


def _script() -> Path:
    checkouts = (Path.cwd(), Path(__file__).parents[3])
    for checkout in checkouts:
        script = checkout / "softhsm" / "init-token.sh"
        if script.is_file():
            return script
    raise SurroundingsError(
        "softhsm/init-token.sh is not here: run this in a checkout of the project"
    )
