"""The worker: the process that parses requests. No PIN, no PKCS#11 module (P6).

start   ledger → operator's listener → log's epoch → sign what a crash left unsigned → TLS
        certificate → API and public listener
stop    SIGTERM: these answer what they accepted, the sequencer drains, the operator's ends last
"""

import asyncio
import contextlib
import gc
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable

import structlog

from kms.api.app import HttpLimits, create_api
from kms.api.operator import create_operator
from kms.api.public import create_public
from kms.api.server import Listener, capture_server_log, run, serve
from kms.api.tls import ServerTls
from kms.backup.errors import BackupError
from kms.backup.marker import log_restore
from kms.bootstrap import open_services, refresh_policy
from kms.metrics import Metrics
from kms.processes.progress import Progress
from kms.processes.tls_keeper import TlsKeeper
from kms.processes.verifier import verifier_process
from kms.resources import Disks, LoopWatch, Open
from kms.services.core import INFRASTRUCTURE
from kms.services.errors import KmsError
from kms.services.facade import Services
from kms.services.maintenance import Maintenance
from kms.services.system import SystemClock
from kms.services.turns import ROOMS, Admission, CallClass, Room
from kms.settings import Settings

RETRY_SECONDS = 1.0
RESTORE_RETRY_SECONDS = 5.0
_NEW_OBJECTS = 100_000
"""Container objects made before the garbage collector looks at them; a batch makes more."""

_log = structlog.get_logger()


def work(settings: Settings, ready_fd: int, clock: SystemClock) -> int:
    """Serve until SIGTERM; answers the exit status."""
    capture_server_log()
    return run(_work(settings, ready_fd, clock))


async def _work(settings: Settings, ready_fd: int, clock: SystemClock) -> int:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    metrics = Metrics()
    async with (
        verifier_process() as verifier,
        open_services(settings, settings.signer_socket, metrics, verifier, clock) as services,
    ):
        metrics.watch(services)
        progress = Progress(settings.run_dir / "state.json", clock)
        operator = _operator_listener(settings, services, metrics, progress)
        loop = LoopWatch(metrics.registry)
        metrics.registry.register(Disks(settings))
        async with (
            _served(operator),
            _background(loop.run),
            _background(Maintenance(services).run),
        ):
            if await _first(stop, _prepare(settings, services)):
                await _serve(settings, services, metrics, progress, stop, ready_fd)
    return 0


@contextlib.asynccontextmanager
async def _served(listener: Listener) -> AsyncIterator[None]:
    """Serve for as long as the block lasts.

    Raises:
        OSError: The address cannot be bound.
    """
    up, over = asyncio.Event(), asyncio.Event()
    serving = asyncio.create_task(serve([listener], over, ready=lambda _: up.set()))
    is_up = asyncio.create_task(up.wait())
    await asyncio.wait({serving, is_up}, return_when=asyncio.FIRST_COMPLETED)
    is_up.cancel()
    try:
        if up.is_set():
            yield
    finally:
        over.set()
        await serving


async def _first(stop: asyncio.Event, work: Awaitable[None]) -> bool:
    """Whether the work was done before a stop was asked for."""
    done, stopped = asyncio.ensure_future(work), asyncio.create_task(stop.wait())
    await asyncio.wait({done, stopped}, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if done.done():
        await done
        return True
    done.cancel()
    return False


async def _prepare(settings: Settings, services: Services) -> None:
    """Recover as far as the signer allows; without it revocations and reading go on.

    Only a policy that the log does not know yet is waited for: nothing may be decided under it.
    """
    try:
        await services.upkeep.recover()
        await log_restore(services.core, settings.data_dir)
    except (KmsError, BackupError) as error:
        _log.warning("worker.not-recovered", detail=str(error))
    while True:
        try:
            await refresh_policy(services)
        except KmsError as error:
            _log.warning("worker.policy-not-logged", detail=str(error))
            await asyncio.sleep(RETRY_SECONDS)
        else:
            return


async def _tell_restore(settings: Settings, services: Services) -> None:
    """Log a restore that could not be logged at first, as soon as that can be done."""
    while True:
        with contextlib.suppress(KmsError, BackupError):
            await log_restore(services.core, settings.data_dir)
            return
        await asyncio.sleep(RESTORE_RETRY_SECONDS)


async def _serve(
    settings: Settings,
    services: Services,
    metrics: Metrics,
    progress: Progress,
    stop: asyncio.Event,
    ready_fd: int,
) -> None:
    anchor = services.core.authorities[INFRASTRUCTURE].record.certificate
    current: list[ServerTls] = []

    def renewed() -> None:
        for tls in current:
            tls.replace(keeper.certificate, keeper.key)

    keeper = TlsKeeper(settings, services, renewed)
    if not await _first(stop, keeper.ensure()):
        return
    current.append(ServerTls(keeper.certificate, keeper.key, anchor))
    limits = HttpLimits(settings.limits.max_body_bytes, settings.limits.concurrency)
    admission = Admission(_rooms(settings), metrics)
    metrics.watch_admission(admission)
    connections = Open()
    metrics.registry.register(connections)
    async with _background(keeper.run), _background(lambda: _tell_restore(settings, services)):
        await serve(
            _listeners(settings, services, metrics, limits, admission, current[0]),
            stop,
            ready=lambda _ports: _say_ready(progress, ready_fd),
            watch=connections.watch,
            drain_seconds=settings.limits.drain_seconds,
        )


def _rooms(settings: Settings) -> dict[CallClass, Room]:
    """The places that the settings give each class; how large bodies may be is not theirs."""
    given = settings.admission
    brief, long = float(given.wait_seconds), float(given.long_wait_seconds)
    wanted = {
        CallClass.REVOCATION: (given.revocations, given.revocations_waiting, long),
        CallClass.ADMINISTRATION: (given.administration, given.administration_waiting, long),
        CallClass.ENROLMENT: (given.enrolments, given.enrolments_waiting, brief),
        CallClass.BATCH: (given.batches, given.batches_waiting, long),
        CallClass.KEY_USE: (given.key_uses, given.key_uses_waiting, brief),
        CallClass.READING: (given.readings, given.readings_waiting, brief),
    }
    return {kind: Room(*numbers, body=ROOMS[kind].body) for kind, numbers in wanted.items()}


def _listeners(
    settings: Settings,
    services: Services,
    metrics: Metrics,
    limits: HttpLimits,
    admission: Admission,
    tls: ServerTls,
) -> list[Listener]:
    api, public = settings.listeners.api, settings.listeners.public
    return [
        Listener(
            "api",
            create_api(services, limits, admission=admission, observer=metrics),
            api.host,
            api.port,
            tls=tls.context,
        ),
        Listener(
            "public",
            create_public(services, limits, observer=metrics),
            public.host,
            public.port,
        ),
    ]


def _operator_listener(
    settings: Settings, services: Services, metrics: Metrics, progress: Progress
) -> Listener:
    address = settings.listeners.operator
    app = create_operator(services, metrics.registry, progress.checks)
    return Listener("operator", app, address.host, address.port)


def _say_ready(progress: Progress, ready_fd: int) -> None:
    """Tell operators and supervisor that every listener accepts connections."""
    progress.serving = True
    _settle()
    os.write(ready_fd, b"ready\n")
    os.close(ready_fd)


def _settle() -> None:
    """Keep the garbage collector from going through what start-up made, again and again.

    Requests leave hardly any cycles: almost all they make is gone before it comes to look.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_NEW_OBJECTS, *gc.get_threshold()[1:])


@contextlib.asynccontextmanager
async def _background(work: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    """Keep something running for as long as the block lasts."""
    task = asyncio.ensure_future(work())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
