"""What can go wrong between the service and a token.

HsmError
├── StatementRefusedError     will not be signed: the request is wrong, a retry is useless
│   └── DestructionBegunError the key is gone, or parts of it: there is nothing left to keep
├── KeyNotFoundError          no such key on this token
├── BadCiphertextError        these bytes are not of this key, or were changed
├── UnsupportedError          the token or the signer's mode lacks the operation
├── PinRefusedError           wrong PIN; never tried again by itself, so the token is not locked
├── RateExceededError         the key has signed as much as it may in an hour; retry later
├── TokenUnavailableError     token gone, link down, signer restarting; retry later
└── TokenFailureError         the token answered something that has no remedy here

Every message is a sentence for an operator; the PKCS#11 return code, where there is one, stands in
brackets at its end.
"""


class HsmError(Exception):
    """Root of the package's errors; `code` is stable across the signer's socket."""

    code = "failure"
    retryable = False


class StatementRefusedError(HsmError):
    """A statement breaks the constraints in its key's record."""

    code = "statement-refused"


class DestructionBegunError(StatementRefusedError):
    """A destruction cannot be cancelled any more: at least a part of the key is gone."""

    code = "destruction-begun"


class KeyNotFoundError(HsmError):
    """The token holds no key under that label."""

    code = "key-not-found"


class BadCiphertextError(HsmError):
    """Ciphertext, associated data and key do not belong together; a retry is useless."""

    code = "bad-ciphertext"


class UnsupportedError(HsmError):
    """Neither token nor signer can do this here."""

    code = "unsupported"


class PinRefusedError(HsmError):
    """The token refused the PIN; it is not tried again."""

    code = "pin-refused"


class RateExceededError(HsmError):
    """The key has signed as many statements of this purpose as it may for now."""

    code = "rate-exceeded"
    retryable = True


class TokenUnavailableError(HsmError):
    """The token or its signer cannot be reached now; the same request may succeed later."""

    code = "token-unavailable"
    retryable = True


class TokenFailureError(HsmError):
    """The token failed in a way that trying again will not mend."""

    code = "token-failure"


BY_CODE: dict[str, type[HsmError]] = {
    cls.code: cls
    for cls in (
        HsmError,
        StatementRefusedError,
        DestructionBegunError,
        KeyNotFoundError,
        BadCiphertextError,
        UnsupportedError,
        PinRefusedError,
        RateExceededError,
        TokenUnavailableError,
        TokenFailureError,
    )
}
