"""`docs/wire-format.md` says what the code does: no name in one is missing in the other."""

import dataclasses
import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from kms import wire
from kms.audit.details import DETAIL
from kms.audit.forms import FORMS
from kms.device import ALGORITHMS

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "wire-format.md").read_text("utf-8")
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def section(number: int) -> str:
    match = re.search(rf"^## {number}\. .*?(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL)
    assert match is not None
    return match[0]


def first_column(text: str) -> set[str]:
    cells = re.findall(r"^\| ((?:`[^`]+`(?:, )?)+)", text, re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}


def test_every_event_type_and_no_other() -> None:
    assert first_column(section(6)) == {kind.value for kind in wire.EventType}


def test_every_profile_and_no_other() -> None:
    assert first_column(section(11)) == set(FORMS)


@pytest.mark.parametrize("kind", DETAIL)
def test_every_member_of_a_detail(kind: wire.EventType) -> None:
    rows = [line.split("|") for line in section(6).splitlines() if line.startswith("|")]
    (row,) = [cells[3] for cells in rows if f"`{kind}`" in cells[1]]
    assert [name for name in DETAIL[kind] if f"`{name}`" not in row] == []


def test_every_member_of_a_transcript() -> None:
    transcript = wire.Transcript(
        *("x",) * 4,
        wire.EnrolmentPurpose.ENROL,
        *("x",) * 4,
        b"",
        NOW,
        (),  # type: ignore[arg-type]
    )
    assert first_column(section(3)) == set(json.loads(transcript.encode()))


def test_every_member_of_a_leaf() -> None:
    leaf = wire.Leaf("x", wire.EventType.LOG_OPENED, NOW, "x", {})
    members: dict[str, Any] = json.loads(leaf.encode())
    assert first_column(section(5)) == set(members)
    row = next(line for line in section(5).splitlines() if line.startswith("| `certificates`"))
    for field in dataclasses.fields(wire.LeafCertificate):
        assert f'"{field.name}"' in row
    assert {f"`{kind}`" for kind in wire.Committed} <= set(re.findall(r"`\w+`", section(5)))


def test_every_algorithm_of_the_client() -> None:
    assert {name for name in ALGORITHMS if f"`{name}`" not in section(2)} == set()


@pytest.mark.parametrize(
    "label",
    [
        "sovereign-kms/enrol/sign/v1",
        "sovereign-kms/enrol/hpke/v1",
        "sovereign-kms/enrol/mac/v1",
        "sovereign-kms/commitment/v1",
    ],
)
def test_every_label(label: str) -> None:
    assert f'"{label}"' in TEXT
    assert label in Path(wire.__file__ or "").read_text("utf-8")


def test_patterns_of_ids() -> None:
    assert f"users `{wire.USER_PATTERN}`" in TEXT
    assert f"devices and tenants `{wire.DEVICE_PATTERN}`" in TEXT
