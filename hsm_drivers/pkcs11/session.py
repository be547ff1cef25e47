"""One logged-in session on one token, reopened once when the token lost it.

python-pkcs11 0.10.1 tells the module that there are no threads (`C_Initialize(NULL)`) and then
releases the GIL: a second thread corrupts the module's heap. A session therefore belongs to the
thread that opened it, and a module to one session.
"""

import contextlib
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import pkcs11
from pkcs11 import PKCS11Error

from hsm_drivers.errors import (
    HsmError,
    PinRefusedError,
    TokenFailureError,
    TokenUnavailableError,
)
from hsm_drivers.pin import Pin
from hsm_drivers.pkcs11.cryptoki import Cryptoki
from hsm_drivers.pkcs11.meanings import meaning, told
from hsm_drivers.vendor import Profile, Remedy, recognised, remedy, standard

T = TypeVar("T")

_in_use: set[str] = set()
"""Modules of open sessions: C_Finalize of one user would end the other's session."""


class TokenSession:
    """The session; what touches the token goes through `run`.

    Attributes:
        module: Path of the PKCS#11 module.
        token: Label.
        raw: python-pkcs11's session, while open.
        profile: How the token is spoken to.
        serial: Serial number of the token.
        offered: Numbers of the token's mechanisms, as asked when it was opened.
    """

    def __init__(
        self,
        module: str,
        token: str,
        pin: Pin,
        forget: Callable[[], None],
        *,
        profile: Profile | None = None,
        serial: str | None = None,
    ) -> None:
        """Load the module, find the token, log in once.

        Args:
            module: Path of the PKCS#11 module.
            token: Label.
            pin: User PIN.
            forget: Called when all handles have become void.
            profile: None for the one that the token is recognised by.
            serial: Serial number that the token must have; None for any.

        Raises:
            PinRefusedError: The PIN is wrong, locked or expired.
            TokenUnavailableError: There is no such token now, or two of them.
            TokenFailureError: The module cannot be loaded or is in use in this process.
        """
        if module in _in_use:
            raise TokenFailureError(f"this process uses the PKCS#11 module {module} already")
        self.token = token
        self.raw: Any = None
        self._calls: Cryptoki | None = None
        self._apart = False
        """Whether `calls` has an instance of the module of its own."""
        self.profile = profile or standard()
        self.serial = serial or ""
        self.offered: frozenset[int] = frozenset()
        self.module = module
        self._given = profile
        self._pinned = serial
        self._pin = pin
        self._forget = forget
        self._owner = threading.get_ident()
        self._library: Any = None
        self._refused: PinRefusedError | None = None
        self._open()
        _in_use.add(module)

    @property
    def calls(self) -> Cryptoki:
        """The module's functions in this session.

        Raises:
            TokenUnavailableError: There is no session now.
        """
        if self._calls is None:
            raise TokenUnavailableError(f"token {self.token!r} is closed")
        return self._calls

    def run(self, operation: Callable[[], T], *, again: bool = True) -> T:
        """Run an operation; should session or handles be lost, reopen and run it once more.

        Args:
            operation: Uses `raw` and handles found through it.
            again: False for what must not happen twice; the session is then only reopened, and
                only if it does not answer any more: to log in makes some tokens write, and a
                SoftHSM2 whose disk is full loses itself by that.

        Raises:
            HsmError: As `meanings` says; never an exception of python-pkcs11.
        """
        if threading.get_ident() != self._owner:
            raise TokenFailureError(f"token {self.token!r} belongs to another thread")
        if self.raw is None:
            self._open()
        try:
            return operation()
        except PKCS11Error as error:
            lost = told(error, self.token)
            if not self._is_lost(error) or not (again or self._is_silent()):
                raise lost from error
        self._drop()
        self._open()
        if not again:
            raise lost
        try:
            return operation()
        except PKCS11Error as error:
            raise told(error, self.token) from error

    def _is_lost(self, error: PKCS11Error) -> bool:
        """Whether reopening may help.

        A token that went away may first show as an empty one, so that a key is looked for again.
        """
        if isinstance(error, pkcs11.NoSuchKey | pkcs11.NoSuchToken):
            return True
        return remedy(self.profile, meaning(error).code) in (Remedy.LOG_IN, Remedy.REOPEN)

    def _is_silent(self) -> bool:
        """Whether the session does not even give random numbers."""
        try:
            self.raw.generate_random(64)
        except PKCS11Error:
            return True
        return False

    def close(self) -> None:
        """Log out and let module and token go; closing twice is fine."""
        self._drop()
        _in_use.discard(self.module)

    def _drop(self) -> None:
        """End session and module; a token that is gone cannot be told, and need not be."""
        raw, self.raw = self.raw, None
        calls, self._calls = self._calls, None
        library, self._library = self._library, None
        if calls is not None and self._apart:
            calls.finish()
        self._apart = False
        if raw is not None:
            self._forget()
            with contextlib.suppress(PKCS11Error):
                raw.close()
        if library is not None:
            with contextlib.suppress(PKCS11Error):
                library.finalize()

    def _open(self) -> None:
        """Start the module afresh, so that it sees the tokens that are there now, and log in."""
        if self._refused is not None:
            raise self._refused
        try:
            self._library = _started(self.module)
            self._log_in()
        except PinRefusedError as error:
            self._refused = error
            self._drop()
            raise
        except HsmError:
            self._drop()
            raise

    def _log_in(self) -> None:
        try:
            found = _only(list(self._library.get_tokens()), self.token, self._pinned)
            self.serial = serial_of(found)
            self.profile = self._given or recognised(
                found.manufacturer_id, found.model, self._library.library_description
            )
            self.offered = frozenset(int(one) for one in found.slot.get_mechanisms())
            pin = self._pin.reveal()
            self.raw = found.open(rw=True, user_pin=pin)
            self._calls = Cryptoki(self.module, self.raw.handle)
            if not self._calls.shares_session():  # the PIN is known to be right by now
                self._apart = True
                self._calls.log_in(found.slot.slot_id, pin)
        except PKCS11Error as error:
            raise told(error, self.token) from error
        except OSError as error:  # the file went since the binding loaded it
            raise TokenFailureError(f"cannot use the PKCS#11 module {self.module}") from error


def _started(module: str) -> Any:
    try:
        return pkcs11.lib(module)
    except pkcs11.GeneralError as error:
        # SoftHSM2's answer when its configuration or token directory is missing.
        raise TokenUnavailableError(
            f"the PKCS#11 module {module} does not start; its configuration or the directory of"
            f" its tokens is missing or unreadable [{meaning(error).code}]"
        ) from error
    except PKCS11Error as error:
        row = meaning(error)
        if remedy(standard(), row.code) is not Remedy.REOPEN:
            why = str(error) or row.sentence
            raise TokenFailureError(f"cannot use the PKCS#11 module {module}: {why}") from error
        raise TokenUnavailableError(
            f"the PKCS#11 module {module} does not start: {row.sentence} [{row.code}]"
        ) from error


def _only(tokens: list[Any], label: str, serial: str | None) -> Any:
    labelled = [token for token in tokens if token.label == label]
    found = [token for token in labelled if serial in (None, serial_of(token))]
    if len(found) == 1:
        return found[0]
    if found:
        raise TokenUnavailableError(
            f"{len(found)} tokens are labelled {label!r}; rename or remove all but one,"
            " or name the serial number of the one that is meant"
        )
    if labelled:
        others = ", ".join(serial_of(token) for token in labelled)
        raise TokenUnavailableError(
            f"the token labelled {label!r} has the serial number {others}, not {serial}: it is"
            " another token, and is not used"
        )
    seen = ", ".join(sorted(repr(token.label) for token in tokens if token.label)) or "none"
    raise TokenUnavailableError(
        f"no token is labelled {label!r} (the module sees: {seen});"
        " connect it, or point the module's configuration to it"
    )


def serial_of(token: Any) -> str:
    """CK_TOKEN_INFO.serialNumber, without its padding."""
    raw: bytes = token.serial
    return raw.decode("ascii", "replace").strip(" \x00")
