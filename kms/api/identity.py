"""Where the caller's certificate comes from, as a port.

`NativeTls` takes it from the TLS connection that this process terminated. A deployment behind a
proxy would add one class here that reads RFC 9440 `Client-Cert` from connections of that proxy
alone; nothing else would change.
"""

from typing import Protocol

from starlette.types import Scope

PEER_CERTIFICATE = "peer_certificate"
"""Key of the connection's state under which the protocol leaves the peer's certificate (DER)."""


class PeerIdentity(Protocol):
    """Finds the client certificate of a request."""

    def certificate(self, scope: Scope) -> bytes | None:
        """DER of the certificate that the peer has proven to hold, or None."""
        ...


class NativeTls:
    """The certificate of the TLS connection itself; no header is believed."""

    def certificate(self, scope: Scope) -> bytes | None:
        """As the TLS protocol left it in the connection's state."""
        certificate = scope.get("state", {}).get(PEER_CERTIFICATE)
        return certificate if isinstance(certificate, bytes) else None
