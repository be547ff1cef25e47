"""Plans: what officers may ask a ceremony for, and that nothing else passes."""

from datetime import timedelta

import pytest

from kms.services.ceremony_plan import (
    CosignerPlan,
    PlanError,
    load_further,
    load_plan,
    plan_cosigner,
)
from policies.decisions import Protection

PQ = b"[authorities.people-pq-3]\n"


def test_the_default_plan_has_three_authorities_on_the_services_own_token():
    plan = load_plan(None, "log.example")
    assert [item.name for item in plan.authorities] == ["root", "people", "infrastructure"]
    assert {(item.token, item.protection) for item in plan.authorities} == {("", Protection.TOKEN)}
    assert plan.cosigner is None


def test_a_first_ceremony_may_make_everything():
    plan = load_plan(
        b'organization = "State"\n[people]\nyears = 5\n[cosigner]\nprotection = "wrapped"\n'
        b'[authorities.people-pq-5]\ntoken = "pq"\nyears = 7\n'
        b'[authorities.people-pq-3]\nprotection = "wrapped"\ncommon_name = "Three"\n',
        "log.example",
    )
    names = [item.name for item in plan.authorities]
    assert names == ["root", "people", "infrastructure", "people-pq-5", "people-pq-3"]
    five, three = plan.authorities[3:]
    assert (five.algorithm, five.token, five.protection) == ("ML-DSA-87", "pq", Protection.TOKEN)
    assert (five.label, five.validity) == ("people-pq-5-1", timedelta(days=7 * 365))
    assert five.subject.common_name == "people-pq-5 CA"
    assert (three.algorithm, three.token, three.protection) == ("ML-DSA-65", "", Protection.WRAPPED)
    assert (three.subject.common_name, three.subject.organization) == ("Three", "State")
    assert plan.cosigner == CosignerPlan("", Protection.WRAPPED)


def test_the_hash_of_a_plan_tells_where_keys_are_held():
    sources = [PQ, PQ + b'token = "pq"\n', PQ + b'protection = "wrapped"\n', PQ + b"[cosigner]\n"]
    assert len({load_plan(source, "log.example").sha256 for source in sources}) == len(sources)


def test_further_authorities_share_the_roots_organisation():
    (item,) = load_further(PQ, "State")
    assert (item.name, item.subject.organization) == ("people-pq-3", "State")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (b"", "names no authority"),
        (b"[root]\n", "unknown keys"),
        (b"[cosigner]\n" + PQ, "unknown keys"),
        (b"[authorities.people]\n", "no profile knows people"),
        (b"[authorities.shadow]\n", "there are people-pq-3, people-pq-5"),
        (b"authorities = 1\n", "are tables"),
        (b"authorities = {people-pq-3 = 1}\n", "takes algorithm"),
        (PQ + b"label = 'x'\n", "nothing else"),
        (PQ + b'algorithm = "ECDSA-P256"\n', "category 3 or above, which ECDSA-P256"),
        (b'[authorities.people-pq-5]\nalgorithm = "ML-DSA-65"\n', "category 5"),
        (PQ + b'algorithm = "ML-KEM-768"\n', "must sign"),
        (PQ + b"years = 21\n", "whole number"),
        (PQ + b"years = true\n", "whole number"),
        (PQ + b'token = ""\n', "must be the name of a token"),
        (PQ + b'token = "Big"\n', "must be the name of a token"),
        (PQ + b"token = 1\n", "must be the name of a token"),
        (PQ + b'protection = "software"\n', "must be one of"),
        (PQ + b'protection = "lost"\n', "transferable"),
        (PQ + b"protection = []\n", "must be one of"),
        (b"\xff", "not TOML"),
    ],
)
def test_bad_plans_are_refused(source: bytes, message: str):
    with pytest.raises(PlanError, match=message):
        load_further(source, "State")


def test_an_algorithm_that_nobody_knows_is_left_to_the_policy():
    (item,) = load_further(PQ + b'algorithm = "ROT-13"\n', "State")
    assert item.algorithm == "ROT-13"


@pytest.mark.parametrize("given", [1, {"years": 1}, {"token": "A"}, {"protection": "device"}])
def test_bad_cosigners_are_refused(given: object):
    with pytest.raises(PlanError, match="cosigner"):
        plan_cosigner(given)
