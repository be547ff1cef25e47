"""What each `kms kem` command asks for, what it shows, and what it writes."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from kms.cli.kem import MAX_OBJECT, SMALL
from kms.device.sealing import Recipient, seal_envelope
from kms.wire import b64, unb64
from pki.cms import parse_envelope
from pki.keys import key_id
from tests.support import pki
from tests.support.cli import Cli
from tests.support.unsealing import PrivateKem

PRIVATE = PrivateKem.generate("MLKEM768-X25519")
SLOT = "/v1/kem-slots/archive"
VERSION: dict[str, Any] = {
    "version": 1,
    "state": "active",
    "algorithm": "MLKEM768-X25519",
    "components": [
        {"algorithm": "ML-KEM-768", "protection": "wrapped"},
        {"algorithm": "X25519", "protection": "token"},
    ],
    "activates": "2026-03-01T08:00:00Z",
    "originator_end": "2028-02-29T08:00:00Z",
}
ANSWER = {"key": "archive", "slot": "archive", "current": 1, "hold": True, "versions": [VERSION]}


@pytest.fixture
def cli(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(tmp_path, lambda: tuple(capsys.readouterr()))


CHANGES: list[tuple[str, str, dict[str, Any]]] = [
    ("rotate archive --tenant m", "rotate", {"tenant": "m"}),
    ("suspend archive", "suspend", {}),
    ("resume archive --version 2", "resume", {"version": 2}),
    (
        "deactivate archive --version 1 --confirm archive",
        "deactivate",
        {"confirm": "archive", "version": 1},
    ),
    (
        "destroy archive --version 1 --confirm archive",
        "destroy",
        {"confirm": "archive", "version": 1},
    ),
    ("cancel-destruction archive", "cancel-destruction", {}),
    ("hold archive --reason order", "hold", {"reason": "order"}),
    ("release archive --reason over", "release", {"reason": "over"}),
    ("compromise archive --confirm archive", "compromise", {"confirm": "archive"}),
]


@pytest.mark.parametrize(("line", "verb", "body"), CHANGES)
def test_a_step_is_asked_for_once(cli: Cli, line: str, verb: str, body: dict[str, Any]):
    cli.service.on("POST", f"{SLOT}/{verb}", ANSWER)
    done = cli.remote("kem", *line.split(), "--idempotency-key", "once")
    assert done.status == 0
    assert cli.service.bodies() == [body]
    assert "ML-KEM-768: wrapped, X25519: token" in done.out
    assert cli.remote("kem", *line.split(), "--json").json == ANSWER


@pytest.mark.parametrize("verb", ["deactivate", "destroy", "compromise"])
def test_what_has_no_way_back_is_asked_about(cli: Cli, verb: str):
    done = cli.remote("kem", verb, "archive", "--json")
    assert done.status == 2
    assert cli.service.requests == []


def test_a_slot_is_made_with_what_is_given(cli: Cli):
    cli.service.on("POST", "/v1/kem-slots", ANSWER)
    line = "create archive --rotate-every 365 --overlap 30 --retain 1825 --log-uses count"
    cli.remote("kem", *line.split(), "--algorithm", "MLKEM1024-P384", "--tenant", "m")
    assert cli.remote("kem", "create", "transport", "--for", "transport").status == 0
    full, least = cli.service.bodies()
    assert full == {
        "name": "archive",
        "slot": "archive",
        "algorithm": "MLKEM1024-P384",
        "tenant": "m",
        "settings": {
            "rotation_days": 365,
            "overlap_days": 30,
            "retention_days": 1825,
            "log_uses": "count",
        },
    }
    assert least["slot"] == "transport"
    assert "log_uses" not in least["settings"]


def test_slots_are_listed_and_shown(cli: Cli):
    cli.service.on("GET", "/v1/kem-slots", {"keys": [ANSWER], "next": None})
    assert "MLKEM768-X25519" in cli.remote("kem", "list").out
    shown = {
        **ANSWER,
        "key_id": "00" * 16,
        "held": {"event": "e", "since": None, "reason": "court order"},
        "permissions": [{"principal": "matrix-1", "operations": ["decapsulate"]}],
    }
    cli.service.on("GET", SLOT, shown)
    out = cli.remote("kem", "show", "archive").out
    assert "court order" in out
    assert "matrix-1: decapsulate" in out


def test_permissions_are_given_and_taken(cli: Cli):
    cli.service.on("POST", f"{SLOT}/permit", {"operations": ["decapsulate"]})
    cli.remote("kem", "permit", "archive", "matrix-1", "--may", "decapsulate")
    cli.remote("kem", "permit", "archive", "matrix-1")
    assert [body["operations"] for body in cli.service.bodies()] == [["decapsulate"], []]


def test_the_public_half_is_written_for_senders(cli: Cli, tmp_path: Path):
    certificate = pki.issue("kem-slot", "MLKEM768-X25519").der
    public = {
        "key": "archive",
        "versions": [{"version": 3, "certificate": b64(certificate), "public_key": b64(b"spki")}],
    }
    cli.service.on("GET", f"{SLOT}/public", public)
    out = tmp_path / "slot"
    assert cli.remote("kem", "export", "archive", str(out)).status == 0
    assert json.loads((out / "public.json").read_text()) == public
    assert x509.load_pem_x509_certificate((out / "3.pem").read_bytes()).serial_number
    assert (out / "3.spki").read_bytes() == b"spki"


def sealed(path: Path, size: int) -> bytes:
    to = Recipient.of("ab" * 16, 1, PRIVATE.spki, key_id(PRIVATE.public_key))
    plaintext = os.urandom(size)
    path.write_bytes(seal_envelope([to], plaintext, b"room 7"))
    return plaintext


def test_a_small_object_is_opened_by_the_service(cli: Cli, tmp_path: Path):
    source, out = tmp_path / "sealed", tmp_path / "plain"
    sealed(source, 100)
    cli.service.on(
        "POST", f"{SLOT}/open", {"version": 1, "sha256": "ab", "plaintext": b64(b"text")}
    )
    line = ["kem", "open", "archive", str(source), "--out", str(out), "--context", "room 7"]
    done = cli.remote(*line)
    assert done.status == 0
    assert out.read_bytes() == b"text"
    assert out.stat().st_mode & 0o777 == 0o600
    assert cli.service.bodies() == [
        {"ciphertext": b64(source.read_bytes()), "context": b64(b"room 7")}
    ]
    assert cli.remote(*line).status == 2  # the file is there already
    assert "text" not in done.out


def test_of_a_large_object_only_the_head_is_sent(cli: Cli, tmp_path: Path):
    source, out = tmp_path / "sealed", tmp_path / "plain"
    plaintext = sealed(source, SMALL)
    envelope = parse_envelope(source.read_bytes())
    key = PRIVATE.content_key(envelope.recipients[0])
    cli.service.on("POST", f"{SLOT}/unwrap", {"version": 1, "sha256": "", "content_key": b64(key)})
    line = ["kem", "open", "archive", str(source), "--out", str(out), "--context", "room 7"]
    assert cli.remote(*line).status == 0
    assert out.read_bytes() == plaintext
    (body,) = cli.service.bodies()
    assert len(unb64(body["ciphertext"])) < 2000
    assert parse_envelope(unb64(body["ciphertext"])).recipients == envelope.recipients


def test_what_does_not_open_leaves_no_file(cli: Cli, tmp_path: Path):
    source, out = tmp_path / "sealed", tmp_path / "plain"
    sealed(source, SMALL)
    wrong = b64(AESGCM.generate_key(256))
    cli.service.on("POST", f"{SLOT}/unwrap", {"version": 1, "sha256": "", "content_key": wrong})
    for content in (source.read_bytes(), bytes(SMALL + 1), bytes(MAX_OBJECT + 1)):
        source.write_bytes(content)
        assert cli.remote("kem", "open", "archive", str(source), "--out", str(out)).status == 2
    assert cli.remote("kem", "open", "a", str(tmp_path / "no"), "--out", str(out)).status == 2
    cli.service.on("POST", f"{SLOT}/open", {"version": 1, "plaintext": "%"})
    source.write_bytes(b"x")
    assert cli.remote("kem", "open", "archive", str(source), "--out", str(out)).status == 1
    assert not out.exists()
