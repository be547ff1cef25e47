"""The public half of a slot: a sender believes the honest document and no other."""

import asyncio
import copy
import json
import tempfile
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kms import wire
from kms.device import DeviceError, Expectations, MalformedAnswerError, UntrustedAnswerError
from kms.device.slots import verify_slot
from kms.wire import b64, unb64
from tests.support import pki
from tests.support.services import world
from tests.support.slots import NAME, Slots

Document = dict[str, Any]
Change = Callable[[Document, Document], None]
"""Changes the document and its first version."""


@cache
def served() -> tuple[Document, Document, Expectations, Any]:
    """A slot with two versions, another slot, whom to believe, and the moment."""

    async def ask(folder: Path) -> tuple[Document, Document, Expectations, Any]:
        async with world(folder) as made:
            slots = Slots(made)
            await slots.create(overlap_days=30)
            await slots.create("another")
            await slots.rotate()
            documents = await slots.document(), await slots.document("another")
            return *documents, slots.expectations(), made.clock.now()

    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(ask(Path(folder)))


def document() -> Document:
    return copy.deepcopy(served()[0])


def verify(found: object, name: str = NAME, expected: Expectations | None = None, days: int = 0):
    _, _, honest, now = served()
    return verify_slot(found, name, expected or honest, now + timedelta(days=days))


def test_the_honest_document_is_believed():
    versions = verify(document())
    assert [item.recipient.version for item in versions] == [2, 1]
    for item, told in zip(versions, document()["versions"], strict=True):
        assert item.recipient.slot_key_id == document()["key_id"]
        assert item.recipient.kem.name == item.algorithm == told["algorithm"]
        assert item.leaf == unb64(told["leaf"])
        assert item.index == told["receipt"]["index"]


def test_nothing_is_sealed_once_nobody_should():
    with pytest.raises(UntrustedAnswerError, match="no version"):
        verify(document(), days=3000)
    with pytest.raises(UntrustedAnswerError, match="no version"):
        verify(document() | {"versions": []})


@pytest.mark.parametrize(
    "change",
    [
        {"tenant": "other"},
        {"origin": "log.test.example/2"},
        {"domain": "id.other.example"},
        {"root": pki.world().root.issuer.certificate},
    ],
)
def test_only_what_was_given_out_of_band_is_trusted(change: dict[str, Any]):
    with pytest.raises(UntrustedAnswerError):
        verify(document(), expected=replace(served()[2], **change))
    with pytest.raises(UntrustedAnswerError):
        verify(document(), name="another")


def set_to(name: str, value: Any) -> Change:
    return lambda _, version: version.update({name: value})


def swapped(name: str) -> Change:
    """A member of the other version, which is as honest in its place."""
    return lambda whole, version: version.update({name: whole["versions"][1][name]})


def foreign(name: str) -> Change:
    """A member of another slot's version."""
    return lambda _, version: version.update({name: served()[1]["versions"][0][name]})


def event(**change: Any) -> Change:
    """The leaf says something else."""

    def apply(_: Document, version: Document) -> None:
        leaf = json.loads(unb64(version["leaf"]))
        version["leaf"] = b64(wire.canonical({**leaf, **change}))

    return apply


LIES: dict[str, Change] = {
    "another key id": lambda whole, _: whole.update({"key_id": "00" * 16}),
    "another version": set_to("version", 3),
    "a version that is true": set_to("version", True),
    "version 0": set_to("version", 0),
    "better protection": set_to("protection", "token-and-more"),
    "other parts": set_to("components", []),
    "another algorithm": set_to("algorithm", "MLKEM1024-P384"),
    "a receipt that is pending": lambda _, version: version["receipt"].update(
        {"status": "pending"}
    ),
    "another index": lambda _, version: version["receipt"].update({"index": 0}),
    "no openings": set_to("openings", []),
    "a chain without root": lambda _, version: version["chain"].pop(),
    "a chain of another root": lambda _, version: version["chain"].__setitem__(
        1, b64(pki.world().root.issuer.certificate)
    ),
    "a leaf certificate as CA": lambda _, version: version["chain"].__setitem__(
        0, version["certificate"]
    ),
    "a leaf of another type": event(type="key.created"),
    "a leaf that is no object": set_to("leaf", b64(b"[]")),
    "a leaf that is no JSON": set_to("leaf", b64(b"{")),
    **{f"the other version's {name}": swapped(name) for name in ("public_key", "certificate")},
    **{
        f"the other version's {name} too": swapped(name) for name in ("leaf", "receipt", "openings")
    },
    **{
        f"another slot's {name}": foreign(name)
        for name in ("public_key", "certificate", "leaf", "receipt", "openings")
    },
}


@pytest.mark.parametrize("lie", LIES)
def test_lies_are_found(lie: str):
    found = document()
    LIES[lie](found, found["versions"][0])
    with pytest.raises(DeviceError):
        verify(found)


def test_another_slots_whole_document_is_another_slots():
    other = copy.deepcopy(served()[1])
    assert verify(other, name="another")
    with pytest.raises(UntrustedAnswerError):
        verify(other | {"key": NAME})


def test_a_certificate_of_another_profile_is_no_slots():
    """The same authority certifies servers; a slot's certificate names slot and version."""
    found = document()
    server = pki.issue("messaging-server", "ECDSA-P256").der
    found["versions"][0].update(certificate=b64(server))
    with pytest.raises(UntrustedAnswerError):
        verify(found)


@pytest.mark.parametrize("name", ["tenant", "key", "key_id", "versions"])
def test_what_is_missing_is_malformed(name: str):
    found = document()
    del found[name]
    with pytest.raises(MalformedAnswerError):
        verify(found)


@pytest.mark.parametrize(
    "name",
    [
        *("version", "algorithm", "protection", "components", "public_key", "certificate"),
        *("chain", "leaf", "openings", "receipt"),
    ],
)
def test_what_a_version_lacks_is_no_version(name: str):
    found = document()
    for value in (None, 7, "%", {}, [{}]):
        found["versions"][0][name] = value
        with pytest.raises(DeviceError):
            verify(found)
    del found["versions"][0][name]
    with pytest.raises(DeviceError):
        verify(found)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists))
def test_anything_else_is_refused(value: Any):
    with pytest.raises(DeviceError):
        verify(value)
