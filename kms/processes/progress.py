"""How far a worker's start has come and what the supervisor says, for `/readyz`."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kms.processes.children import ChildState
from kms.services.readiness import Check

_REMEDIES = {
    ChildState.PIN_REFUSED: "the token refused the PIN; it was tried once and is not tried again:"
    " put the right PIN in place, then start the service anew",
    ChildState.MISCONFIGURED: "the signer's configuration is wrong, its log lines say where:"
    " mend it, then start the service anew",
}


@dataclass(slots=True)
class Progress:
    """Questions that only the worker's process can answer.

    Attributes:
        state: The supervisor's `state.json`.
        serving: Whether the API and the public listener accept requests.
    """

    state: Path
    serving: bool = False

    def checks(self) -> list[Check]:
        """Both questions and their answers."""
        refusal = _REMEDIES.get(_signer_state(self.state))
        return [
            Check("processes", ok=refusal is None, detail=refusal or "none has given up"),
            Check("listeners", ok=self.serving, detail=self._listeners()),
        ]

    def _listeners(self) -> str:
        if self.serving:
            return "all accept requests"
        return (
            "the API and the public listener wait for the log to hold the policy and for the API's"
            " server certificate; both need the signer"
        )


def _signer_state(path: Path) -> Any:
    """What `state.json` says of the signer; None where it says nothing."""
    try:
        return json.loads(path.read_bytes())["signer"]["state"]
    except (OSError, ValueError, LookupError, TypeError):
        return None
