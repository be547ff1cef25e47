"""Encryption of a backup's content: chunks that can be read one after the other, and only so.

STREAM (Hoang, Reyhanitabar, Rogaway, Vizár, "Online authenticated-encryption and its nonce-reuse
misuse-resistance", CRYPTO 2015) as the age format has it (C2SP age, "Payload"), with AES-256-GCM
(SP 800-38D): chunks of 64 KiB, the nonce of each being its number (11 bytes, big-endian) and a byte
that is 1 for the last chunk alone. A chunk that was changed, moved, doubled or left out does not
open, nor does a file that ends early. The key serves one backup, so that no nonce comes twice.
"""

from collections.abc import Iterable, Iterator

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from kms.backup.errors import DamagedBackupError
from kms.backup.files import Source

CHUNK = 64 * 1024
"""Plain bytes of a chunk; only the last one has fewer, and none only where there is nothing."""
TAG = 16


def sealed_size(size: int) -> int:
    """Bytes that so many plain ones become."""
    return size + TAG * max(1, -(-size // CHUNK))


def seal(key: bytes, plain: Iterable[bytes]) -> Iterator[bytes]:
    """Encrypt parts of any size; gives whole chunks, in memory of one."""
    cipher, waiting, number = AESGCM(key), bytearray(), 0
    for part in plain:
        waiting += part
        while len(waiting) > CHUNK:
            yield cipher.encrypt(_nonce(number), bytes(waiting[:CHUNK]), None)
            del waiting[:CHUNK]
            number += 1
    yield cipher.encrypt(_nonce(number, last=True), bytes(waiting), None)


def unseal(key: bytes, file: Source) -> Iterator[bytes]:
    """Undo `seal`, from where the file stands to its end.

    Raises:
        DamagedBackupError: A chunk is not the one that was written there, or the end is missing.
    """
    cipher, number = AESGCM(key), 0
    chunk = file.read(CHUNK + TAG)
    while True:
        following = file.read(CHUNK + TAG)
        try:
            plain = cipher.decrypt(_nonce(number, last=not following), chunk, None)
        except InvalidTag:
            raise DamagedBackupError(_explanation(number, at_end=not following)) from None
        yield plain
        if not following:
            return
        chunk, number = following, number + 1


def _nonce(number: int, *, last: bool = False) -> bytes:
    return number.to_bytes(11, "big") + bytes([last])


def _explanation(number: int, *, at_end: bool) -> str:
    where = f"chunk {number} of the backup does not open"
    if at_end:
        return f"{where}, at the end of the file: it is cut short, or was changed there"
    if number == 0:
        return f"{where}: the file, or the manifest at its beginning, was changed"
    return f"{where}: the file was changed from there on"
