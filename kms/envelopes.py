"""What stands before and around things sealed to a KEM slot; shared by those who seal and open.

Pure: values in, bytes out. `docs/wire-format.md` describes both forms, the HPKE message and the CMS
envelope, of which this holds what binds them to a slot, a version and a context.
"""

import hashlib
import re

from kms.wire import WireError

SLOT_FORM = 0x03
"""First byte of a message to a KEM slot; 1 and 2 are what `/v1/keys` encrypts and wraps."""
SLOT_HEADER_SIZE = 21
_SLOT_HPKE_LABEL = b"sovereign-kms/kem-slot/hpke/v1\x00"
_SLOT_CMS_LABEL = b"sovereign-kms/kem-slot/cms/v1\x00"


def slot_header(key_id: str, version: int) -> bytes:
    """Which version of which KEM slot something is sealed to: form ‖ key id (16) ‖ version (4).

    Args:
        key_id: Of the slot, 32 hexadecimal digits.
        version: From 1.

    Raises:
        WireError: A key id or version that no slot has.
    """
    if re.fullmatch(r"[0-9a-f]{32}", key_id) is None or not 1 <= version < 1 << 32:
        raise WireError(f"no slot has the key id {key_id[:40]!r} and version {version}")
    return bytes((SLOT_FORM,)) + bytes.fromhex(key_id) + version.to_bytes(4, "big")


def parse_slot_header(data: bytes) -> tuple[str, int]:
    """Key id and version from the beginning of a sealed message; undoes `slot_header`.

    Raises:
        WireError: It begins otherwise.
    """
    header = data[:SLOT_HEADER_SIZE]
    version = int.from_bytes(header[17:], "big")
    if len(header) != SLOT_HEADER_SIZE or header[0] != SLOT_FORM or not version:
        raise WireError("not something sealed to a KEM slot: it does not begin with such a header")
    return header[1:17].hex(), version


def slot_hpke_info(header: bytes, context: bytes) -> bytes:
    """The HPKE `info` of a message sealed to a slot.

    Args:
        header: Of `slot_header`.
        context: What the message belongs to; whoever opens it must name the same.
    """
    return _SLOT_HPKE_LABEL + header + hashlib.sha256(context).digest()


def slot_keying_material(header: bytes, context: bytes) -> bytes:
    """The `ukm` of an envelope's recipient (RFC 9629 3).

    It enters the key that wraps the content key, so that an envelope that was given to another
    slot, version or context does not open.
    """
    return _SLOT_CMS_LABEL + header + hashlib.sha256(context).digest()


def parse_slot_keying_material(ukm: bytes) -> tuple[bytes, bytes] | None:
    """Header and hash of the context; None for what another sender put there.

    Raises:
        WireError: It has our label and not our form.
    """
    if not ukm.startswith(_SLOT_CMS_LABEL):
        return None
    content = ukm.removeprefix(_SLOT_CMS_LABEL)
    if len(content) != SLOT_HEADER_SIZE + hashlib.sha256().digest_size:
        raise WireError("the keying material of the recipient is cut short or goes on too long")
    parse_slot_header(content)
    return content[:SLOT_HEADER_SIZE], content[SLOT_HEADER_SIZE:]
