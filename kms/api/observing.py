"""What HTTP tells the metrics; `kms.metrics` implements it with Prometheus."""

from typing import Protocol


class HttpObserver(Protocol):
    """Receives facts about requests: templates and statuses, never ids."""

    def request_began(self, listener: str) -> None:
        """A request is being served."""
        ...

    def request_ended(
        self, listener: str, method: str, route: str, status: int, seconds: float
    ) -> None:
        """It was answered; status 0 when the client went away first."""
        ...


class SilentHttp:
    """An observer that keeps nothing."""

    def request_began(self, listener: str) -> None:
        """Nothing."""

    def request_ended(
        self, listener: str, method: str, route: str, status: int, seconds: float
    ) -> None:
        """Nothing."""
