"""Policy decisions, decided once more: same policy, same question, same rule (promise P4). Pure."""

from collections.abc import Mapping
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from kms import wire
from kms.audit.certificates import Held, Inventory
from kms.audit.findings import Check, event
from kms.audit.forms import X509_ERRORS
from kms.audit.history import History
from kms.audit.key_lives import rules_of
from policies.algorithms import Algorithm, Kind, of_key
from policies.decisions import Protection, Question, Use, decide
from policies.policy import Policy

_USES = {
    wire.EventType.DEVICE_ENROLLED: Use.SLOT,
    wire.EventType.DEVICE_RENEWED: Use.SLOT,
    wire.EventType.CERTIFICATE_ISSUED: Use.INFRASTRUCTURE,
}


def check_decisions(
    events: Mapping[int, wire.Leaf],
    history: History,
    inventory: Inventory,
    policies: Mapping[str, Policy],
) -> Check:
    """Every issuing event names the policy in force, and that policy decides as the event says.

    Args:
        events: Index to leaf.
        history: The replayed log.
        inventory: Matched certificates.
        policies: Policies at hand, by hash; others cannot be decided again.
    """
    check = Check("decisions", "every issuing event follows the policy in force")
    unknown: set[str] = set()
    created: dict[str, Mapping[str, Any]] = {}
    for index, leaf in events.items():
        detail = leaf.detail or {}
        if leaf.type is wire.EventType.KEY_CREATED:
            created[detail["key"]] = detail
        of_key = leaf.type is wire.EventType.KEY_GENERATED and detail.get("key") in created
        if leaf.type not in _USES and not of_key:
            continue
        check.examined += 1
        if leaf.policy is None:
            check.fail(event(index), "issues without a policy decision")
            continue
        digest = leaf.policy["hash"]
        if digest != history.policy_at(index):
            check.fail(event(index), f"policy {digest} was not in force")
        if not of_key:
            _check_rules(check, index, leaf)
        if digest not in policies:
            unknown.add(digest)
        elif of_key:
            _decide_key_again(check, index, leaf, created[detail["key"]], policies[digest])
        else:
            _decide_again(check, index, leaf, inventory, policies[digest])
    for digest in sorted(unknown):
        check.notes.append(
            f"policy {digest} is not at hand (--policy); its decisions stand as told"
        )
    return check


def _subject(certificate: wire.LeafCertificate) -> str:
    """What a rule is given for: the slot, or outside bundles the profile."""
    return certificate.slot or certificate.profile


def _check_rules(check: Check, index: int, leaf: wire.Leaf) -> None:
    rules = (leaf.policy or {})["rules"]
    needed = {_subject(certificate) for certificate in leaf.certificates}
    if set(rules) != needed:
        check.fail(event(index), f"has rules for {sorted(rules)}, but issues {sorted(needed)}")


def _decide_key_again(
    check: Check, index: int, leaf: wire.Leaf, created: Mapping[str, Any], policy: Policy
) -> None:
    told = (leaf.policy or {})["rules"]
    for name, rules in rules_of(leaf, created, policy).items():
        message = f"{name}: rule {told.get(name)!r} is not what the policy says of such a key"
        check.expect(told.get(name) in rules, event(index), message)


def _decide_again(
    check: Check, index: int, leaf: wire.Leaf, inventory: Inventory, policy: Policy
) -> None:
    rules = (leaf.policy or {})["rules"]
    for logged in leaf.certificates:
        held = inventory.by_key.get((logged.authority, logged.serial))
        if held is None or _subject(logged) not in rules:
            continue
        found = algorithm_of(held.certificate)
        if found is None:
            check.fail(held.path, "its key is of no known algorithm")
            continue
        answers = _answers(policy, held, logged, found)
        if rules[_subject(logged)] not in answers:
            told = rules[_subject(logged)]
            check.fail(
                event(index),
                f"{_subject(logged)}: rule {told!r} is not what the policy says of {found.name}",
            )


def _answers(
    policy: Policy, held: Held, logged: wire.LeafCertificate, found: Algorithm
) -> set[str]:
    """Rules that allow it, at the time of the event or when its validity began.

    The decision fell between the two, and a rule may have changed in between.
    """
    leaf, certificate = held.issued.leaf, held.certificate
    decisions = [
        decide(
            policy,
            Question(
                _USES[leaf.type],
                logged.slot,
                found.name,
                Protection.DEVICE,
                moment,
                certificate.not_valid_after_utc,
            ),
        )
        for moment in (leaf.time, certificate.not_valid_before_utc)
    ]
    return {decision.rule for decision in decisions if decision.allowed}


def algorithm_of(certificate: x509.Certificate) -> Algorithm | None:
    """Registry row of the certified key; its usage tells signature from KEM keys."""
    oid = certificate.public_key_algorithm_oid.dotted_string
    curve: str | None = None
    bits: int | None = None
    try:
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
        kind = Kind.SIGNATURE if usage.digital_signature or usage.key_cert_sign else Kind.KEM
        row = of_key(kind, oid, None, None)
        if row is not None:
            return row
        key = certificate.public_key()
    except X509_ERRORS:
        return None
    if isinstance(key, ec.EllipticCurvePublicKey):
        curve = _CURVES.get(key.curve.name)
    elif isinstance(key, rsa.RSAPublicKey):
        bits = key.key_size
    return of_key(kind, oid, curve, bits)


_CURVES = {
    "secp256r1": ec.EllipticCurveOID.SECP256R1.dotted_string,
    "secp384r1": ec.EllipticCurveOID.SECP384R1.dotted_string,
    "secp521r1": ec.EllipticCurveOID.SECP521R1.dotted_string,
}
