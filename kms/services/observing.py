"""What the use cases tell the metrics; `kms.metrics` implements it with Prometheus."""

from typing import Protocol

from hsm_drivers.ports import SignerHealth


class Observer(Protocol):
    """Receives facts, never ids or personal data."""

    def committed(self, units: int, events: int, seconds: float) -> None:
        """A group commit ended."""
        ...

    def signed_head(self, size: int, seconds: float) -> None:
        """A checkpoint was signed and stored."""
        ...

    def signed(self, statements: int, seconds: float, outcome: str) -> None:
        """A batch came back from the signer; `outcome` is `ok` or the error's code."""
        ...

    def issued(self, profile: str, algorithm: str, certificates: int = 1) -> None:
        """Certificates were released."""
        ...

    def revoked(self, kind: str, certificates: int) -> None:
        """A revocation took effect; `kind` is certificate, device or user."""
        ...

    def refused(self, problem: str) -> None:
        """A request was refused with that problem type."""
        ...

    def crl_published(self, authority: str, number: int, entries: int, this_update: float) -> None:
        """A CRL was published; `this_update` is a Unix time."""
        ...

    def orphans(self, count: int) -> None:
        """Signed but never committed statements were found and dealt with."""
        ...

    def signer_asked(self, health: SignerHealth | None) -> None:
        """The signer told how it is; None when it did not answer."""
        ...

    def waited(self, kind: str, seconds: float) -> None:
        """A call of that class had to wait for its turn, and had it or was refused."""
        ...

    def shed(self, kind: str, reason: str) -> None:
        """A call of that class was refused because too much was to be done."""
        ...


class Silent:
    """An observer that keeps nothing."""

    def committed(self, units: int, events: int, seconds: float) -> None:
        """Nothing."""

    def signed_head(self, size: int, seconds: float) -> None:
        """Nothing."""

    def signed(self, statements: int, seconds: float, outcome: str) -> None:
        """Nothing."""

    def issued(self, profile: str, algorithm: str, certificates: int = 1) -> None:
        """Nothing."""

    def revoked(self, kind: str, certificates: int) -> None:
        """Nothing."""

    def refused(self, problem: str) -> None:
        """Nothing."""

    def crl_published(self, authority: str, number: int, entries: int, this_update: float) -> None:
        """Nothing."""

    def orphans(self, count: int) -> None:
        """Nothing."""

    def signer_asked(self, health: SignerHealth | None) -> None:
        """Nothing."""

    def waited(self, kind: str, seconds: float) -> None:
        """Nothing."""

    def shed(self, kind: str, reason: str) -> None:
        """Nothing."""
