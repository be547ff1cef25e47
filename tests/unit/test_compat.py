"""The self-test of tokens: it finds what is wrong with a token, and leaves nothing on it."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from hsm_drivers.compat import Options, Report, clean, examine, leftovers
from hsm_drivers.compat.bench import MARK
from hsm_drivers.compat.markdown import markdown
from hsm_drivers.compat.report import AlgorithmResult, Outcome
from hsm_drivers.errors import HsmError, TokenFailureError, TokenUnavailableError, UnsupportedError
from hsm_drivers.ports import KeyAttributes, KeyLabel
from hsm_drivers.software import SoftwareDriver
from hsm_drivers.surveys import PinState, Survey, TokenFacts
from hsm_drivers.vendor import shipped, standard
from policies.algorithms import Kind, Scheme, algorithm, algorithms

QUICK = Options(seconds=0.001)


def result(report: Report, name: str) -> AlgorithmResult:
    (found,) = [one for one in report.algorithms if one.algorithm == name]
    return found


def role(report: Report, name: str) -> bool:
    (found,) = [one for one in report.roles if one.name == name]
    return found.fits


def test_a_sound_token_takes_every_role_and_is_left_as_it_was() -> None:
    token = SoftwareDriver()
    token.generate(KeyLabel("ca"), "ECDSA-P256")
    report = examine(token, standard(), QUICK)
    assert report.sound
    assert all(one.good and one.rate for one in report.algorithms)
    assert {one.algorithm for one in report.algorithms} == {
        row.name
        for row in algorithms()
        if row.scheme in set(Scheme) - {Scheme.COMPOSITE_KEM, Scheme.RSA_PSS, Scheme.AES_KW}
        and row.kind is not Kind.HASH
        and row.name != "ML-KEM-512"  # nothing here to judge it with
    }
    assert all(one.fits for one in report.roles)
    assert token.labels() == ["ca"]
    assert "Nothing that it offers went wrong" in markdown(report)


class Lacking(SoftwareDriver):
    """A token without ML-KEM, ML-DSA and Ed25519."""

    def lacking(self, algorithm_name: str) -> tuple[str, ...]:
        lacked = {Scheme.ML_KEM, Scheme.ML_DSA, Scheme.EDDSA}
        return ("ML_THING",) if algorithm(algorithm_name).scheme in lacked else ()


def test_what_a_token_lacks_takes_roles_away_and_nothing_else() -> None:
    report = examine(Lacking(), standard(), QUICK)
    assert report.sound
    assert not result(report, "ML-KEM-768").offered
    assert result(report, "ML-KEM-768").why_not == "the token lacks ML_THING"
    assert not role(report, "Log key")
    assert not role(report, "Post-quantum cosigner of the log")
    assert role(report, "Root and issuing authorities")
    (slot,) = [one for one in report.roles if one.name == "KEM slot MLKEM768-X25519"]
    assert slot.fits
    assert slot.why == (
        "ML-KEM-768 wrapped under a key of the token, if the policy permits, X25519 on the token"
    )


def _flipped(made: bytes) -> bytes:
    return made[:-1] + bytes((made[-1] ^ 1,))


class WrongSignatures(SoftwareDriver):
    def sign(self, label: KeyLabel, message: bytes) -> bytes:
        return super().sign(label, message + b"!")


class SameSignature(SoftwareDriver):
    """Says yes to whatever was signed before."""

    def decrypt(self, label: KeyLabel, nonce: bytes, ciphertext: bytes, associated: bytes) -> bytes:
        try:
            return super().decrypt(label, nonce, ciphertext, associated)
        except HsmError:
            return b"opened all the same"


class WrongSecrets(SoftwareDriver):
    def decapsulate(self, label: KeyLabel, ciphertext: bytes) -> bytes:
        return _flipped(super().decapsulate(label, ciphertext))


class WrongUnwrap(SoftwareDriver):
    def unwrap(self, label: KeyLabel, ciphertext: bytes) -> bytes:
        return _flipped(super().unwrap(label, ciphertext))


class ForgetfulMac(SoftwareDriver):
    def mac(self, label: KeyLabel, message: bytes) -> bytes:
        return super().mac(label, message[:10])


class Immortal(SoftwareDriver):
    """Destroys nothing, and says that it did."""

    def destroy(self, label: KeyLabel) -> None:
        self.attributes(label)


class Stuck(SoftwareDriver):
    """Its random numbers repeat."""

    def random(self, size: int) -> bytes:
        return bytes(size)


class Biased(SoftwareDriver):
    def random(self, size: int) -> bytes:
        return bytes(byte | 0x11 for byte in super().random(size))


class Overwriting(SoftwareDriver):
    """A second key under a label replaces the first."""

    def generate(
        self, label: KeyLabel, algorithm_name: str, *, transferable: bool = False
    ) -> tuple[str, bytes, KeyAttributes]:
        self._keys.pop(label, None)
        return super().generate(label, algorithm_name, transferable=transferable)


class Generous(SoftwareDriver):
    """Gives transferable keys away under any wrapping key."""

    def export_key(self, label: KeyLabel, trusted: KeyLabel) -> bytes:
        return b"the key"


class OtherRefusal(SoftwareDriver):
    """Refuses what is tampered with as if it were gone."""

    def unwrap(self, label: KeyLabel, ciphertext: bytes) -> bytes:
        try:
            return super().unwrap(label, ciphertext)
        except HsmError:
            raise TokenUnavailableError("the token is gone [CKR_DEVICE_REMOVED]") from None


BROKEN: dict[type[SoftwareDriver], str] = {
    WrongSignatures: "sign messages",
    SameSignature: "decrypt with a changed tag",
    WrongSecrets: "decapsulate",
    WrongUnwrap: "wrap and unwrap",
    ForgetfulMac: "make a MAC",
    Immortal: "destroy it",
    Stuck: "make random bytes",
    Biased: "make random bytes",
    Overwriting: "make a second key of the same label",
    Generous: "take it out under a key that is not trusted",
    OtherRefusal: "unwrap what was changed",
}


@pytest.mark.parametrize("token", BROKEN, ids=lambda one: one.__name__)
def test_a_broken_token_is_found_out(token: type[SoftwareDriver]) -> None:
    report = examine(token(), standard(), QUICK)
    steps = [*report.general, *report.refusals]
    steps += [one for each in report.algorithms for one in each.steps]
    bad = {one.what for one in steps if one.outcome is Outcome.BAD}
    assert BROKEN[token] in bad
    assert not report.sound
    assert any(line.startswith("seen: ") for line in report.deviations)
    assert "**BAD**" in markdown(report)


def test_keys_that_could_leave_are_found_out() -> None:
    class Leaky(SoftwareDriver):
        def attributes(self, label: KeyLabel) -> KeyAttributes:
            return replace(super().attributes(label), extractable=True)

    report = examine(Leaky(), standard(), QUICK)
    assert not any(one.good for one in report.algorithms)
    assert not any(one.fits for one in report.roles if one.algorithms)


@pytest.mark.parametrize("error", [KeyboardInterrupt, TokenUnavailableError])
def test_an_abort_leaves_no_key(error: type[BaseException]) -> None:
    class Aborted(SoftwareDriver):
        def labels(self, only: KeyLabel | None = None) -> list[KeyLabel]:
            raise error("in the middle of it")

    token = Aborted()
    with contextlib.suppress(KeyboardInterrupt, HsmError):
        examine(token, standard(), QUICK)
    assert token._keys == {}


def test_what_a_kill_left_is_found_told_and_cleaned() -> None:
    token = SoftwareDriver()
    for label in ("ca", f"{MARK}dead-0", f"{MARK}dead-1"):
        token.generate(KeyLabel(label), "ECDSA-P256")
    report = examine(token, standard(), QUICK)
    assert report.leftovers == (f"{MARK}dead-0", f"{MARK}dead-1")
    assert f"{MARK}dead-1" in markdown(report)
    assert clean(token) == report.leftovers
    assert leftovers(token) == ()
    assert token.labels() == ["ca"]


def test_several_processes_share_a_key_and_their_errors_are_told() -> None:
    token, opened = SoftwareDriver(), []

    @contextlib.contextmanager
    def again() -> Iterator[SoftwareDriver]:
        opened.append(token)
        yield token

    report = examine(token, standard(), replace(QUICK, opener=again))
    assert len(opened) == report.concurrency.processes == 4
    assert report.concurrency.errors == ()
    assert report.concurrency.together

    class Refusing(SoftwareDriver):
        def sign(self, label: KeyLabel, message: bytes) -> bytes:
            raise TokenFailureError("no session is left [CKR_SESSION_COUNT]")

    @contextlib.contextmanager
    def refusing() -> Iterator[SoftwareDriver]:
        yield Refusing()

    report = examine(token, standard(), replace(QUICK, opener=refusing))
    assert report.concurrency.errors == ("no session is left [CKR_SESSION_COUNT]",)
    assert not report.sound
    assert token.labels() == []


def test_a_profile_that_allows_one_process_is_kept_to() -> None:
    def never() -> contextlib.AbstractContextManager[SoftwareDriver]:
        raise AssertionError("a second process would break this token")

    report = examine(SoftwareDriver(), shipped("softhsm2"), replace(QUICK, opener=never))
    assert report.concurrency.processes == 1
    assert "one process" in report.concurrency.detail


def test_deviations_of_the_profile_are_told_with_their_source() -> None:
    report = examine(SoftwareDriver(), shipped("softhsm2"), QUICK)
    (line,) = [one for one in report.deviations if one.startswith("profile: aes-kwp:")]
    assert "0x210a for 0x210b" in line
    assert "measured" in line


def test_codes_that_nobody_knows_are_told() -> None:
    class Odd(SoftwareDriver):
        def unwrap(self, label: KeyLabel, ciphertext: bytes) -> bytes:
            try:
                return super().unwrap(label, ciphertext)
            except HsmError:
                raise TokenFailureError("what is this? [0x80000123]") from None

    report = examine(Odd(), standard(), QUICK)
    assert "seen: it answers 0x80000123, which neither standard nor profile know" in (
        report.deviations
    )


def test_offered_and_then_refused_is_a_deviation() -> None:
    class Promising(SoftwareDriver):
        def decapsulate(self, label: KeyLabel, ciphertext: bytes) -> bytes:
            raise UnsupportedError("it lacks the mechanism [CKR_MECHANISM_INVALID]")

    report = examine(Promising(), standard(), QUICK)
    assert report.sound
    assert not result(report, "X25519").good
    assert any("X25519: its mechanisms are listed, and" in one for one in report.deviations)


def test_what_a_token_says_of_itself_cannot_become_markup() -> None:
    token = TokenFacts(
        slot=0, label="software", manufacturer="A | B <script>", model="m\n# title", serial="",
        hardware="1.0", firmware="2.0", pin=PinState.SOUND, login_required=True,
        write_protected=False, sessions=None, open_sessions=0, free_private=None,
        shortest_pin=4, longest_pin=8, mechanisms=(),
    )  # fmt: skip
    survey = Survey("module.so", "maker", "library", "1.0", "3.2", (token,))
    text = markdown(examine(SoftwareDriver(), standard(), replace(QUICK, survey=survey)))
    assert "A \\| B &lt;script>" in text
    assert "\n# title" not in text
    assert "| serial number | none |" in text


def test_progress_names_what_is_tried_next() -> None:
    said: list[str] = []
    note: Callable[[str], None] = said.append
    examine(SoftwareDriver(), standard(), replace(QUICK, progress=note))
    assert "ML-KEM-768" in said
