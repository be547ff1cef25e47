"""The signer's directory: private, owned once, whole after every crash."""

import os
from pathlib import Path

import msgspec
import pytest

from hsm_drivers.errors import (
    KeyNotFoundError,
    StatementRefusedError,
    TokenFailureError,
    TokenUnavailableError,
)
from hsm_drivers.journal import Intent
from hsm_drivers.memory import SignedCrl, SignedHead
from hsm_drivers.ports import Head, KeyLabel, KeyRecord, Purpose
from hsm_drivers.software.driver import TOKEN_LIKE
from hsm_drivers.state import SignerState
from policies.decisions import Protection

CA = KeyLabel("ca")
LOG = KeyLabel("log")
SIGNED = SignedHead("example.org/log/1", 3, bytes(range(32)), LOG)
HEAD = SIGNED.head


def record(label: str = "ca") -> KeyRecord:
    return KeyRecord(
        label=KeyLabel(label),
        key_id="00" * 16,
        algorithm="ECDSA-P256",
        purposes=(Purpose.CERTIFICATE, Purpose.CRL),
        constraints={Purpose.CERTIFICATE: {"issuer": "x", "path": [1, None, {"a": True}]}},
        protection=Protection.TOKEN,
        public_key=b"\x30\x00",
        attributes=TOKEN_LIKE,
        token="test",
        created="2026-01-31T23:59:59Z",
    )


def test_what_was_kept_is_there_again(tmp_path: Path) -> None:
    with SignerState(tmp_path / "state") as state:
        state.add(record())
        state.add(record("log"))
        state.remember([SIGNED])
        state.remember_crls([SignedCrl(CA, 11, bytes(32))])
        state.remember_crls([SignedCrl(CA, 12, bytes(32))])
    with SignerState(tmp_path / "state") as state:
        assert state.records() == [record(), record("log")]
        assert state.record(CA) == record()
        assert state.head(HEAD.origin) == HEAD
        assert state.heads() == (HEAD,)
        assert state.head("other") is None
        assert state.crl_numbers() == ((CA, 12),)
        with pytest.raises(KeyNotFoundError, match="'other'"):
            state.record(KeyLabel("other"))


def test_it_has_one_owner_at_a_time(tmp_path: Path) -> None:
    first = SignerState(tmp_path / "state")
    with pytest.raises(TokenUnavailableError, match="another signer owns"):
        SignerState(tmp_path / "state")
    first.close()
    SignerState(tmp_path / "state").close()


def test_others_may_not_look_in(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir(mode=0o755)
    with pytest.raises(TokenFailureError, match="chmod 700"):
        SignerState(tmp_path / "state")


def test_a_file_in_its_place_is_told(tmp_path: Path) -> None:
    (tmp_path / "state").touch()
    with pytest.raises(TokenFailureError, match="cannot be used"):
        SignerState(tmp_path / "state")


@pytest.mark.parametrize("name", ["keys.json", "heads.json"])
def test_a_lost_file_is_noticed(tmp_path: Path, name: str) -> None:
    """An empty memory would let a rolled-back log be signed."""
    with SignerState(tmp_path / "state") as state:
        state.journal.append([Intent(CA, Purpose.CRL, bytes(32), "1")], 0)
    (tmp_path / "state" / name).unlink()
    with pytest.raises(TokenFailureError, match="missing though the journal has 1"):
        SignerState(tmp_path / "state")


def test_heads_of_before_their_keys_were_kept_are_read(tmp_path: Path) -> None:
    """Their logs ended, or not, in the order in which they stand."""
    SignerState(tmp_path / "state").close()
    heads = [
        {"origin": f"example.org/log/{number}", "size": 3, "root": bytes(32)}
        for number in (1, 2, 3)
    ]
    document = {"version": 1, "heads": heads}
    (tmp_path / "state" / "heads.json").write_bytes(msgspec.json.encode(document))
    with SignerState(tmp_path / "state") as state:
        for origin in ("example.org/log/1", "example.org/log/2"):
            with pytest.raises(StatementRefusedError, match="ended"):
                state.draft().advance(LOG, origin, Head(origin, 4, bytes(32)))
        draft = state.draft()
        draft.advance(LOG, "example.org/log/3", Head("example.org/log/3", 4, bytes(32)))
        state.remember(draft.heads.values())
        origins = [head.origin for head in state.heads()]
        assert origins == [f"example.org/log/{number}" for number in (1, 2, 3)]


def test_numbers_are_read_out_of_the_journal_where_their_file_is_missing(tmp_path: Path) -> None:
    """Directories from before the file have none, and a lost one loses nothing."""
    digests = [bytes([number]) * 32 for number in range(6)]
    other = KeyLabel("other")
    with SignerState(tmp_path / "state") as state:
        state.journal.append(
            [
                Intent(CA, Purpose.CRL, digests[0], "8"),
                Intent(CA, Purpose.CRL, digests[1], "9"),
                Intent(CA, Purpose.CRL, digests[2], "1"),
                Intent(CA, Purpose.CRL, digests[3], str(1 << 158)),
                Intent(CA, Purpose.CERTIFICATE, digests[4], "99"),
                Intent(LOG, Purpose.CHECKPOINT, digests[4], "77"),
                Intent(other, Purpose.CRL, digests[5], "3"),
            ],
            0,
        )
    (tmp_path / "state" / "crls.json").unlink()
    for _ in range(2):
        with SignerState(tmp_path / "state") as state:
            assert state.crl_numbers() == ((CA, 9), (other, 3))
            state.draft().number(CA, "9", digests[1])


@pytest.mark.parametrize("name", ["keys.json", "heads.json", "crls.json"])
@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"version": 2, "keys": [], "heads": [], "crls": []}']
)
def test_a_damaged_file_stops(tmp_path: Path, name: str, content: bytes) -> None:
    SignerState(tmp_path / "state").close()
    (tmp_path / "state" / name).write_bytes(content)
    with pytest.raises(TokenFailureError, match="cannot be read"):
        SignerState(tmp_path / "state")
    assert (tmp_path / "state" / name).read_bytes() == content


@pytest.mark.parametrize("step", ["fsync", "rename"])
def test_a_write_that_fails_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with SignerState(tmp_path / "state") as state:
        state.remember([SIGNED])
        with monkeypatch.context() as patched:
            patched.setattr(os if step == "fsync" else Path, step, fail)
            with pytest.raises(TokenUnavailableError, match="No space"):
                state.remember([SignedHead(HEAD.origin, 4, bytes(32), LOG)])
            with pytest.raises(TokenUnavailableError, match="No space"):
                state.remember_crls([SignedCrl(CA, 1, bytes(32))])
            with pytest.raises(TokenUnavailableError, match="No space"):
                state.add(record())
        assert state.heads() == (HEAD,)
        assert state.records() == []
        assert state.crl_numbers() == ()
    with SignerState(tmp_path / "state") as state:
        assert state.heads() == (HEAD,)
        assert state.records() == []
