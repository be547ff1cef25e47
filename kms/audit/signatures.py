"""What was signed against what was logged: the signer's journal and the log, entry by entry. Pure.

A worker that was taken over can have statements signed and keep them out of the log. The signer
wrote each down before it released it, so here they are found: by serial, key and time. What a crash
lost is told apart: the log names it as an orphan.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from kms import wire
from kms.audit.certificates import Inventory
from kms.audit.epochs import Epoch
from kms.audit.findings import Check, event
from kms.audit.forms import X509_ERRORS
from kms.audit.history import CertificateKey, History
from kms.audit.journal import CERTIFICATE, CHECKPOINT, COSIGNATURE, CRL, Entry, Journal
from kms.tlog.checkpoint import Checkpoint
from kms.tlog.notes import ml_dsa_cosigned
from kms.wire import EventType

_YOUNG = timedelta(minutes=5)
"""An event so close to the seal, or after it, may be of what was signed after the seal."""
_UNLOGGED = (
    "is in no event. Somebody had it signed and kept it out of the log; or a crash lost it a moment"
    " ago, then the service logs it as an orphan: take the record again"
)


def check_signatures(
    journal: Journal,
    epochs: Sequence[Epoch],
    history: History,
    inventory: Inventory,
    crls: Mapping[str, bytes],
) -> Check:
    """Everything that was signed is in the log, and everything in the log was signed.

    Args:
        journal: The copy.
        epochs: All epochs of the log, oldest first.
        history: The replayed log.
        inventory: Matched certificates.
        crls: Path to content of the lists in the directory.
    """
    run = _Reconciliation(journal, epochs, history, inventory, crls)
    for entry in journal.entries:
        run.entry(entry)
    run.finish()
    return run.check


class _Reconciliation:
    """One pass over the journal."""

    def __init__(
        self,
        journal: Journal,
        epochs: Sequence[Epoch],
        history: History,
        inventory: Inventory,
        crls: Mapping[str, bytes],
    ) -> None:
        self.check = Check("signatures", "everything that was signed is in the log")
        self._journal = journal
        self._epochs = epochs
        self._history = history
        self._inventory = inventory
        self._crls = crls
        self._authorities = _labels(epochs, history, inventory)
        self._orphan_lists = _orphan_lists(epochs)
        self._certificates: dict[CertificateKey, bytes] = {}
        self._lists: dict[tuple[str, int], bytes] = {}
        self._orphans: set[str] = set()
        self._unseen = self._lost = 0
        self._kinds: dict[str, Callable[[Entry], None]] = {
            CERTIFICATE: self._certificate,
            CRL: self._list,
            CHECKPOINT: self._head,
            COSIGNATURE: self._cosignature,
        }

    def entry(self, entry: Entry) -> None:
        """One statement."""
        self.check.examined += 1
        kind = self._kinds.get(entry.purpose)
        if kind is None:
            self.check.fail(entry.where, f"{entry.purpose!r} is no kind of statement")
        else:
            kind(entry)

    def _certificate(self, entry: Entry) -> None:
        authority = self._authority(entry)
        if authority is None:
            return
        key = authority, entry.reference
        if self._certificates.setdefault(key, entry.sha256) != entry.sha256:
            self._fail(entry, f"certificate {entry.reference}", "is the second of its serial")
            return
        revoked = self._history.revoked.get(key)
        if key in self._history.issued:
            self._compare_certificate(entry, key)
        elif revoked is not None and revoked.orphan:
            self._compare_orphan(entry, revoked.index)
        else:
            self._fail(entry, f"certificate {entry.reference}", _UNLOGGED)

    def _compare_certificate(self, entry: Entry, key: CertificateKey) -> None:
        held = self._inventory.by_key.get(key)
        if held is None:
            self._unseen += 1
        elif hashlib.sha256(held.certificate.tbs_certificate_bytes).digest() != entry.sha256:
            said = f"is not the one of event {held.issued.index}, {held.path}"
            self._fail(entry, f"certificate {entry.reference}", said)

    def _compare_orphan(self, entry: Entry, index: int) -> None:
        self._orphans.add(entry.reference)
        said = _detail(self._event(index)).get("tbs_sha256")
        if said not in (None, entry.sha256.hex()):
            self._fail(entry, f"certificate {entry.reference}", f"is not the orphan of {index}")

    def _list(self, entry: Entry) -> None:
        authority = self._authority(entry)
        if authority is None:
            return
        what = f"CRL {entry.reference} of {authority!r}"
        number = _decimal(entry.reference)
        if number is None:
            self._fail(entry, what, "has no number")
            return
        if self._lists.setdefault((authority, number), entry.sha256) != entry.sha256:
            self._fail(entry, what, "is the second of its number")
            return
        issued = [item for item in self._history.lists.get(authority, []) if item.number == number]
        if issued:
            if issued[-1] is self._history.lists[authority][-1]:
                self._compare_list(entry, what, f"ca/{authority}.crl")
        elif (authority, number) in self._orphan_lists:
            self._orphans.add(what)
        else:
            self._fail(entry, what, _UNLOGGED)

    def _compare_list(self, entry: Entry, what: str, path: str) -> None:
        try:
            content = x509.load_der_x509_crl(self._crls.get(path, b"")).tbs_certlist_bytes
        except X509_ERRORS:
            return  # the check of lists says so
        if hashlib.sha256(content).digest() != entry.sha256:
            self._fail(entry, what, f"is not the one in {path}")

    def _head(self, entry: Entry) -> None:
        """A head that was signed is that of the log as it stood then, byte for byte."""
        size = _decimal(entry.reference)
        self._match_head(entry, size, f"a head of {entry.reference} leaves", Checkpoint.body)

    def _cosignature(self, entry: Entry) -> None:
        """As `_head`; the log's own cosigner goes by the log's name."""
        size, time = map(_decimal, entry.reference.partition("@")[::2])

        def cosigned(head: Checkpoint) -> bytes:
            return ml_dsa_cosigned(head, time or 0, head.origin)

        self._match_head(entry, size, f"a cosignature of {entry.reference} leaves", cosigned)

    def _match_head(
        self,
        entry: Entry,
        size: int | None,
        what: str,
        message_of: Callable[[Checkpoint], bytes],
    ) -> None:
        known = (_head_of(epoch, size) for epoch in self._epochs) if size is not None else ()
        if any(head and _sha256(message_of(head)) == entry.sha256 for head in known):
            return
        if size is not None and self._was_lost(size):
            self._lost += 1
        elif size is not None and size > self._epochs[-1].tree.size:
            had = self._epochs[-1].tree.size
            said = f"covers more than the {had} leaves of this record: take it after the journal"
            self._fail(entry, what, said)
        else:
            self._fail(entry, what, "is not of this log: somebody was shown another history")

    def _was_lost(self, size: int) -> bool:
        """Whether an epoch before the last ended with events that nobody has any more."""
        for epoch, following in zip(self._epochs, self._epochs[1:], strict=False):
            named = _detail(following.first).get("previous", {})
            last = named.get("size") if isinstance(named, dict) else None
            if isinstance(last, int) and epoch.tree.size < size <= last:
                return True
        return False

    def _authority(self, entry: Entry) -> str | None:
        name = self._authorities.get(entry.key)
        if name is None:
            self._fail(entry, f"a {entry.purpose}", "is by a key of no authority in this record")
        return name

    def finish(self) -> None:
        """The other way round, and what is to be told beside failures."""
        for key, issued in self._history.issued.items():
            if key not in self._certificates and not self._is_young(issued.leaf):
                self._unsigned(issued.index, f"certificate {key[1]} of {key[0]!r}")
        for authority, lists in self._history.lists.items():
            for item in lists:
                leaf = self._event(item.index)
                missing = (authority, item.number) not in self._lists
                if missing and leaf is not None and not self._is_young(leaf):
                    self._unsigned(item.index, f"CRL {item.number} of {authority!r}")
        self._tell()

    def _tell(self) -> None:
        if self._orphans:
            these = ", ".join(sorted(self._orphans))
            self.check.notes.append(f"signed, lost in a crash and logged as orphans: {these}")
        if self._unseen:
            self.check.notes.append(
                f"{self._unseen} certificates were compared by serial alone: they are not in the"
                " directory"
            )
        if self._lost:
            self.check.notes.append(f"{self._lost} heads cover events that an epoch lost")

    def _unsigned(self, index: int, what: str) -> None:
        self.check.fail(
            event(index),
            f"{what} is not in the journal: the signer's state is not the one that signed it, or"
            " another holds the key",
        )

    def _is_young(self, leaf: wire.Leaf) -> bool:
        seal = self._journal.seal
        return seal is None or leaf.time > seal.time - _YOUNG

    def _event(self, index: int) -> wire.Leaf | None:
        found = (epoch.events.get(index) for epoch in self._epochs)
        return next((leaf for leaf in found if leaf is not None), None)

    def _fail(self, entry: Entry, what: str, said: str) -> None:
        self.check.fail(entry.where, f"{what}, signed by {entry.key} {entry.when}, {said}")


def _labels(epochs: Sequence[Epoch], history: History, inventory: Inventory) -> dict[str, str]:
    """Label of each authority's key to the authority: by the key in its certificate."""
    names: dict[str, str] = {}
    for name in history.authorities:
        for certificate in inventory.authorities(history, name):
            names[_spki_sha256(certificate)] = name
    births = (
        _detail(leaf)
        for epoch in epochs
        for leaf in epoch.events.values()
        if leaf.type is EventType.KEY_GENERATED
    )
    return {
        birth["label"]: names[birth["public_key_sha256"]]
        for birth in births
        if birth["public_key_sha256"] in names
    }


def _spki_sha256(certificate: x509.Certificate) -> str:
    try:
        key = certificate.public_key()
        spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except X509_ERRORS:
        return ""  # the check of chains says so
    return hashlib.sha256(spki).hexdigest()


def _orphan_lists(epochs: Sequence[Epoch]) -> set[tuple[str, int]]:
    return {
        (_detail(leaf)["authority"], _detail(leaf)["number"])
        for epoch in epochs
        for leaf in epoch.events.values()
        if leaf.type is EventType.CRL_ORPHANED
    }


def _head_of(epoch: Epoch, size: int) -> Checkpoint | None:
    """The head of the epoch when it had so many leaves."""
    if epoch.key is None or size > epoch.tree.size:
        return None
    return Checkpoint(epoch.key.name, size, epoch.tree.root_at(size))


def _sha256(message: bytes) -> bytes:
    return hashlib.sha256(message).digest()


def _decimal(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 18 else None


def _detail(leaf: wire.Leaf | None) -> Mapping[str, Any]:
    return (leaf.detail if leaf is not None else None) or {}
