"""Where the worker's time goes: the service with a clock on the functions of every stage.

    stages.py serve --home DIR      the service; its worker carries the clock
    stages.py worker …              that worker, started by the supervisor

On SIGUSR1 the worker prints one line to standard error, `{"stages": {name: [seconds, calls]},
"cpu": seconds}`. Times are CPU time, without waiting. A stage's time is its own: what a stage
inside it takes is counted there only. What no stage takes (TLS, HTTP, the event loop) is the rest
of `cpu`.
"""

import argparse
import functools
import importlib
import json
import os
import signal
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
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
    "prove": ("kms.services.enrolment_proofs:EnrolmentProofs._prove",),
    "verify": (
        "kms.services.enrolment_proofs:verify_signature",
        "kms.services.enrolment_proofs:verify_mac",
    ),
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


def _serve(arguments: argparse.Namespace) -> int:
    from kms.bootstrap import probe  # noqa: PLC0415 - the worker needs none of this
    from kms.config import load  # noqa: PLC0415 - as above
    from kms.logs import configure  # noqa: PLC0415 - as above
    from kms.processes.pin import obtain_pin  # noqa: PLC0415 - as above
    from kms.processes.supervisor import Commands, serve  # noqa: PLC0415 - as above

    configure("supervisor")
    settings = load(arguments.home / "kms.toml")
    worker = (sys.executable, "-P", os.fspath(Path(__file__).resolve()), "worker")
    return serve(settings, obtain_pin(settings), probe, commands=Commands(worker=worker))


def _work(arguments: argparse.Namespace) -> int:
    from kms.bootstrap import run_worker  # noqa: PLC0415 - the supervisor needs none of this
    from kms.logs import configure  # noqa: PLC0415 - as above

    configure("worker")
    clock = StageClock()
    clock.install()
    signal.signal(signal.SIGUSR1, lambda *_: clock.tell())
    return run_worker(arguments)


def main() -> int:
    """Start what the command line names."""
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(required=True)
    served = commands.add_parser("serve")
    served.add_argument("--home", type=Path, required=True)
    served.set_defaults(run=_serve)
    worker = commands.add_parser("worker")
    worker.add_argument("--config", type=Path, required=True)
    worker.add_argument("--ready-fd", type=int, required=True)
    worker.set_defaults(run=_work)
    arguments = parser.parse_args()
    status: int = arguments.run(arguments)
    return status


if __name__ == "__main__":
    sys.exit(main())
