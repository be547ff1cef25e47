"""Every public vector, whatever it is of, before every parser of foreign bytes.

Certificates, requests, answers, archives, JSON of all kinds: each file, each member of an archive,
each PEM block and each long string in JSON must be taken as what it is or refused as every input.
"""

import base64
import binascii
import gzip
import json
import re
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from tests.support import vectors
from tests.support.fuzz_targets import TARGETS

ROOT = vectors.folder("")
FOLDERS = sorted(path.name for path in ROOT.iterdir() if path.is_dir())
LONGEST = 1 << 16
A_FEW = 3
"""Inputs of a file that the ordinary suite tries; the long one tries all."""

_PEM = re.compile(rb"-----BEGIN [A-Z0-9 ]+-----([A-Za-z0-9+/=\s]+)-----END")
_DIGITS = re.compile(r"[A-Za-z0-9+/\s]{40,}={0,2}")


def inputs(name: str, data: bytes) -> Iterator[bytes]:
    """A file as it is, and what is packed in it."""
    if name.endswith(".gz"):
        yield from inputs(name.removesuffix(".gz"), gzip.decompress(data))
    elif name.endswith(".zip"):
        with zipfile.ZipFile(BytesIO(data)) as archive:
            for member in archive.namelist():
                yield from inputs(member, archive.read(member))
    else:
        yield data[:LONGEST]
        for block in _PEM.finditer(data):
            yield from _base64(block[1])
        if name.endswith(".json"):
            with suppress(ValueError):  # some are malformed on purpose
                for text in _strings(json.loads(data)):
                    yield from _decoded(text)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _strings(item)


def _decoded(text: str) -> Iterator[bytes]:
    if len(text) < 40:
        return
    yield text.encode()[:LONGEST]
    for block in _PEM.finditer(text.encode()):
        yield from _base64(block[1])
    if re.fullmatch(r"(?:[0-9a-fA-F]{2})+", text):
        yield bytes.fromhex(text)
    elif _DIGITS.fullmatch(text):
        yield from _base64(text.encode())


def _base64(text: bytes) -> Iterator[bytes]:
    with suppress(binascii.Error):
        yield base64.b64decode(text + b"==")


def feed(folder: str, most: int | None) -> set[Path]:
    """Try all files of a folder; answers those that were read."""
    read = set()
    for path in sorted((ROOT / folder).rglob("*")):
        if path.is_dir():
            continue
        every = list(inputs(path.name, path.read_bytes()))
        step = 1 if most is None else max(1, len(every) // most)
        for data in every[::step]:
            for target in TARGETS.values():
                target.one(data[:LONGEST])
        read.add(path)
    return read


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_vector_breaks_a_parser(folder: str):
    assert feed(folder, A_FEW)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_no_vector_is_left_out():
    every = {path for path in ROOT.rglob("*") if path.is_file() and path.parent != ROOT}
    read: set[Path] = set()
    for folder in FOLDERS:
        read |= feed(folder, None)
    assert read == every
