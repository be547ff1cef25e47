"""The estate from an operator's, an archivist's and an auditor's side, in one go.

Two SoftHSM2 tokens and, where it can be had, NSS softoken with its post-quantum mechanisms: load
moves from one token to another under traffic, an archive slot is rotated and a version of it
destroyed, an archived object is opened, and the log tells of all of it.
"""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from kms.device import MessagingServer, seal_envelope, verify_slot
from kms.wire import EventType
from tests.e2e.test_estate import Load, go_away, healthy
from tests.e2e.test_post_quantum_home import HAS_NSS, give_token
from tests.support.running import (
    KMS,
    MESSENGER,
    Home,
    Service,
    reachable_directory,
    running,
    wait_for,
)
from tests.support.second_token import NAME, OFFICERS, add_token, kms, replicate

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
KMS_AUDIT = str(Path(sys.executable).with_name("kms-audit"))
SLOT = "archive"
LETTER = b"minutes of room 7"
PLACE = "pq" if HAS_NSS else "main"


@pytest.fixture
def home(prepared: Home) -> Iterator[Home]:
    """Three tokens (two without NSS), every key on the second one, too; destroys at once."""
    with reachable_directory() as root:
        made = prepared.copy(root / "own")
        made.configure(destruction_days=0)
        add_token(made)
        if HAS_NSS:
            give_token(made)
        assert list(made.settings.estate) == ["", NAME, *(["pq"] if HAS_NSS else [])]
        rows = json.loads(kms(made, "hsm", "list", "--json"))["tokens"]
        assert all(row["usable"] for row in rows)
        replicate(made)
        kms(made, "log", "move", "--to", NAME, *OFFICERS)
        yield made


def archive(home: Home, *arguments: str) -> Any:
    return json.loads(kms(home, "kem", *arguments, "--as", MESSENGER, "--json"))


def sealed(home: Home, where: Path) -> Path:
    """A letter, as a device seals it to the slot's current version after it has verified that."""
    url = f"https://127.0.0.1:{home.port('api')}"
    with MessagingServer(url, *home.client(MESSENGER), home.trust) as server:
        document = server.get(f"/v1/kem-slots/{SLOT}/public")
    current, *_ = verify_slot(document, SLOT, home.expectations(), datetime.now(UTC))
    where.write_bytes(seal_envelope([current.recipient], LETTER, context=b"room 7"))
    return where


def opened(home: Home, letter: Path, out: Path) -> tuple[int, bytes]:
    command = [KMS, "kem", "open", SLOT, str(letter), "--as", MESSENGER, "--context", "room 7"]
    command += ["--out", str(out), "--home", str(home.path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    return done.returncode, out.read_bytes() if out.exists() else done.stderr.encode()


def move_load(home: Home, service: Service) -> None:
    """The first token goes and comes back while devices enrol without a pause."""
    wait_for(lambda: healthy(service, "main") and healthy(service, NAME), 60)
    with Load(home) as load:
        wait_for(lambda: load.done > 3, 60)
        come_back = go_away(home, home.token, "main-1")
        wait_for(lambda: not healthy(service, "main"), 60)
        before = load.done
        wait_for(lambda: load.done > before + 3, 60)
        come_back()
        wait_for(lambda: healthy(service, "main"), 60)
    assert not load.errors


def keep_archive(home: Home, folder: Path) -> None:
    """Made, sealed to, rotated; the old version opens until it is destroyed."""
    (version,) = archive(home, "create", SLOT, "--token", PLACE)["versions"]
    held = {one["protection"] for one in version["components"]}
    assert held == ({"token"} if HAS_NSS else {"token", "wrapped"})
    first = sealed(home, folder / "first.cms")
    archive(home, "rotate", SLOT)
    second = sealed(home, folder / "second.cms")
    assert opened(home, first, folder / "1.txt") == (0, LETTER)
    archive(home, "destroy", SLOT, "--version", "1", "--confirm", SLOT)
    wait_for(lambda: _state(home, 1) == "destroyed", 90, "version 1 is not destroyed")
    status, said = opened(home, first, folder / "gone.txt")
    assert status == 1
    assert b"destroyed" in said or b"state" in said
    assert opened(home, second, folder / "2.txt") == (0, LETTER)


def _state(home: Home, version: int) -> str:
    versions = archive(home, "show", SLOT)["versions"]
    (found,) = [one["state"] for one in versions if one["version"] == version]
    return str(found)


def test_done_when_an_operator_an_archivist_and_an_auditor_say_so(
    home: Home, tmp_path: Path
) -> None:
    record = tmp_path / "record"
    with running(home) as service:
        move_load(home, service)
        keep_archive(home, tmp_path)
        listed = json.loads(
            kms(home, "log", "events", "--as", "alice", "--limit", "5000", "--json")
        )
        kms(home, "log", "export", str(record), "--as", "alice")
        kms(home, "authority", "export", str(record), "--as", "alice")
        assert service.stop() == 0
    kms(home, "log", "export-journal", str(record))
    done = subprocess.run(
        [KMS_AUDIT, "verify", str(record)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout
    found = Counter(event["type"] for event in listed["events"])
    for kind, least in {
        EventType.KEY_REPLICATED: 4,
        EventType.KEY_MOVED: 1,
        EventType.TOKEN_HEALTH: 2,
        EventType.KEY_CREATED: 1,
        EventType.KEY_ACTIVATED: 2,
        EventType.KEY_DEACTIVATED: 1,
        EventType.KEY_DESTRUCTION_SCHEDULED: 1,
        EventType.KEY_DESTROYED: 1,
        EventType.KEY_USED: 2,
    }.items():
        assert found[kind.value] >= least, f"{kind}: {found}"
