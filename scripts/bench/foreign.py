"""Other certificate authorities, as black boxes beside the service: what they are asked, and how.

CFSSL is Debian's package: a software key, no storage, no TLS. django-ca comes from its package into
an environment of its own, and signs on the same kind of token as the service. Neither is part of
the product; where one is absent its row says what to do.
"""

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from helpers import HERE, Helper, plain
from places import MODULE, BenchError, free_ports, make_token

CFSSL_MISSING = "not installed: apt-get install golang-cfssl"
DJANGO_CA_MISSING = "not installed: make bench MODE=long installs it into var/build/django-ca"
DJANGO_CA_SKIPPED = "in the long mode only: make bench MODE=long"
_CONNECTIONS = (2, 4, 8, 16, 32)
_REQUESTS = 400
_START_SECONDS = 20.0
_LABEL = "bench-foreign"


class Cfssl:
    """`cfssl serve` at whatever number of connections suits it best."""

    def __init__(self, port: int, client: Helper) -> None:
        self._port = port
        self._client = client
        self.connections = _CONNECTIONS[0]

    def tune(self, seconds: float) -> None:
        """Find its best number of connections."""
        rates = {}
        for self.connections in _CONNECTIONS:
            rates[self.connections] = self.rate(seconds)
        self.connections = max(rates, key=lambda item: rates[item])

    def rate(self, seconds: float) -> float:
        """Certificates a second."""
        done = self._client.ask(
            "sign", port=self._port, connections=self.connections, seconds=seconds
        )
        return float(done["requests"]) / float(done["seconds"])


@contextmanager
def cfssl(directory: Path) -> Iterator[Cfssl | str]:
    """It, running with a P-256 key made for it; or why there is none."""
    if shutil.which("cfssl") is None or shutil.which("cfssljson") is None:
        yield CFSSL_MISSING
        return
    directory.mkdir()
    _make_authority(directory)
    (port,) = free_ports(1)
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            ["cfssl", "serve", f"-port={port}", "-ca=ca.pem", "-ca-key=ca-key.pem", "-loglevel=2"],
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        _await_port(port)
        with plain() as client:
            client.ask("requests", count=_REQUESTS)
            yield Cfssl(port, client)
    finally:
        process.terminate()
        process.wait()


def _make_authority(directory: Path) -> None:
    wanted = {"CN": "bench", "key": {"algo": "ecdsa", "size": 256}}
    (directory / "authority.json").write_text(json.dumps(wanted), encoding="utf-8")
    made = subprocess.run(
        ["cfssl", "genkey", "-loglevel=4", "-initca", "authority.json"],
        cwd=directory,
        capture_output=True,
        check=True,
    )
    subprocess.run(["cfssljson", "-bare", "ca"], cwd=directory, input=made.stdout, check=True)


def _await_port(port: int) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if time.monotonic() > deadline:
                raise BenchError("cfssl serve does not listen; see its log") from None
            time.sleep(0.05)
        else:
            return


class DjangoCa:
    """django-ca's `create_cert` with its HSM backend, one caller."""

    def __init__(self, helper: Helper) -> None:
        self._helper = helper

    def rate(self, seconds: float, *, held: bool) -> float:
        """Certificates a second; `held` keeps a session with the token open."""
        done = self._helper.ask("sign", seconds=seconds, held=held)
        return float(done["requests"]) / float(done["seconds"])


@contextmanager
def django_ca(directory: Path, python: Path | None) -> Iterator[DjangoCa | str]:
    """It, with a token of its own; or why there is none.

    Args:
        directory: To make, for token and database.
        python: Of the environment that has django-ca; None if it is not wanted.
    """
    if python is None or not os.access(python, os.X_OK):
        yield DJANGO_CA_SKIPPED if python is None else DJANGO_CA_MISSING
        return
    directory.mkdir()
    token = make_token(directory / "token", _LABEL)
    script = HERE / "foreign_django_ca.py"
    environment = {"SOFTHSM2_CONF": str(token / "softhsm2.conf")}
    command = (python, script, directory, MODULE, _LABEL, token / "pin")
    with Helper(*command, environment=environment) as helper:
        yield DjangoCa(helper)
