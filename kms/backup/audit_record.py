"""What an auditor would be given of a ledger, made from it without a service."""

import json
import ssl
from collections.abc import Iterator

from kms.audit.layout import Record
from kms.domain.records import (
    SYSTEM_TENANT,
    Authority,
    Certificate,
    Crl,
    Epoch,
    Event,
    EventOpenings,
    LogId,
)
from kms.services.heads import newest_signed
from kms.services.ports import Ledger
from kms.tlog.tiles import TILE_BITS, TILE_WIDTH, tile_path

_AT_ONCE = 1000
_LISTS_AT_ONCE = 4


def audit_records(ledger: Ledger) -> list[Record]:
    """The record of each epoch, oldest first; certificates and CRLs stand with the last."""
    epochs = sorted(ledger.find(Epoch), key=lambda epoch: epoch.log)
    covered: set[str] = set()
    records = [_epoch_record(ledger, epoch, covered) for epoch in epochs]
    if records:
        last = records[-1]
        last.certificates.update(_certificates(ledger, covered))
        last.crls.update(_crls(ledger, covered))
    return records


def _epoch_record(ledger: Ledger, epoch: Epoch, covered: set[str]) -> Record:
    """An epoch as far as its newest signed head; adds the ids of the events that it covers."""
    signed = newest_signed(ledger, epoch.log)
    size = 0 if signed is None else signed.size
    events: dict[int, bytes] = {}
    openings: dict[str, list[object]] = {}
    for event in _events(ledger, epoch.log, size):
        events[event.index] = event.leaf
        covered.add(event.event)
        found = ledger.get(EventOpenings, event.tenant, event.event)
        if found is not None:
            openings[str(event.index)] = [dict(item) for item in found.openings]
    return Record(
        checkpoint=None if signed is None else signed.note,
        vkey=epoch.vkey,
        events=events,
        tiles=dict(_tiles(ledger, epoch.log, size)),
        openings=json.dumps(openings).encode(),
    )


def _events(ledger: Ledger, log: LogId, size: int) -> Iterator[Event]:
    """Events that the head of that size covers, a page at a time."""
    after = -1
    while after + 1 < size:
        page = ledger.find(
            Event, log=log, order=("log", "index"), after=(log, after), limit=_AT_ONCE
        )
        if not page:
            return
        yield from (event for event in page if event.index < size)
        after = page[-1].index


def _tiles(ledger: Ledger, log: LogId, size: int) -> Iterator[tuple[str, bytes]]:
    """Hash tiles of the tree of that size, the partial ones cut to it."""
    level = 0
    while hashes := size >> (TILE_BITS * level):
        for number in range(-(-hashes // TILE_WIDTH)):
            width = min(TILE_WIDTH, hashes - number * TILE_WIDTH)
            stored = ledger.tile(log, level, number) or b""
            yield tile_path(level, number, width), stored[: width * 32]
        level += 1


def _certificates(ledger: Ledger, covered: set[str]) -> Iterator[tuple[str, bytes]]:
    for item in ledger.find(Certificate):
        if item.der and item.event in covered:
            yield f"certificates/{item.serial}.pem", ssl.DER_cert_to_PEM_cert(item.der).encode()


def _crls(ledger: Ledger, covered: set[str]) -> Iterator[tuple[str, bytes]]:
    """The newest list of each authority."""
    for authority in ledger.find(Authority):
        for item in _lists(ledger, authority.name):
            if item.der and item.event in covered:
                yield f"ca/{authority.name}.crl", item.der
                break


def _lists(ledger: Ledger, authority: str) -> Iterator[Crl]:
    """Lists of an authority, the newest first, a few at a time: each may have megabytes."""
    after: tuple[int, ...] | None = None
    while True:
        page = ledger.find(
            Crl,
            tenant=SYSTEM_TENANT,
            authority=authority,
            shard=0,
            order=("number",),
            descending=True,
            after=after,
            limit=_LISTS_AT_ONCE,
        )
        yield from page
        if len(page) < _LISTS_AT_ONCE:
            return
        after = (page[-1].number,)
