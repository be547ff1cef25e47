"""May a key sign this TBSCertList? It is read again, strictly, and held against the limits."""

from datetime import datetime, timedelta
from functools import lru_cache

from hsm_drivers.ports import KeyRecord, Purpose
from pki import der, extensions
from pki.crl import REASON_CODES, VERSION_2
from pki.limits import RefusalError, check_authority_key, limits_of

MAX_SKEW = timedelta(hours=1)
"""How far thisUpdate may lie from the signer's clock: lists are signed as soon as they are made."""


def judge_crl(record: KeyRecord, message: bytes, now: datetime) -> str:
    """Number, decimal, of a TBSCertList that the key may sign now.

    Raises:
        RefusalError: It goes beyond the key's limits.
        PkiError: It is not strict DER of a CRL.
    """
    limits = limits_of(record, Purpose.CRL)
    outer = der.Reader(message)
    reader = outer.enter()
    outer.finish()
    if reader.raw() != VERSION_2:
        raise RefusalError("it is not a version 2 CRL")
    if reader.raw_of(der.SEQUENCE) != limits.identifier:
        raise RefusalError("it names another signature algorithm")
    if reader.raw_of(der.SEQUENCE) != limits.issuer:
        raise RefusalError("it names a foreign issuer")
    this_update, next_update = reader.time(), reader.time()
    if abs(this_update - now) > MAX_SKEW:
        raise RefusalError("its update is not of this hour")
    if (
        not timedelta(0)
        < next_update - this_update
        <= timedelta(seconds=limits.source["max_interval"])
    ):
        raise RefusalError("its next update does not follow, or follows too late")
    if reader.peek() == der.SEQUENCE:
        _entries(reader.enter())
    wrapper = reader.enter(0xA0)
    reader.finish()
    found = extensions.read_all(wrapper)
    wrapper.finish()
    if found.keys() != {extensions.AUTHORITY_KEY_IDENTIFIER, extensions.CRL_NUMBER}:
        raise RefusalError("its extensions are not authority key identifier and number")
    if any(extension.critical for extension in found.values()):
        raise RefusalError("an extension of it has the wrong criticality")
    check_authority_key(limits, found)
    number = extensions.read_integer(found[extensions.CRL_NUMBER].value)
    if number <= 0 or number.bit_length() > 159:
        raise RefusalError("its number is not positive or has more than 20 octets")
    return str(number)


def _entries(reader: der.Reader) -> None:
    """Revoked certificates in serial order, each once, at least one."""
    previous = 0
    if reader.done():
        raise RefusalError("its list of entries is empty, which is said by leaving it out")
    while not reader.done():
        entry = reader.enter()
        serial = entry.integer()
        if serial <= previous or serial.bit_length() > 159:
            raise RefusalError("its entries are not in serial order, or a serial is out of bounds")
        previous = serial
        _check_tail(entry.rest())


@lru_cache(maxsize=4096)
def _check_tail(tail: bytes) -> None:
    """Revocation date and, at most, a reason."""
    reader = der.Reader(tail)
    reader.time()
    if reader.done():
        return
    found = extensions.read_all(reader)
    reader.finish()
    reason = found.pop(extensions.CRL_REASON, None)
    if found or reason is None or reason.critical:
        raise RefusalError("an entry has extensions other than its reason")
    value = der.Reader(reason.value)
    code = value.content(der.ENUMERATED)
    value.finish()
    if len(code) != 1 or code[0] == 0 or code[0] not in REASON_CODES.values():
        raise RefusalError("an entry has a reason that is not given here")
