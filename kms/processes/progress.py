"""How far a worker's start has come and what the supervisor says, for `/readyz`."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kms.processes.children import ChildState
from kms.services.readiness import Check
from kms.services.system import CLOCK_TOLERANCE, SystemClock

_REMEDIES = {
    ChildState.PIN_REFUSED: "the token refused the PIN; it was tried once and is not tried again:"
    " put the right PIN in place, then start the service anew",
    ChildState.MISCONFIGURED: "the configuration is wrong, the log lines say where: mend it, then"
    " start the service anew",
}


@dataclass(slots=True)
class Progress:
    """Questions that only the worker's process can answer.

    Attributes:
        state: The supervisor's `state.json`.
        clock: The worker's.
        serving: Whether the API and the public listener accept requests.
    """

    state: Path
    clock: SystemClock
    serving: bool = False

    def checks(self) -> list[Check]:
        """Every question and its answer."""
        state = _state(self.state)
        refusal = _REMEDIES.get(_of(state, "signer"))
        return [
            Check("processes", ok=refusal is None, detail=refusal or _tokens(state)),
            Check("listeners", ok=self.serving, detail=self._listeners()),
            self._clock(),
        ]

    def _clock(self) -> Check:
        step = self.clock.step
        if abs(step) <= CLOCK_TOLERANCE:
            return Check("clock", ok=True, detail="it goes as the machine's uptime does")
        return Check(
            "clock",
            ok=False,
            detail=f"it was set {'forward' if step > 0 else 'back'} by {abs(step):.0f} s while the"
            f" service ran, which follows for {CLOCK_TOLERANCE:.0f} s only: set it right; if it is"
            " right now, start the service anew",
        )

    def _listeners(self) -> str:
        if self.serving:
            return "all accept requests"
        return (
            "the API and the public listener wait for the log to hold the policy and for the API's"
            " server certificate; both need the signer"
        )


def _state(path: Path) -> Any:
    """What `state.json` says; None where it says nothing."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None


def _of(state: Any, child: str) -> Any:
    """The state of a child; None where nothing is said of it."""
    try:
        return state[child]["state"]
    except (LookupError, TypeError):
        return None


def _tokens(state: Any) -> str:
    """What token processes have given up, a sentence each: the keys there may have replicas."""
    tokens = state.get("tokens", {}) if isinstance(state, dict) else {}
    given_up = [
        f"token {name}: {remedy}"
        for name in tokens
        if (remedy := _REMEDIES.get(_of(tokens, name))) is not None
    ]
    return "; ".join(given_up) or "none has given up"
