"""The read path beside static files of the same bytes, from the same server software."""

import http.client
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rows
from helpers import HERE, Helper
from places import BenchError, Site, free_ports
from rows import READ_CONNECTIONS, Sample

_PATHS = {
    rows.TILE: "/log/tile/0/000",
    rows.CHECKPOINT: "/log/checkpoint",
    rows.CRL: "/pki/people.crl",
}
_FILES = {rows.TILE: rows.TILE_FILE, rows.CHECKPOINT: rows.CHECKPOINT_FILE, rows.CRL: rows.CRL_FILE}


@dataclass(frozen=True, slots=True)
class Echo:
    """Ports of `echo.py`."""

    api: int
    public: int


@contextmanager
def echo(site: Site, directory: Path, recorded: dict[str, Any]) -> Iterator[Echo]:
    """The echo with the site's TLS certificate; its files are what the site publishes now.

    Args:
        site: It must be running, with a full hash tile.
        directory: To make.
        recorded: Answers for one device (`load.py`, sample).
    """
    directory.mkdir()
    answers = directory / "answers.json"
    answers.write_text(json.dumps(recorded), encoding="utf-8")
    files = directory / "files"
    files.mkdir()
    for name, path in _PATHS.items():
        (files / _file(name)).write_bytes(_fetch(site.public, path))
    anchor = directory / "anchor.der"
    anchor.write_bytes(_fetch(site.public, "/pki/infrastructure.cer"))
    api, public = free_ports(2)
    command = [
        *(sys.executable, HERE / "echo.py", "--tls", site.home / "tls", "--anchor", anchor),
        *("--answers", answers, "--files", files, "--api", str(api), "--public", str(public)),
    ]
    log = directory / "log"
    with log.open("wb") as told:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=told, text=True)
    try:
        assert process.stdout is not None  # noqa: S101 - for the type checker
        if process.stdout.readline() != "ready\n":
            raise BenchError(f"the echo did not start: {log.read_text()[-2000:]}")
        yield Echo(api, public)
    finally:
        process.terminate()
        process.wait()


def reads(client: Helper, site: Site, files: Echo) -> dict[str, Callable[[float], Sample]]:
    """Row to its measurement: each resource, and the same bytes as a file."""
    found = {}
    for name, path in _PATHS.items():
        found[name] = _get(client, site.public, path)
        found[_FILES[name]] = _get(client, files.public, f"/{_file(name)}")
    return found


def _file(name: str) -> str:
    return name.replace(" ", "-")


def _get(client: Helper, port: int, path: str) -> Callable[[float], Sample]:
    def run(seconds: float) -> Sample:
        values = {"path": path, "connections": READ_CONNECTIONS, "seconds": seconds}
        result = client.ask("get", port=port, **values)
        rate = result["requests"] / result["seconds"]
        return Sample(rate, requests=rate)

    return run


def _fetch(port: int, path: str) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        if response.status != http.client.OK:
            raise BenchError(f"{path} is answered {response.status}")
        return response.read()
    finally:
        connection.close()
