"""What is tried with a key of each scheme. Operations that need no key are in `general`."""

import hashlib
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

from hsm_drivers.compat import judge
from hsm_drivers.compat.bench import Bench, TestKey, agree, rate, refused, step
from hsm_drivers.compat.report import AlgorithmResult, Outcome, Step
from hsm_drivers.errors import HsmError, UnsupportedError
from hsm_drivers.verification import verifiable
from policies.algorithms import Algorithm, Kind, Scheme, algorithms

_NONCE, _TAG = 12, 16
"""Bytes, of AES-GCM (SP 800-38D)."""
_SIZES = (0, 1, 16, 1000, 65_536)
_WRAPPED_SIZES = (8, 16, 24, 32, 40, 64, 2392, 2400)
"""Bytes; the last is an ML-KEM-768 private key's size. Both kinds of distance to blocks of 16 bytes
are there: opencryptoki 3.27 breaks at one of them."""


@dataclass(frozen=True, slots=True)
class _Trial:
    """How keys of a scheme are tried.

    Attributes:
        steps: What must go well.
        once: One operation, for the rate.
    """

    steps: Callable[[Bench, Algorithm, TestKey], Iterator[Step]]
    once: Callable[[Bench, Algorithm, TestKey], Callable[[], object]]


def tried() -> tuple[Algorithm, ...]:
    """Everything that the service makes keys for and that can be judged here."""
    return tuple(row for row in algorithms() if row.scheme in _TRIALS and _judged(row))


def try_algorithm(bench: Bench, row: Algorithm, seconds: float) -> AlgorithmResult:
    """Make a key, use it in every way, destroy it.

    Args:
        bench: The token.
        row: The algorithm.
        seconds: How long the rate is measured.
    """
    strong = row.quantum_category > 0 and row.kind in {Kind.SIGNATURE, Kind.KEM}
    result = AlgorithmResult(row.name, row.kind, strong, ())
    lacking = bench.driver.lacking(row.name)
    if lacking:
        said = f"the token lacks {', '.join(lacking)}"
        return replace(result, steps=(Step("offer it", Outcome.LACKING, said),))
    made: list[TestKey] = []

    def make() -> str:
        made.append(bench.make(row.name))
        return f"in {made[0].make_ms:.1f} ms"

    making = step("make a key", make)
    if not made:
        return replace(result, steps=(making,))
    (key,) = made
    steps, measured = _with_key(bench, row, key, seconds)
    return replace(
        result,
        steps=(making, *steps),
        attributes=key.attributes,
        make_ms=round(key.make_ms, 3),
        rate=measured,
    )


def _with_key(
    bench: Bench, row: Algorithm, key: TestKey, seconds: float
) -> tuple[list[Step], float | None]:
    trial = _TRIALS[row.scheme]
    steps = [
        step("read back its attributes", lambda: _held(key)),
        step("find it by its label", lambda: _found(bench, key)),
        *trial.steps(bench, row, key),
    ]
    measured = None
    if all(one.outcome is Outcome.GOOD for one in steps):
        try:
            measured = round(rate(trial.once(bench, row, key), seconds), 1)
        except HsmError as error:
            steps.append(Step("use it again and again", Outcome.BAD, str(error)))
    steps.append(step("destroy it", lambda: bench.destroy(key.label)))
    return steps, measured


def _held(key: TestKey) -> str:
    agree(that=key.attributes.held(), otherwise=f"the key could leave: {key.attributes}")
    return "local, sensitive, never extractable, private, on the token"


def _found(bench: Bench, key: TestKey) -> str:
    driver = bench.driver
    agree(that=key.label in driver.labels(), otherwise="it is not listed")
    agree(
        that=driver.attributes(key.label) == key.attributes,
        otherwise="its attributes read otherwise now",
    )
    agree(that=driver.public_key(key.label) == key.spki, otherwise="its public key reads otherwise")
    return "listed, attributes and public key as at its birth"


def _sign_steps(bench: Bench, row: Algorithm, key: TestKey) -> Iterator[Step]:
    def sign() -> str:
        for size in (0, 100, 100_000):
            message = secrets.token_bytes(size)
            signature = bench.driver.sign(key.label, message)
            right = judge.verifies(row, key.spki, signature, message)
            agree(that=right, otherwise=f"the signature of {size} bytes does not verify")
            other = judge.verifies(row, key.spki, signature, message + b"\x00")
            agree(that=not other, otherwise="the signature verifies for another message")
        return "verified outside the token, messages of 0 to 100,000 bytes"

    yield step("sign messages", sign)
    if row.scheme is Scheme.ECDSA:
        yield step("sign a digest", lambda: _sign_digest(bench, row, key))


def _sign_digest(bench: Bench, row: Algorithm, key: TestKey) -> str:
    message = secrets.token_bytes(100)
    digest = hashlib.new(row.digest or "", message).digest()
    signature = bench.driver.sign_digest(key.label, digest)
    right = judge.verifies(row, key.spki, signature, message)
    agree(that=right, otherwise="the signature of the digest does not verify")
    return "verified outside the token"


def _sign_once(bench: Bench, row: Algorithm, key: TestKey) -> Callable[[], object]:  # noqa: ARG001 - as `_Trial`
    message = secrets.token_bytes(1000)
    return lambda: bench.driver.sign(key.label, message)


def _kem_steps(bench: Bench, row: Algorithm, key: TestKey) -> Iterator[Step]:
    def decapsulate() -> str:
        for _ in range(5):
            secret, ciphertext = judge.encapsulate(row, key.spki)
            got = bench.driver.decapsulate(key.label, ciphertext)
            agree(that=got == secret, otherwise="the secret is not the sender's")
        return "the sender's secret each time, made outside the token"

    opened = step("decapsulate", decapsulate)
    yield opened
    if opened.outcome is not Outcome.GOOD:
        return
    _, ciphertext = judge.encapsulate(row, key.spki)
    yield refused(
        "decapsulate a ciphertext that is cut off",
        lambda: bench.driver.decapsulate(key.label, ciphertext[:-1]),
    )
    if row.scheme is Scheme.ML_KEM:
        yield step("reject in silence (FIPS 203)", lambda: _implicit(bench, row, key))


def _implicit(bench: Bench, row: Algorithm, key: TestKey) -> str:
    secret, ciphertext = judge.encapsulate(row, key.spki)
    changed = bytes((ciphertext[0] ^ 1,)) + ciphertext[1:]
    got = bench.driver.decapsulate(key.label, changed)
    agree(that=got != secret and len(got) == len(secret), otherwise="a changed ciphertext opened")
    again = bench.driver.decapsulate(key.label, changed)
    agree(that=got == again, otherwise="the secret of a changed ciphertext changes")
    return "a changed ciphertext gives another secret, the same each time"


def _kem_once(bench: Bench, row: Algorithm, key: TestKey) -> Callable[[], object]:
    _, ciphertext = judge.encapsulate(row, key.spki)
    return lambda: bench.driver.decapsulate(key.label, ciphertext)


def _wrap_steps(bench: Bench, row: Algorithm, key: TestKey) -> Iterator[Step]:  # noqa: ARG001 - as `_Trial`
    def wrap() -> str:
        for size in _WRAPPED_SIZES:
            plaintext = secrets.token_bytes(size)
            wrapped = bench.driver.wrap(key.label, plaintext)
            agree(that=len(wrapped) == size + 8, otherwise=f"{size} bytes became {len(wrapped)}")
            agree(
                that=bench.driver.unwrap(key.label, wrapped) == plaintext,
                otherwise=f"{size} bytes came back changed",
            )
        return "8 bytes longer (RFC 5649), and back, 8 to 2,400 bytes"

    done = step("wrap and unwrap", wrap)
    yield done
    if done.outcome is not Outcome.GOOD:
        return
    wrapped = bench.driver.wrap(key.label, bytes(32))
    changed = wrapped[:-1] + bytes((wrapped[-1] ^ 1,))
    yield refused("unwrap what was changed", lambda: bench.driver.unwrap(key.label, changed))
    yield refused("unwrap what was cut off", lambda: bench.driver.unwrap(key.label, wrapped[:-8]))


def _wrap_once(bench: Bench, row: Algorithm, key: TestKey) -> Callable[[], object]:  # noqa: ARG001 - as `_Trial`
    wrapped = bench.driver.wrap(key.label, bytes(32))
    return lambda: bench.driver.unwrap(key.label, wrapped)


def _mac_steps(bench: Bench, row: Algorithm, key: TestKey) -> Iterator[Step]:
    def mac() -> str:
        size = hashlib.new(row.digest or "").digest_size
        for length in _SIZES:
            message = secrets.token_bytes(length)
            made = bench.driver.mac(key.label, message)
            agree(that=len(made) == size, otherwise=f"{len(made)} bytes where {size} were due")
            again = bench.driver.mac(key.label, message)
            agree(that=made == again, otherwise="the same message, another MAC")
            longer = bench.driver.mac(key.label, message + b"\x00")
            agree(that=made != longer, otherwise=f"the MAC ends after {length} bytes")
        return f"{size} bytes, the same for the same message, 0 to 65,536 bytes"

    yield step("make a MAC", mac)


def _mac_once(bench: Bench, row: Algorithm, key: TestKey) -> Callable[[], object]:  # noqa: ARG001 - as `_Trial`
    message = secrets.token_bytes(1000)
    return lambda: bench.driver.mac(key.label, message)


def _cipher_steps(bench: Bench, row: Algorithm, key: TestKey) -> Iterator[Step]:  # noqa: ARG001 - as `_Trial`
    driver = bench.driver

    def encrypt() -> str:
        for size in _SIZES:
            nonce, text = secrets.token_bytes(_NONCE), secrets.token_bytes(size)
            sealed = driver.encrypt(key.label, nonce, text, b"associated")
            longer = len(sealed) - size
            agree(that=longer == _TAG, otherwise=f"{longer} bytes longer, where {_TAG} were due")
            opened = driver.decrypt(key.label, nonce, sealed, b"associated")
            agree(that=opened == text, otherwise=f"{size} bytes came back changed")
        return "a tag of 16 bytes, and back, 0 to 65,536 bytes, with associated data"

    seal = step("encrypt and decrypt", encrypt)
    yield seal
    if seal.outcome is not Outcome.GOOD:
        return
    nonce, text = secrets.token_bytes(_NONCE), secrets.token_bytes(100)
    sealed = driver.encrypt(key.label, nonce, text, b"a")
    tampered = sealed[:-1] + bytes((sealed[-1] ^ 1,))
    wrong = {
        "decrypt with a changed tag": (nonce, tampered, b"a"),
        "decrypt what was cut off": (nonce, sealed[: _TAG - 1], b"a"),
        "decrypt with other associated data": (nonce, sealed, b"b"),
        "decrypt under another nonce": (bytes(_NONCE), sealed, b"a"),
    }
    for what, arguments in wrong.items():
        yield refused(what, partial(driver.decrypt, key.label, *arguments))
    yield step("go on after refusals", encrypt)


def _cipher_once(bench: Bench, row: Algorithm, key: TestKey) -> Callable[[], object]:  # noqa: ARG001 - as `_Trial`
    text, counter = secrets.token_bytes(1000), iter(range(2**32))
    return lambda: bench.driver.encrypt(
        key.label, next(counter).to_bytes(_NONCE, "big"), text, b"associated"
    )


_TRIALS: dict[Scheme, _Trial] = {
    Scheme.ECDSA: _Trial(_sign_steps, _sign_once),
    Scheme.EDDSA: _Trial(_sign_steps, _sign_once),
    Scheme.ML_DSA: _Trial(_sign_steps, _sign_once),
    Scheme.DHKEM_X: _Trial(_kem_steps, _kem_once),
    Scheme.DHKEM_EC: _Trial(_kem_steps, _kem_once),
    Scheme.ML_KEM: _Trial(_kem_steps, _kem_once),
    Scheme.AES_KWP: _Trial(_wrap_steps, _wrap_once),
    Scheme.HMAC: _Trial(_mac_steps, _mac_once),
    Scheme.AES_GCM: _Trial(_cipher_steps, _cipher_once),
}


def _judged(row: Algorithm) -> bool:
    if row.kind is Kind.SIGNATURE:
        return verifiable(row.name)
    return row.kind is not Kind.KEM or judge.judges(row)


def use_once(bench: Bench, row: Algorithm, key: TestKey) -> Callable[[], object]:
    """One operation with that key.

    Raises:
        UnsupportedError: Keys of this algorithm are not tried.
    """
    if row.scheme not in _TRIALS:
        raise UnsupportedError(f"no trial for {row.name}")
    return _TRIALS[row.scheme].once(bench, row, key)
