"""Encapsulation to a KEM key whose holder is to prove itself by the secret.

Sources: FIPS 203, RFC 9180 4.1, draft-ietf-lamps-pq-composite-kem; the combiners are the signer's.
"""

from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, x25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from hsm_drivers.errors import HsmError
from hsm_drivers.kem import shared_secret
from pki.errors import ProofError
from pki.keys import PublicKey
from policies.algorithms import Algorithm, Kind, Scheme


def encapsulate(key: PublicKey) -> tuple[bytes, bytes]:
    """A fresh ciphertext for the key, and the secret that its holder gets out of it.

    Raises:
        ProofError: It is no KEM key that a secret can be sent to.
    """
    if key.algorithm.kind is not Kind.KEM or None in key.handles:
        raise ProofError(f"nothing can be encapsulated to {key.algorithm.name} keys")
    parts = key.parts()
    sent, secrets = [], []
    try:
        for (row, _), handle in zip(parts, key.handles, strict=True):
            ciphertext, secret = _part(row, handle)
            sent.append(ciphertext)
            secrets.append(secret)
        raws = [raw for _, raw in parts]
        return b"".join(sent), shared_secret(key.algorithm, secrets, sent, raws)
    except (ValueError, HsmError) as error:  # an X25519 key of small order
        raise ProofError("nothing can be encapsulated to this key") from error


def _part(row: Algorithm, handle: Any) -> tuple[bytes, bytes]:
    if row.scheme is Scheme.ML_KEM:
        secret, ciphertext = handle.encapsulate()
        return ciphertext, secret
    if row.scheme is Scheme.DHKEM_X:
        ephemeral = x25519.X25519PrivateKey.generate()
        return ephemeral.public_key().public_bytes_raw(), ephemeral.exchange(handle)
    private = ec.generate_private_key(handle.curve)
    point = private.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    return point, private.exchange(ec.ECDH(), handle)
