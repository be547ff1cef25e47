"""Places and turns of requests (`kms.services.turns`): by whom, and of which class.

    Placed    certificate → principal → a place in the class of the call, before the body is read
    Begun     the call's turn, once its body is there: a slow sender holds up nobody

Who is refused at once is told so after a moment: a connection that calls again without pause costs
the service little that way, and its honest neighbours nothing.
"""

import re
from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from kms.api import exchange as exchanges
from kms.api.identity import PeerIdentity
from kms.domain.authorisation import Caller
from kms.services.keys.verbs import VERBS
from kms.services.slots.verbs import SLOT_VERBS
from kms.services.turns import Admission, CallClass

_KNOWN = {
    "/v1/enrolments": CallClass.ENROLMENT,
    "/v1/enrolments:batch": CallClass.BATCH,
    "/v1/enrolments:batch-proofs": CallClass.BATCH,
}
_ENDS_TRUST = ("/revoke", "/disable", "/crl", "/suspend", "/deactivate", "/compromise")
_USES = re.compile(
    rf"/v1/keys/[^/]*/(?:{'|'.join(VERBS)})|/v1/keys:random"
    rf"|/v1/kem-slots/[^/]*/(?:{'|'.join(SLOT_VERBS)})"
)


def class_of(method: str, path: str) -> CallClass:
    """Which class's place a request takes; one that no route takes has its place with reading."""
    if method != "POST":
        return CallClass.READING
    known = _KNOWN.get(path)
    if known is not None:
        return known
    if path.endswith("/proofs"):
        return CallClass.ENROLMENT
    if _USES.fullmatch(path):
        return CallClass.KEY_USE
    return CallClass.REVOCATION if path.endswith(_ENDS_TRUST) else CallClass.ADMINISTRATION


class Placed:
    """Gives each request its place, or refuses it while nothing is read and nothing is parsed."""

    def __init__(
        self,
        app: ASGIApp,
        admission: Admission,
        identity: PeerIdentity,
        authenticate: Callable[[bytes | None], Caller],
    ) -> None:
        self._app = app
        self._admission = admission
        self._identity = identity
        self._authenticate = authenticate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Go on with a place held until the answer is sent."""
        caller = self._authenticate(self._identity.certificate(scope))
        kind = class_of(scope["method"], scope["path"])
        place = self._admission.enter(kind, (caller.tenant, caller.name))
        exchanges.of(scope).place = place
        try:
            await self._app(scope, receive, send)
        finally:
            place.leave()


class Begun:
    """Waits for the request's turn."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Go on when it has come."""
        place = exchanges.of(scope).place
        if place is not None:
            await place.begin()
        await self._app(scope, receive, send)
