"""Where the worker's time goes: a clock on the functions of every stage.

`variant.py` puts it into a worker. On SIGUSR1 the worker prints one line to standard error,
`{"stages": {name: [seconds, calls]}, "cpu": seconds}`. Times are CPU time, without waiting. A
stage's time is its own: what a stage inside it takes is counted there only. What no stage takes
(TLS, HTTP, the event loop) is the rest of `cpu`.
"""

import functools
import importlib
import json
import signal
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

STAGES = {
    "parse": (
        "kms.api.middleware:screen_body",
        "kms.api.middleware:screen_target",
        "kms.api.enrolments:_try_order",
        "kms.api.enrolments:_try_proofs",
        "kms.api.enrolments:validated",
        "kms.services.idempotency:call",
    ),
    "decide": (
        "kms.services.enrolment_orders:EnrolmentOrders._decide",
        "kms.services.enrolment_orders:refuse_reuse",
    ),
    "keys": ("kms.services.key_checks:KeyChecks.accept",),
    "reserve": ("kms.services.enrolment_orders:EnrolmentOrders._reserve",),
    "transcript": ("kms.wire:Transcript.encode",),
    "challenge": ("kms.services.enrolment_orders:seal",),
    "prove": (
        "kms.services.enrolment_proofs:EnrolmentProofs._open",
        "kms.services.enrolment_proofs:EnrolmentProofs._conclude",
    ),
    "verify": ("kms.services.verifying:refusal", "kms.services.enrolment_proofs:verify_mac"),
    "build": (
        "pki.certificates:CertificateFactory.prepare",
        "pki.certificates:Prepared.complete",
    ),
    "event": ("kms.services.events:EventFactory.draft",),
    "plan": ("kms.services.enrolment_proofs:changes_of",),
    "answer": (
        "kms.services.enrolment_proofs:EnrolmentProofs._document",
        "kms.services.answers:AnswerSpec.encode",
        "kms.services.enrolment_proofs:render",
        "kms.services.enrolment_orders:render",
    ),
    "read": ("kms.storage.sql:SqlLedger.find", "kms.storage.sql:SqlLedger.get"),
    "commit (thread)": ("kms.storage.sql:SqlLedger.commit",),
    "note (thread)": ("kms.storage.sql:SqlLedger.store_note", "kms.storage.sql:SqlLedger.head"),
}
"""Stage to its functions, `module:name` or `module:Class.method`, as their callers find them."""


class StageClock:
    """Sums the time spent in each stage, nested stages subtracted, per thread."""

    def __init__(self) -> None:
        self.spent: defaultdict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
        self._local = threading.local()

    def measured(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, its time counted for the stage."""
        spent = self.spent[stage]

        @functools.wraps(function)
        def timed(*arguments: Any, **named: Any) -> Any:
            outer = getattr(self._local, "inner", 0.0)
            self._local.inner = 0.0
            started = time.thread_time()
            try:
                return function(*arguments, **named)
            finally:
                took = time.thread_time() - started
                spent[0] += took - self._local.inner
                spent[1] += 1
                self._local.inner = outer + took

        return timed

    def install(self) -> None:
        """Put the clock on every function of `STAGES`."""
        for stage, places in STAGES.items():
            for place in places:
                module, _, path = place.partition(":")
                owner: Any = importlib.import_module(module)
                *outer, name = path.split(".")
                for part in outer:
                    owner = getattr(owner, part)
                setattr(owner, name, self.measured(stage, getattr(owner, name)))

    def tell(self) -> None:
        """Print the sums so far."""
        print(
            json.dumps({"stages": dict(self.spent), "cpu": time.process_time()}),
            file=sys.stderr,
            flush=True,
        )


def install() -> None:
    """Put a clock on this worker; SIGUSR1 makes it tell."""
    clock = StageClock()
    clock.install()
    signal.signal(signal.SIGUSR1, lambda *_: clock.tell())
