"""TLS of the API listener: 1.3 only, a client certificate always, no resumption, live renewal.

The only trust anchor for clients is the infrastructure authority itself, not the root above it:
a device's certificate, issued beside it under the same root, cannot even finish a handshake.
Revocation is not TLS's business (an expired CRL must not lock out the officer who renews it): every
request is checked against the ledger.
"""

import ssl
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding


class _Telling(ssl.SSLObject):
    """One connection's TLS, which tells a refused peer why.

    uvloop throws away what OpenSSL has to say when a handshake fails: the alert. Said to want more,
    it sends that first. A peer that then neither closes nor says anything is given up in time.
    """

    _failure: ssl.SSLError | None = None

    def do_handshake(self) -> None:
        """One step.

        Raises:
            ssl.SSLError: It failed before.
            ssl.SSLWantReadError: Something has to be sent or read first.
        """
        if self._failure is not None:
            raise self._failure
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            self._failure = error
            raise ssl.SSLWantReadError from error


class ServerTls:
    """The server's TLS context; its certificate can be replaced while connections are open.

    Args:
        certificate: PEM file, the server's certificate and then those above it.
        key: PEM file of its private key, 0600.
        anchor: DER of the infrastructure authority's certificate.
    """

    def __init__(self, certificate: Path, key: Path, anchor: bytes) -> None:
        self._anchor = anchor
        self._current = self._make(certificate, key)
        # The listener keeps this outer context for good; it only picks the current inner one.
        self._outer = self._make(certificate, key)
        self._outer.sni_callback = self._pick
        self._outer.sslobject_class = _Telling

    @property
    def context(self) -> ssl.SSLContext:
        """What the listener is started with."""
        return self._outer

    def replace(self, certificate: Path, key: Path) -> None:
        """Use another certificate for all handshakes from now on.

        Raises:
            OSError: The files cannot be read or do not fit together (`ssl.SSLError`); the old
                certificate stays in use.
        """
        self._current = self._make(certificate, key)

    def _pick(self, connection: ssl.SSLObject, _name: str | None, _context: object) -> None:
        connection.context = self._current

    def _make(self, certificate: Path, key: Path) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        # TLS 1.2 resumes by session id, which Python cannot turn off, and a resumed session
        # carries a certificate that was verified long ago.
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.num_tickets = 0
        context.load_cert_chain(certificate, key)
        context.load_verify_locations(cadata=_pem(self._anchor))
        context.verify_mode = ssl.CERT_REQUIRED
        context.verify_flags |= ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN
        return context


def _pem(der: bytes) -> str:
    return x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM).decode()
