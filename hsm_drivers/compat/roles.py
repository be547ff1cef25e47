"""What a token can be used for, from what the self-test found; pure.

A role says what the token is able to do. Whether the algorithm may be used is the policy's to say.
"""

from collections.abc import Mapping, Sequence

from hsm_drivers.compat.report import AlgorithmResult, Outcome, Role, Step
from hsm_drivers.vendor import Profile, TrustedBy
from policies.algorithms import Kind, Scheme, algorithm, algorithms
from policies.choices import LOG_KEY

Results = Mapping[str, AlgorithmResult]


def roles(
    results: Sequence[AlgorithmResult], general: Sequence[Step], profile: Profile
) -> list[Role]:
    """Every role of the service, with the reason why the token can take it or not."""
    by_name = {result.algorithm: result for result in results}
    return [
        _any_of("Root and issuing authorities", by_name, Kind.SIGNATURE),
        _one("Log key", by_name, LOG_KEY),
        _post_quantum_cosigner(by_name),
        _any_of("Service keys: signing", by_name, Kind.SIGNATURE),
        _any_of("Service keys: MAC", by_name, Kind.MAC),
        _any_of("Service keys: encryption and data keys", by_name, Kind.CIPHER),
        _any_of("Service keys: wrapping", by_name, Kind.WRAP),
        _any_of("Key-encryption key of wrapped keys", by_name, Kind.WRAP),
        *_slots(by_name),
        *_replicas(general, profile),
    ]


def _good(results: Results, kind: Kind) -> tuple[str, ...]:
    return tuple(name for name, one in results.items() if one.good and one.kind is kind)


def _any_of(name: str, results: Results, kind: Kind) -> Role:
    good = _good(results, kind)
    if good:
        return Role(name, fits=True, algorithms=good, why="each tried and judged")
    reasons = sorted({one.why_not for one in results.values() if one.kind is kind})
    return Role(name, fits=False, algorithms=(), why="; ".join(reasons) or "nothing was tried")


def _one(name: str, results: Results, wanted: str) -> Role:
    result = results.get(wanted)
    if result is not None and result.good:
        return Role(name, fits=True, algorithms=(wanted,), why="tried and judged")
    why = "it was not tried" if result is None else result.why_not
    return Role(name, fits=False, algorithms=(), why=why)


def _post_quantum_cosigner(results: Results) -> Role:
    """The log's second signature: the smallest ML-DSA (C2SP)."""
    rows = [row for row in algorithms(Kind.SIGNATURE) if row.scheme is Scheme.ML_DSA]
    smallest = min(rows, key=lambda row: row.signature_size or 0)
    return _one("Post-quantum cosigner of the log", results, smallest.name)


def _slots(results: Results) -> list[Role]:
    """Hybrid slots component by component, and pure ones."""
    wrapped = bool(_good(results, Kind.WRAP))
    rows = [row for row in algorithms(Kind.KEM) if row.hybrid]
    found = [_slot(row.name, row.components, results, wrapped=wrapped) for row in rows]
    pure = [name for name, one in results.items() if one.kind is Kind.KEM and one.post_quantum]
    return found + [_slot(name, (name,), results, wrapped=wrapped) for name in pure]


def _slot(name: str, parts: Sequence[str], results: Results, *, wrapped: bool) -> Role:
    places = {part: _place(part, results, wrapped=wrapped) for part in parts}
    return Role(
        f"KEM slot {name}",
        fits="nowhere" not in places.values(),
        algorithms=(name,),
        why=", ".join(f"{algorithm(part).name} {place}" for part, place in places.items()),
    )


def _place(part: str, results: Results, *, wrapped: bool) -> str:
    result = results.get(part)
    if result is not None and result.good:
        return "on the token"
    return "wrapped under a key of the token, if the policy permits" if wrapped else "nowhere"


def _replicas(general: Sequence[Step], profile: Profile) -> list[Role]:
    step = next((one for one in general if one.what == "make a transferable key"), None)
    can = step is not None and step.outcome is Outcome.GOOD
    trusted = profile.attributes.trusted_by is TrustedBy.SECURITY_OFFICER
    if can and trusted:
        why = "makes transferable keys; its security officer makes the trusted wrapping key"
    elif can:
        why = "makes transferable keys, and nobody can make a trusted wrapping key"
    else:
        why = "no signature works" if step is None else step.detail
    return [
        Role("Source of transferred replicas", fits=can and trusted, algorithms=(), why=why),
        Role("Target of transferred replicas", fits=can and trusted, algorithms=(), why=why),
        Role(
            "Replicas by the maker's own means",
            fits=True,
            algorithms=(),
            why="outside this test: the maker clones or backs up, the service compares public keys",
        ),
    ]
