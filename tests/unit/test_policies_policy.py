"""Reading policies strictly, and what the shipped one says."""

import hashlib
from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.algorithms import Kind, algorithms
from policies.decisions import DEFAULT_RULE, Protection, Question, Use, Verdict, decide
from policies.policy import MAX_RULES, MAX_SOURCE, PolicyError, every_shipped, load, shipped

HEAD = 'name = "p"\nversion = 1\n'
RULE = {
    "id": '"r"',
    "use": '"authority"',
    "algorithms": '["ECDSA-P256"]',
    "protection": '["token"]',
    "reason": '"because"',
}
NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


def rule(**changes: str | None) -> bytes:
    keys = RULE | {"from" if key == "from_" else key: value for key, value in changes.items()}
    lines = [f"{key} = {value}" for key, value in keys.items() if value is not None]
    return (HEAD + "[[rule]]\n" + "\n".join(lines) + "\n").encode()


def test_a_whole_rule():
    source = rule(from_="2026-01-01", deprecated_from="2030-01-01", until="2035-12-31")
    policy = load(source)
    (only,) = policy.rules
    assert (policy.name, policy.version, policy.source) == ("p", 1, source)
    assert policy.hash == hashlib.sha256(source).hexdigest()
    assert (only.id, only.use, only.slot, only.refuses) == ("r", Use.AUTHORITY, None, False)
    assert only.algorithms == {"ECDSA-P256"}
    assert only.protections == {Protection.TOKEN}
    days = (only.starts, only.deprecated_from, only.until)
    assert days == (date(2026, 1, 1), date(2030, 1, 1), date(2035, 12, 31))
    assert only.reason == "because"


def test_the_hash_is_over_exact_bytes():
    assert load(rule()).hash != load(rule() + b"\n").hash


@pytest.mark.parametrize(
    ("requirements", "names"),
    [
        ({"kind": '"kem"', "hybrid": "true"}, {row.name for row in algorithms() if row.components}),
        (
            {"kind": '"kem"', "hybrid": "false", "minimum_quantum_category": "3"},
            {"ML-KEM-768", "ML-KEM-1024"},
        ),
        ({"kind": '"signature"', "minimum_classical_bits": "256"}, {"ECDSA-P521", "ML-DSA-87"}),
        (
            {"kind": '"signature"', "minimum_quantum_category": "1"},
            {"ML-DSA-44", "ML-DSA-65", "ML-DSA-87"},
        ),
        ({"kind": '"hash"'}, {row.name for row in algorithms(Kind.HASH)}),
    ],
)
def test_requirements_instead_of_names(requirements: dict[str, str], names: set[str]):
    (only,) = load(rule(algorithms=None, **requirements)).rules
    assert only.algorithms == names


BAD_RULES = [
    ({"id": None}, "id is missing"),
    ({"id": '""'}, "not made of"),
    ({"id": '"Upper"'}, "not made of"),
    ({"id": '"default"'}, "taken"),
    ({"id": "7"}, "id is missing or not a str"),
    ({"use": None}, "use is missing"),
    ({"use": '"anything"'}, "none of slot, infrastructure, authority, log"),
    ({"use": '"slot"'}, "slot"),
    ({"slot": '"kem"'}, "slot"),
    ({"use": '"slot"', "slot": '"No"'}, "not made of"),
    ({"algorithms": None}, "neither algorithms nor requirements"),
    ({"algorithms": "[]"}, "algorithms"),
    ({"algorithms": '"ECDSA-P256"'}, "algorithms"),
    ({"algorithms": "[1]"}, "algorithms"),
    ({"algorithms": '["ECDSA-P256", "ECDSA-P256"]'}, "different"),
    ({"algorithms": '["ECDSA-P257"]'}, "no algorithm is called 'ECDSA-P257'"),
    ({"algorithms": '["ecdsa-p256"]'}, "no algorithm is called"),
    ({"minimum_classical_bits": "129"}, "does not meet"),
    ({"minimum_quantum_category": "1"}, "does not meet"),
    ({"hybrid": "true"}, "does not meet"),
    ({"kind": '"kem"'}, "does not meet"),
    ({"kind": '"potion"'}, "none of"),
    ({"kind": "1"}, "kind"),
    ({"hybrid": '"yes"'}, "hybrid"),
    ({"minimum_classical_bits": "true"}, "minimum_classical_bits"),
    ({"minimum_classical_bits": "128.0"}, "minimum_classical_bits"),
    ({"algorithms": None, "kind": '"hash"', "hybrid": "true"}, "no algorithm meets"),
    ({"protection": None}, "protection"),
    ({"protection": "[]"}, "protection"),
    ({"protection": '["moon"]'}, "none of token"),
    ({"refuse": "1"}, "refuse"),
    ({"refuse": "true", "until": "2030-01-01"}, "no end"),
    ({"refuse": "true", "deprecated_from": "2030-01-01"}, "no end"),
    ({"until": '"2030-01-01"'}, "not a day"),
    ({"until": "2030-01-01T00:00:00Z"}, "not a day"),
    ({"until": "2030"}, "not a day"),
    ({"from_": "12:00:00"}, "not a day"),
    ({"from_": "2030-01-02", "until": "2030-01-01"}, "order"),
    ({"deprecated_from": "2030-01-02", "until": "2030-01-01"}, "order"),
    ({"from_": "2030-01-02", "deprecated_from": "2030-01-01"}, "order"),
    ({"reason": None}, "reason"),
    ({"reason": '" "'}, "reason"),
    ({"untill": "2030-01-01"}, "unknown keys: untill"),
]


@pytest.mark.parametrize(("changes", "message"), BAD_RULES, ids=lambda value: str(value)[:60])
def test_bad_rules_are_refused_with_their_place(changes: dict[str, str | None], message: str):
    with pytest.raises(PolicyError, match=message) as caught:
        load(rule(**changes))
    if "taken" not in message:
        assert "rule 1" in str(caught.value)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (b"", "rule is missing"),
        (b"\xff", "not TOML"),
        (b"name = ", "not TOML"),
        (b"a = " + b"[" * 5000, "not TOML"),
        (HEAD.encode(), "rule is missing"),
        (HEAD.encode() + b"rule = []", "0 rules"),
        (HEAD.encode() + b"rule = [1]", "rule 1 is not a table"),
        (HEAD.encode() + b"rule = 1", "not a list"),
        (rule().replace(b"version = 1", b"version = 0"), "counts from 1"),
        (rule().replace(b"version = 1", b"version = true"), "version"),
        (rule().replace(b"version = 1", b'version = "1"'), "version"),
        (rule().replace(b'"p"', b'"P P"'), "name"),
        (b"extra = 1\n" + rule(), "unknown keys: extra"),
        (rule() + rule().split(b"\n", 2)[2], "'r' is taken"),
        (rule() + b"#" * MAX_SOURCE, "bytes, more than"),
        (HEAD.encode() + b"[[rule]]\n" * (MAX_RULES + 1), "1001 rules"),
    ],
    ids=range(16),
)
def test_bad_files_are_refused(source: bytes, message: str):
    with pytest.raises(PolicyError, match=message):
        load(source)


def test_the_largest_policy():
    padding = b"#" * (MAX_SOURCE - len(rule()))
    assert load(rule() + padding).rules == load(rule()).rules
    one = rule().split(b"\n", 2)[2]
    many = b"".join(one.replace(b'"r"', b'"r%d"' % i) for i in range(MAX_RULES))
    assert len(load(HEAD.encode() + many).rules) == MAX_RULES


@given(st.binary(max_size=200))
def test_noise_is_refused_and_nothing_else_happens(noise: bytes):
    with pytest.raises(PolicyError):
        load(noise)


def test_what_is_shipped():
    policy = shipped()
    assert [item.name for item in every_shipped()] == ["sovereign-2026", "post-quantum-2026"]
    assert policy.name == "sovereign-2026"
    assert policy == shipped("sovereign-2026") == load(policy.source)
    for name in ("", "nothing", "../data/sovereign-2026", "sovereign-2026.toml", "Sovereign-2026"):
        with pytest.raises(PolicyError, match="shipped"):
            shipped(name)


def answer(
    use: Use,
    name: str,
    *,
    slot: str | None = None,
    protection: Protection = Protection.DEVICE,
    at: datetime = NOW,
    days: float = 90,
    policy: str = "sovereign-2026",
) -> tuple[Verdict, str]:
    question = Question(use, slot, name, protection, at, at + timedelta(days=days))
    decision = decide(shipped(policy), question)
    return decision.verdict, decision.rule


def verdicts(
    use: Use, slot: str | None, protection: Protection, policy: str = "sovereign-2026"
) -> dict[str, Verdict]:
    """Everything that is not refused."""
    answers = {
        row.name: answer(use, row.name, slot=slot, protection=protection, policy=policy)[0]
        for row in algorithms()
    }
    return {name: given for name, given in answers.items() if given is not Verdict.REFUSED}


ALLOWED, DEPRECATED = Verdict.ALLOWED, Verdict.DEPRECATED
ELLIPTIC = {"ECDSA-P256": ALLOWED, "ECDSA-P384": ALLOWED, "Ed25519": ALLOWED}
RSA = {"RSA-3072": DEPRECATED, "RSA-4096": DEPRECATED}
IDENTITY = ELLIPTIC | RSA | {"ML-DSA-65": ALLOWED, "ML-DSA-87": ALLOWED}
KEM = {"MLKEM768-X25519": ALLOWED, "MLKEM1024-P384": ALLOWED}
ML_DSA = {"ML-DSA-65": ALLOWED, "ML-DSA-87": ALLOWED}
AUTHORITY = {"ECDSA-P256": ALLOWED, "ECDSA-P384": ALLOWED} | ML_DSA
EVERYWHERE = frozenset(Protection)
EXPECTED = [
    (Use.SLOT, "identity", {Protection.DEVICE}, IDENTITY),
    (Use.SLOT, "kem", {Protection.DEVICE}, KEM),
    (Use.SLOT, "other", EVERYWHERE, {}),
    (Use.SLOT, None, EVERYWHERE, {}),
    (Use.INFRASTRUCTURE, None, EVERYWHERE, ELLIPTIC | RSA),
    (Use.AUTHORITY, None, {Protection.TOKEN, Protection.TRANSFERABLE}, AUTHORITY),
    (Use.LOG, None, {Protection.TOKEN}, {"Ed25519": ALLOWED, "ML-DSA-44": ALLOWED}),
    (Use.SLOT, "identity-pq-3", EVERYWHERE, {}),
    (Use.SLOT, "kem-pq-3", EVERYWHERE, {}),
]


@pytest.mark.parametrize(("use", "slot", "protections", "expected"), EXPECTED)
def test_the_shipped_policy_allows_exactly_this(
    use: Use, slot: str | None, protections: set[Protection], expected: dict[str, Verdict]
):
    for protection in Protection:
        wanted = expected if protection in protections else {}
        assert verdicts(use, slot, protection) == wanted


DEVICE = frozenset({Protection.DEVICE})
WRAPPED = frozenset({Protection.WRAPPED})
POST_QUANTUM = [
    (Use.SLOT, "identity-pq-3", DEVICE, ML_DSA),
    (Use.SLOT, "kem-pq-3", DEVICE, {"ML-KEM-768": ALLOWED, "ML-KEM-1024": ALLOWED}),
    (Use.SLOT, "identity-pq-5", DEVICE, {"ML-DSA-87": ALLOWED}),
    (Use.SLOT, "kem-pq-5", DEVICE, {"ML-KEM-1024": ALLOWED}),
    (Use.SLOT, "identity", DEVICE, ELLIPTIC | ML_DSA),
    (Use.SLOT, "kem", DEVICE, KEM),
    (Use.AUTHORITY, None, WRAPPED, ML_DSA),
    (Use.LOG, None, WRAPPED, {"ML-DSA-44": ALLOWED}),
    (Use.KEY, "signing", WRAPPED, ML_DSA),
]


@pytest.mark.parametrize(("use", "slot", "protections", "expected"), POST_QUANTUM)
def test_the_post_quantum_policy_allows_exactly_this(
    use: Use, slot: str | None, protections: frozenset[Protection], expected: dict[str, Verdict]
):
    for protection in protections:
        assert verdicts(use, slot, protection, "post-quantum-2026") == expected


@pytest.mark.parametrize("name", ["X25519", "ECDH-P256", "ECDH-P384", "ML-KEM-512", "ML-KEM-768"])
def test_a_kem_key_that_is_no_hybrid_is_told_so(name: str):
    question = Question(Use.SLOT, "kem", name, Protection.DEVICE, NOW, NOW)
    decision = decide(shipped(), question)
    assert (decision.verdict, decision.rule) == (Verdict.REFUSED, "kem-hybrid-demanded")
    assert "a hybrid is demanded" in decision.reason


@pytest.mark.parametrize("name", ["RSA-2048", "ML-DSA-44"])
def test_weak_identities_are_told_so(name: str):
    assert answer(Use.SLOT, name, slot="identity") == (Verdict.REFUSED, "identity-too-weak")


def test_other_refusals_are_the_default():
    for use, slot, name in [
        (Use.SLOT, "kem", "MLKEM768-P256"),
        (Use.SLOT, "identity", "X25519"),
        (Use.INFRASTRUCTURE, None, "RSA-2048"),
        (Use.SLOT, "identity", "SHA-256"),
    ]:
        assert answer(use, name, slot=slot) == (Verdict.REFUSED, DEFAULT_RULE)


@pytest.mark.parametrize(
    ("name", "last"), [("ECDSA-P256", date(2035, 12, 31)), ("RSA-3072", date(2030, 12, 31))]
)
def test_the_end_of_identities(name: str, last: date):
    end = datetime(last.year, last.month, last.day, 23, 59, 59, tzinfo=UTC)
    assert answer(Use.SLOT, name, slot="identity", at=end, days=0)[0] is DEPRECATED
    for at, days in [(end + timedelta(seconds=1), 0.0), (end, 1 / 86400), (NOW, 3700.0)]:
        assert answer(Use.SLOT, name, slot="identity", at=at, days=days)[0] is Verdict.REFUSED


def test_deprecation_of_elliptic_identities():
    begin = datetime(2030, 1, 1, tzinfo=UTC)
    before = answer(Use.SLOT, "Ed25519", slot="identity", at=begin - timedelta(seconds=1))
    assert before == (ALLOWED, "identity-elliptic")
    assert answer(Use.SLOT, "Ed25519", slot="identity", at=begin)[0] is DEPRECATED
