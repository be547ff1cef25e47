"""Keys that ceremonies make: how they are asked for, and found again after an interruption."""

from collections.abc import Callable
from datetime import datetime

from hsm_drivers.ports import (
    Component,
    KeyLabel,
    KeyRecord,
    KeySpec,
    Purpose,
    StatementSigner,
)
from kms.domain.records import Epoch
from kms.services.ceremony_plan import AuthorityPlan, CosignerPlan, Plan
from kms.services.checkpoint_checker import log_constraints
from kms.services.core import ROOT
from kms.services.cosigner import Cosigner, cosigner_vkey
from kms.services.errors import AlgorithmRefusedError, StateError
from pki.constraints import authority_constraints
from pki.names import Subject
from policies.choices import LOG_COSIGNER, LOG_KEY
from policies.decisions import Protection, Question, Use, decide
from policies.policy import Policy


async def make_log_key(
    signer: StatementSigner, plan: Plan, policy: Policy, now: datetime
) -> KeyRecord:
    """The log's key, made unless the token has it.

    Raises:
        AlgorithmRefusedError: The policy allows no such log key now.
        HsmError: The token failed or the signer is not in ceremony mode.
    """
    spec = KeySpec(
        label=KeyLabel(plan.log_label),
        algorithm=LOG_KEY,
        purposes=(Purpose.CHECKPOINT,),
        constraints={Purpose.CHECKPOINT: log_constraints(plan.log_name)},
    )
    return await _make_log_key(signer, spec, Protection.TOKEN, policy, now)


async def make_cosigner(
    signer: StatementSigner,
    plan: Plan,
    epoch: Epoch,
    policy: Policy,
    now: Callable[[], datetime],
) -> Cosigner | None:
    """The cosigner that a plan names, made unless the token has it; its birth is not logged yet.

    Raises:
        AlgorithmRefusedError: The policy allows no such key now.
        HsmError: The token failed or the signer is not in ceremony mode.
        StateError: Another key has its label.
    """
    if plan.cosigner is None:
        return None
    spec = _cosigner_spec(plan.cosigner, plan.log_name)
    record = await _make_log_key(signer, spec, plan.cosigner.protection, policy, now())
    return Cosigner(record.label, cosigner_vkey(epoch.origin, record.public_key), now)


def _cosigner_spec(wanted: CosignerPlan, log_name: str) -> KeySpec:
    return KeySpec(
        label=KeyLabel(wanted.label),
        algorithm=LOG_COSIGNER,
        purposes=(Purpose.COSIGNATURE,),
        constraints={Purpose.COSIGNATURE: log_constraints(log_name)},
        token=wanted.token,
        components=_components(LOG_COSIGNER, wanted.protection),
    )


async def _make_log_key(
    signer: StatementSigner, spec: KeySpec, protection: Protection, policy: Policy, now: datetime
) -> KeyRecord:
    known = await find_key(signer, spec, protection)
    if known is not None:
        return known
    # A key of the log has no end: what the policy says of this moment decides.
    decision = decide(policy, Question(Use.LOG, None, spec.algorithm, protection, now, now))
    if not decision.allowed:
        raise AlgorithmRefusedError(f"log: {decision.reason}")
    return await signer.generate(spec)


def authority_spec(item: AuthorityPlan, subordinates: list[Subject]) -> KeySpec:
    """What is asked of the tokens for an authority; `subordinates` is for the root."""
    return KeySpec(
        label=KeyLabel(item.label),
        algorithm=item.algorithm,
        purposes=(Purpose.CERTIFICATE, Purpose.CRL),
        constraints=authority_constraints(item.name, item.subject, subordinates=subordinates),
        ceremony_only=(Purpose.CERTIFICATE,) if item.name == ROOT else (),
        token=item.token,
        components=_components(item.algorithm, item.protection),
    )


async def find_key(
    signer: StatementSigner, spec: KeySpec, protection: Protection
) -> KeyRecord | None:
    """The key of an interrupted ceremony, under its label.

    Raises:
        StateError: Another key has the label: the ceremony was begun with another plan.
    """
    for record in await signer.keys():
        if record.label != spec.label:
            continue
        found = (record.algorithm, record.protection, record.home)
        if found != (spec.algorithm, protection, spec.token):
            raise StateError(
                f"key {spec.label!r} was made as {record.algorithm}, {record.protection}; hold the"
                " ceremony with the plan that it was begun with"
            )
        return record
    return None


def _components(algorithm: str, protection: Protection) -> tuple[Component, ...]:
    """None for a key that the token holds itself, as a whole."""
    return () if protection is Protection.TOKEN else (Component(algorithm, protection),)
