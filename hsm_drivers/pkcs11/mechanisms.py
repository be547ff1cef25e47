"""What a token lacks for given algorithms: `python -m hsm_drivers.pkcs11.mechanisms`.

A program of its own for `kms doctor`, which loads no PKCS#11 module itself. It neither logs in nor
reads objects, so it may run beside the signer that owns the token. Prints one JSON document:
`{"missing": {algorithm: [mechanism, …]}}`, or `{"error": sentence}` with status 1.
"""

import json
import sys
from collections.abc import Mapping, Sequence

import pkcs11
from pkcs11 import Mechanism, PKCS11Error

from hsm_drivers.pkcs11.meanings import meaning
from policies.algorithms import Scheme, algorithm

NEEDED: Mapping[Scheme, tuple[Mechanism, ...]] = {
    Scheme.ECDSA: (Mechanism.EC_KEY_PAIR_GEN, Mechanism.ECDSA),
    Scheme.EDDSA: (Mechanism.EC_EDWARDS_KEY_PAIR_GEN, Mechanism.EDDSA),
    Scheme.AES_KWP: (Mechanism.AES_KEY_GEN,),
}
"""What the driver uses for keys of a scheme (PKCS#11 3.0, section 2)."""


def missing(module: str, label: str, names: Sequence[str]) -> dict[str, list[str]]:
    """Mechanisms that the token lacks, by algorithm; empty if it has all.

    Raises:
        PKCS11Error: The module does not start.
        LookupError: It shows no token of that label.
    """
    token = next((t for t in pkcs11.lib(module).get_tokens() if t.label == label), None)
    if token is None:
        raise LookupError(f"{module} shows no token labelled {label!r}")
    offered = set(token.slot.get_mechanisms())
    lacking = {name: _lacking(name, offered) for name in names}
    return {name: mechanisms for name, mechanisms in lacking.items() if mechanisms}


def _lacking(name: str, offered: set[Mechanism]) -> list[str]:
    needed = NEEDED.get(algorithm(name).scheme)
    if needed is None:
        return ["a driver that knows it"]
    return [item.name for item in needed if item not in offered]


def main(arguments: Sequence[str]) -> int:
    """MODULE LABEL ALGORITHM…; answers the exit status."""
    module, label, *names = arguments
    document: dict[str, object]
    try:
        document = {"missing": missing(module, label, names)}
    except PKCS11Error as error:
        code = meaning(error).code
        document = {"error": f"the module {module} does not start [{code}]"}
    except LookupError as error:
        document = {"error": str(error)}
    sys.stdout.write(json.dumps(document) + "\n")
    return 1 if "error" in document else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
