"""The file of a backup: sealed to recovery keys, bound to its manifest, whole or refused."""

import io
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kms.backup import format as backup_format
from kms.backup import recovery
from kms.backup.errors import BackupError, DamagedBackupError, ForeignFileError, SharesError
from kms.backup.format import (
    MAGIC,
    FileEntry,
    LogEntry,
    Manifest,
    check_size,
    open_content,
    read_header,
    seal_header,
)
from kms.backup.recovery import NewKey
from kms.backup.shares import Share
from kms.backup.stream import CHUNK, TAG, seal, sealed_size, unseal
from policies.policy import shipped

NOW = datetime(2026, 11, 22, tzinfo=UTC)
CONTENT = bytes(range(256)) * 1000


def manifest(*files: FileEntry) -> Manifest:
    needed = (FileEntry("ledger", len(CONTENT), "00"), FileEntry("home/kms.toml", 0, "00"))
    return Manifest(
        id="00" * 16,
        made="2026-11-22T00:00:00Z",
        name="log.test",
        schema="0001",
        log=LogEntry("log.test/1", 1, bytes(32), "vkey", "note"),
        tokens=(),
        files=files or needed,
        absent=(),
    )


@pytest.fixture(scope="module")
def keys() -> list[NewKey]:
    return [recovery.generate(shipped(), 2, 3, NOW) for _ in range(2)]


@pytest.fixture(scope="module")
def backup(keys: list[NewKey]) -> bytes:
    sealed = seal_header(manifest(), [key.public for key in keys])
    return sealed.header + b"".join(seal(sealed.key, [CONTENT]))


def named(*parts: Share) -> dict[str, Share]:
    return {f"share-{part.number}": part for part in parts}


def opened(data: bytes, shares: dict[str, Share]) -> bytes:
    file = io.BytesIO(data)
    header = read_header(file, "x")
    check_size(header, len(data), "x")
    return b"".join(open_content(header, file, shares))


def test_a_quorum_of_any_recipient_opens(backup: bytes, keys: list[NewKey]) -> None:
    for key in keys:
        assert opened(backup, named(key.shares[0], key.shares[2])) == CONTENT


def test_too_few_none_and_foreign_shares(backup: bytes, keys: list[NewKey]) -> None:
    with pytest.raises(SharesError, match="1 of the 2 shares"):
        opened(backup, named(keys[0].shares[0]))
    with pytest.raises(SharesError, match=f"no share was given.*{keys[0].public.id}"):
        opened(backup, {})
    stranger = recovery.generate(shipped(), 2, 2, NOW)
    with pytest.raises(SharesError, match=f"recovery key {stranger.public.id}; the backup"):
        opened(backup, named(*stranger.shares))
    mixed = {"a": keys[0].shares[0], "b": keys[1].shares[1]}
    with pytest.raises(SharesError, match="b: a share of recovery key"):
        opened(backup, mixed)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_flipped_bit_is_noticed(backup: bytes, keys: list[NewKey], data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(backup) - 1))
    changed = bytearray(backup)
    changed[at] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(BackupError):
        opened(bytes(changed), named(*keys[0].shares[:2]))


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_cut_or_extension_is_noticed_without_a_key(backup: bytes, data: st.DataObject) -> None:
    size = data.draw(st.integers(0, len(backup) - 1))
    tail = data.draw(st.binary(min_size=1, max_size=40))
    for changed in (backup[:size], backup + tail):
        file = io.BytesIO(changed)
        with pytest.raises(BackupError):
            check_size(read_header(file, "x"), len(changed), "x")


def test_a_manifest_of_another_backup_opens_nothing(backup: bytes, keys: list[NewKey]) -> None:
    """All parts are genuine, and yet they do not belong together."""
    other = seal_header(manifest(), [key.public for key in keys])
    header = read_header(io.BytesIO(backup), "x")
    with pytest.raises(DamagedBackupError, match="chunk 0"):
        opened(other.header + backup[header.size :], named(*keys[0].shares[:2]))


def test_the_sealed_key_is_bound_to_the_manifest(backup: bytes, keys: list[NewKey]) -> None:
    said = b'"made":"2026-11-22T00:00:00Z"'
    assert backup.count(said) == 1
    lie = backup.replace(said, b'"made":"2026-11-23T00:00:00Z"')
    with pytest.raises(DamagedBackupError, match="does not open with recovery key"):
        opened(lie, named(*keys[0].shares[:2]))


def test_foreign_files_and_other_versions() -> None:
    for data in (b"", b"SQLite format 3\0", b"sovereign-kms/backup/v1", b"x" * 100_000):
        with pytest.raises(ForeignFileError, match="not a backup"):
            read_header(io.BytesIO(data), "x")
    with pytest.raises(ForeignFileError, match="format version 2; this program reads version 1"):
        read_header(io.BytesIO(b"sovereign-kms/backup/v2\n" + bytes(100)), "x")


@given(st.binary(max_size=400))
def test_read_header_takes_any_bytes_without_another_error(tail: bytes) -> None:
    with pytest.raises(BackupError):
        read_header(io.BytesIO(MAGIC + tail), "x")


@pytest.mark.parametrize(
    "name",
    [
        "../ledger",
        "home/../../etc/passwd",
        "/etc/passwd",
        "home/.ssh",
        "signer/../x",
        "signer/",
        "home//x",
        "home/a\\b",
        "home/a\n",
        "data",
        "home/" + "a/" * 7 + "a",
    ],
)
def test_names_that_lead_elsewhere(name: str, keys: list[NewKey]) -> None:
    entries = [FileEntry(item, 0, "00") for item in ("ledger", "home/kms.toml", name)]
    sealed = seal_header(manifest(*entries), [keys[0].public])
    with pytest.raises(DamagedBackupError, match="no backup has files"):
        read_header(io.BytesIO(sealed.header), "x")


def test_a_backup_for_nobody_or_of_nothing(keys: list[NewKey]) -> None:
    with pytest.raises(DamagedBackupError, match="encrypted to nobody"):
        read_header(io.BytesIO(seal_header(manifest(), []).header), "x")
    sealed = seal_header(manifest(FileEntry("ledger", 0, "00")), [keys[0].public])
    with pytest.raises(DamagedBackupError, match="no settings"):
        read_header(io.BytesIO(sealed.header), "x")


def test_headers_are_bounded(monkeypatch: pytest.MonkeyPatch, keys: list[NewKey]) -> None:
    sealed = seal_header(manifest(), [keys[0].public])
    monkeypatch.setattr(backup_format, "MAX_MANIFEST", 10)
    with pytest.raises(DamagedBackupError, match="more than 10"):
        read_header(io.BytesIO(sealed.header), "x")


class TestStream:
    key = bytes(32)

    @given(st.lists(st.binary(max_size=3 * CHUNK), max_size=4))
    @settings(max_examples=20, deadline=None)
    def test_pieces_of_any_size(self, parts: list[bytes]) -> None:
        chunks = list(seal(self.key, parts))
        whole = b"".join(parts)
        assert sum(map(len, chunks)) == sealed_size(len(whole))
        assert b"".join(unseal(self.key, io.BytesIO(b"".join(chunks)))) == whole

    @pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK])
    def test_edges_of_chunks(self, size: int) -> None:
        sealed = b"".join(seal(self.key, [bytes(size)]))
        assert len(sealed) == sealed_size(size)
        assert b"".join(unseal(self.key, io.BytesIO(sealed))) == bytes(size)

    def refused(self, chunks: list[bytes], match: str) -> None:
        with pytest.raises(DamagedBackupError, match=match):
            list(unseal(self.key, io.BytesIO(b"".join(chunks))))

    def test_order_number_and_end(self) -> None:
        one, two, three = seal(self.key, [bytes(2 * CHUNK + 5)])
        self.refused([two, one, three], "chunk 0")
        self.refused([one, one, three], "chunk 1")
        self.refused([one, three], "chunk 1 .* cut short")
        self.refused([one, two], "chunk 1 .* cut short")
        self.refused([one, two, three, three], "chunk 2")
        self.refused([], "chunk 0")
        self.refused([three], "chunk 0")

    def test_no_nonce_comes_twice(self, monkeypatch: pytest.MonkeyPatch) -> None:
        used: list[bytes] = []

        class Spy:
            def __init__(self, _: bytes) -> None: ...

            def encrypt(self, nonce: bytes, data: bytes, _: None) -> bytes:
                used.append(nonce)
                return data + bytes(TAG)

        monkeypatch.setattr("kms.backup.stream.AESGCM", Spy)
        list(seal(self.key, [bytes(5 * CHUNK)]))
        assert len(used) == 5 == len(set(used))
        assert [nonce[-1] for nonce in used] == [0, 0, 0, 0, 1]
