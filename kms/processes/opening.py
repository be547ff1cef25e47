"""The signer's way to its tokens: the only one opened here, or all of them behind processes."""

import os
from collections.abc import Callable, Mapping, Sequence

from hsm_drivers.pin import Pin
from hsm_drivers.pool.link import Link
from hsm_drivers.pool.tokens import Place, PoolOfTokens
from hsm_drivers.ports import KeyLabel, KeyRecord
from hsm_drivers.service.store import Held
from hsm_drivers.state import SignerState
from hsm_drivers.tokens import SingleToken, Tokens
from hsm_drivers.vendor import ProfileError, called
from kms.config import ConfigError
from kms.settings import Settings


def open_tokens(settings: Settings, state: SignerState, pin_fd: int | None) -> Tokens:
    """The tokens of the settings.

    Args:
        settings: Names them.
        state: Its records say what each token must hold.
        pin_fd: Pipe with the PIN, where this process is to log in itself.

    Raises:
        ConfigError: There is no such vendor profile.
        HsmError: The only token cannot be opened; of several nothing is said before they are used.
    """
    if settings.pooled or pin_fd is None:
        return pool_of(settings, lambda: recorded(state))
    from hsm_drivers.pkcs11.driver import Pkcs11Driver  # noqa: PLC0415 - no pool loads a module

    token = settings.token

    with os.fdopen(pin_fd, "rb") as pipe:
        pin = Pin(pipe.read().decode())
    try:
        profile = None if token.profile is None else called(token.profile)
    except ProfileError as error:
        raise ConfigError(f"{settings.path}: token.profile: {error}") from error
    driver = Pkcs11Driver(str(token.module), token.label, pin, profile=profile, serial=token.serial)
    return SingleToken(driver)


def pool_of(settings: Settings, records: Callable[[], Sequence[KeyRecord]]) -> PoolOfTokens:
    """A pool over the processes that the supervisor starts for these settings."""
    places = [
        Place(
            name,
            token.label,
            tuple(Link(name, path, token.call_seconds) for path in settings.token_sockets(name)),
        )
        for name, token in settings.estate.items()
    ]
    return PoolOfTokens(places, lambda token: expected(records(), token))


def recorded(state: SignerState) -> list[KeyRecord]:
    """All keys that should be on their tokens: not those that are being destroyed."""
    served = [item for item in state.service if isinstance(item, Held) and not item.destroying]
    return [*state.records(), *(item.record for item in served)]


def expected(records: Sequence[KeyRecord], token: str) -> Mapping[KeyLabel, bytes]:
    """How the public halves end of the keys that a token must hold; empty for secret keys.

    Of a part of a key its record has the bare key, with which its SubjectPublicKeyInfo ends.
    """
    held: dict[KeyLabel, bytes] = {}
    for record in records:
        if token not in record.places:
            continue
        if not record.components:
            held[record.label] = record.public_key
        for part in record.components:
            held[part.label] = b"" if part.wrapped else part.public_key
    return held
