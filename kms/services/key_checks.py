"""Is this public key what it says it is, and is it strong?"""

from kms.domain.records import Fingerprint
from kms.services.errors import AlgorithmRefusedError, InvalidKeyError, WeakKeyError
from kms.services.ports import Ledger
from pki import errors as pki_errors
from pki.keys import PublicKey, parse_public_key
from pki.weak_keys import Blocklist, check, shared_factor
from policies.algorithms import Kind, Scheme, UnknownAlgorithmError, algorithm


class KeyChecks:
    """Accepts public keys; remembers RSA moduli so that shared factors are found.

    Args:
        ledger: Holds the moduli of registered RSA keys.
        blocklists: Keys known to be compromised.
    """

    def __init__(self, ledger: Ledger, blocklists: tuple[Blocklist, ...]) -> None:
        self._blocklists = blocklists
        self._moduli = {
            int(record.modulus, 16)
            for record in ledger.find(Fingerprint, scheme=Scheme.RSA_PSS.value)
            if record.modulus is not None
        }

    def registered(self, modulus: int) -> None:
        """Remember the modulus of a key that has just been certified."""
        self._moduli.add(modulus)

    def accept(self, spki: bytes, name: str, kind: Kind) -> PublicKey:
        """Parse a key of the named algorithm and refuse it if it is weak.

        Raises:
            AlgorithmRefusedError: No such algorithm, or not of this kind.
            InvalidKeyError: Not a canonical key of that algorithm.
            WeakKeyError: A weak or known-compromised key.
        """
        try:
            row = algorithm(name)
        except UnknownAlgorithmError as error:
            raise AlgorithmRefusedError(str(error), field="algorithm") from error
        if row.kind is not kind:
            raise AlgorithmRefusedError(
                f"{name} is a {row.kind.value} algorithm; the slot takes a {kind.value} algorithm",
                field="algorithm",
            )
        try:
            key = parse_public_key(spki, row)
            check(key, self._blocklists)
        except pki_errors.InvalidKeyError as error:
            raise InvalidKeyError(str(error)) from error
        except pki_errors.WeakKeyError as error:
            raise WeakKeyError(str(error)) from error
        self._refuse_shared_factor(key)
        return key

    def _refuse_shared_factor(self, key: PublicKey) -> None:
        if key.modulus is None:
            return
        others = self._moduli - {key.modulus}
        if shared_factor(key.modulus, others):
            raise WeakKeyError("the RSA modulus shares a factor with that of another key")
