"""What can be wrong with keys, proofs, requests and certificates.

PkiError
├── DerError            bytes that are not distinguished encoding (X.690 chapter 10)
├── InvalidKeyError     not a public key of the named algorithm
├── WeakKeyError        a well-formed key that must not be certified
├── ProofError          possession of the private key was not proven
├── InvalidCsrError     not an acceptable certification request
├── EnvelopeError       not a CMS envelope that is opened here
├── LintError           a certificate or CRL that would break its profile
└── ProfileError        an unknown profile, or a value that a profile cannot carry

Every message is a sentence that tells what is wrong; none carries key material.
"""


class PkiError(Exception):
    """Root of the package's errors.

    Attributes:
        field: Which part of the input is meant, where one can be named.
    """

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class DerError(PkiError):
    """Bytes that are not the distinguished encoding of what is expected."""


class InvalidKeyError(PkiError):
    """Not a public key of the named algorithm."""


class WeakKeyError(PkiError):
    """A well-formed key that an attacker may know or compute."""


class ProofError(PkiError):
    """Possession of the private key was not proven."""


class InvalidCsrError(PkiError):
    """Not an acceptable certification request."""


class EnvelopeError(PkiError):
    """Not a CMS envelope that is opened here."""


class LintError(PkiError):
    """A certificate or CRL that would break its profile or RFC 5280."""


class ProfileError(PkiError):
    """An unknown profile, or a value that no profile can carry."""
