"""CRLs: complete, in order, read by others as they were meant."""

import time
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st

from hsm_drivers.ports import Purpose
from pki import der
from pki.crl import REASON_CODES, CrlFactory, RevokedEntry
from pki.errors import LintError, PkiError
from tests.support import pki

ENTRIES = st.lists(
    st.builds(
        RevokedEntry,
        st.integers(1, (1 << 159) - 1),
        st.integers(0, 10**8).map(lambda seconds: pki.NOW - timedelta(seconds=seconds)),
        st.sampled_from(sorted(REASON_CODES)),
    ),
    max_size=20,
    unique_by=lambda entry: entry.serial,
)
WEEK = timedelta(days=7)


def factory() -> CrlFactory:
    return CrlFactory(pki.world().people.issuer)


def finished(*args: Any) -> x509.CertificateRevocationList:
    return x509.load_der_x509_crl(pki.world().people.finish_crl(factory().prepare(*args)))


@settings(deadline=None)
@given(number=st.integers(1, (1 << 159) - 1), entries=ENTRIES)
def test_a_foreign_parser_reads_what_was_revoked(number: int, entries: list[RevokedEntry]):
    crl = finished(number, pki.NOW, pki.NOW + WEEK, entries)
    ca = x509.load_der_x509_certificate(pki.world().people.issuer.certificate)
    assert crl.is_signature_valid(ca.public_key())  # type: ignore[arg-type]  # an EC key
    assert crl.issuer == ca.subject
    assert (crl.last_update_utc, crl.next_update_utc) == (pki.NOW, pki.NOW + WEEK)
    assert crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number == number
    aki = crl.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    assert aki.key_identifier == pki.world().people.issuer.key_id
    assert len(crl) == len(entries)
    for entry in entries:
        found = crl.get_revoked_certificate_by_serial_number(entry.serial)
        assert found is not None
        assert found.revocation_date_utc == entry.revoked_at
        if entry.reason == "unspecified":
            assert len(found.extensions) == 0
        else:
            reason = found.extensions.get_extension_for_class(x509.CRLReason).value.reason
            names = {"ca-compromise": "cACompromise", "key-compromise": "keyCompromise"}
            first, *rest = entry.reason.split("-")
            camel = first + "".join(word.capitalize() for word in rest)
            assert reason.value == names.get(entry.reason, camel)


@settings(deadline=None)
@given(ENTRIES, st.randoms())
def test_the_order_of_the_entries_does_not_matter(entries: list[RevokedEntry], random: Any):
    shuffled = list(entries)
    random.shuffle(shuffled)
    first = factory().prepare(1, pki.NOW, pki.NOW + WEEK, entries)
    second = factory().prepare(1, pki.NOW, pki.NOW + WEEK, shuffled)
    assert first.statement == second.statement
    assert first.statement.purpose is Purpose.CRL
    der.parse(first.statement.message)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"number": 0}, "number"),
        ({"number": 1 << 159}, "number"),
        ({"next_update": pki.NOW}, "next_update"),
        ({"next_update": pki.NOW + WEEK + timedelta(seconds=1)}, "next_update"),
        ({"next_update": pki.NOW.replace(tzinfo=None)}, "this_update"),
        ({"this_update": pki.NOW.replace(microsecond=5)}, "this_update"),
        ({"entries": [RevokedEntry(0, pki.NOW, "superseded")]}, "serial"),
        ({"entries": [RevokedEntry(1 << 159, pki.NOW, "superseded")]}, "serial"),
        ({"entries": [RevokedEntry(7, pki.NOW, "superseded")] * 2}, "serial"),
        ({"entries": [RevokedEntry(7, pki.NOW, "certificate-hold")]}, "reason"),
    ],
)
def test_what_would_be_no_full_crl_is_not_prepared(changes: dict[str, Any], field: str):
    values: dict[str, Any] = {
        "number": 1,
        "this_update": pki.NOW,
        "next_update": pki.NOW + WEEK,
        "entries": [],
    }
    with pytest.raises(LintError) as caught:
        factory().prepare(**(values | changes))
    assert caught.value.field == field


def test_a_prepared_crl_is_good_once():
    people = pki.world().people
    prepared = factory().prepare(1, pki.NOW, pki.NOW + WEEK, [])
    people.finish_crl(prepared)
    with pytest.raises(PkiError, match="already"):
        people.finish_crl(prepared)


def test_the_time_for_a_list_grows_no_faster_than_its_entries():
    entries = [
        RevokedEntry((1 << 126) + 7919 * number, pki.NOW - timedelta(seconds=number), "superseded")
        for number in range(100_000)
    ]
    start = time.process_time()
    factory().prepare(1, pki.NOW, pki.NOW + WEEK, entries[:10_000])
    tenth = time.process_time() - start
    prepared = factory().prepare(1, pki.NOW, pki.NOW + WEEK, entries)
    assert time.process_time() - start < 50 * tenth
    assert len(x509.load_der_x509_crl(pki.world().people.finish_crl(prepared))) == 100_000


def test_the_root_may_promise_longer():
    root = CrlFactory(pki.world().root.issuer)
    root.prepare(1, pki.NOW, pki.NOW + timedelta(days=180), [])
    with pytest.raises(LintError):
        root.prepare(1, pki.NOW, pki.NOW + timedelta(days=181), [])
