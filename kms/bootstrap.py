"""The only composition root: settings in, running parts out.

`python -m kms.bootstrap signer|worker` are the children that the supervisor starts. Imports of the
PKCS#11 driver happen in the signer's branch alone, so a worker never loads a module (P6).
"""

import argparse
import asyncio
import contextlib
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path
from time import monotonic, time
from typing import TypeVar

import structlog

from hsm_drivers.client import SignerClient
from hsm_drivers.errors import HsmError, PinRefusedError
from hsm_drivers.hardening import HardeningError, harden
from hsm_drivers.ports import (
    KeyLabel,
    Purpose,
    ServiceKeys,
    StatementChecker,
    StatementSigner,
)
from kms.api.problems import describe
from kms.backup.marker import log_restore
from kms.config import ConfigError, load
from kms.domain.records import Epoch, Event
from kms.logs import configure
from kms.processes.accounts import refuse_foreign
from kms.processes.children import EXIT_MISCONFIGURED, EXIT_PIN_REFUSED
from kms.processes.home import home_lock
from kms.processes.pin import Pin
from kms.processes.signer_process import temporary_signer
from kms.services.ceremony import (
    FIRST_LOG,
    Ceremony,
    CeremonyReport,
    activate_policy,
    open_log,
)
from kms.services.ceremony_plan import Plan
from kms.services.checkpoint_checker import check_checkpoint, check_cosignature
from kms.services.core import AuthoritySet, Core, Limits
from kms.services.cosigner import Cosigner, find_cosigner
from kms.services.crls import SERVICE
from kms.services.epochs import Loss, continue_log, find_loss, open_next_epoch
from kms.services.errors import SignerUnavailableError
from kms.services.events import EventFactory
from kms.services.facade import Services, compose
from kms.services.keys.specs import make_cosigner
from kms.services.observing import Observer, Silent
from kms.services.ports import Clock, Ledger, LedgerUnavailableError
from kms.services.sequencer import Sequencer
from kms.services.signing import SharedKeys, SharedSigner
from kms.services.system import SystemClock, SystemIds
from kms.services.verifying import InlineVerifier, SignatureVerifier
from kms.settings import Settings
from kms.storage.dialect import database_path
from kms.storage.migrate import migrate
from kms.storage.sql import SqlLedger
from kms.tlog.notes import VerifierKey
from pki.checkers import check_certificate, check_crl
from pki.weak_keys import Blocklist, open_blocklist
from policies.policy import Policy, PolicyError, shipped
from policies.policy import load as load_policy

CHECKERS: dict[Purpose, StatementChecker] = {
    Purpose.CERTIFICATE: check_certificate,
    Purpose.CRL: check_crl,
    Purpose.CHECKPOINT: check_checkpoint,
    Purpose.COSIGNATURE: check_cosignature,
}
"""What the signer checks statements with; drivers know nothing of X.509 or of logs."""

PROBE_SECONDS = 2.0
TOKENS_SECONDS = 15.0
"""How long a local command waits for tokens whose processes have just been started."""

T = TypeVar("T")

_log = structlog.get_logger()


class NotFoundedError(ConfigError):
    """The ceremony has not been held."""


class NoLedgerError(ConfigError):
    """The settings name a database that is not there."""


def policy(settings: Settings) -> Policy:
    """The policy that the settings name.

    Raises:
        ConfigError: It cannot be read, or breaks the rules of policies.
    """
    try:
        if settings.policy_path is None:
            return shipped(settings.policy)
        return load_policy(settings.policy_path.read_bytes())
    except (PolicyError, OSError) as error:
        raise ConfigError(f"{settings.path}: policy: {error}") from error


def blocklists(settings: Settings) -> tuple[Blocklist, ...]:
    """The lists of compromised keys that the settings name; none is fine, `doctor` warns.

    Raises:
        ConfigError: The directory holds no list.
    """
    directory = settings.weak_keys.blocklist
    if directory is None:
        return ()
    try:
        return (open_blocklist(directory),)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{settings.path}: weak_keys.blocklist: {error}") from error


def make_ledger(settings: Settings) -> None:
    """The empty ledger of a new home; one that is there is kept.

    Raises:
        ConfigError: Its directory is a link, or someone else's.
        LedgerUnavailableError: It cannot be made.
    """
    settings.data_dir.mkdir(mode=0o700, exist_ok=True)
    refuse_foreign(database_path(settings.database_url).parent, settings)
    migrate(settings.database_url, create=True)


def open_ledger(settings: Settings) -> SqlLedger:
    """The ledger, its schema brought up to date.

    Raises:
        NoLedgerError: There is none.
        ConfigError: Its directory is a link, or someone else's.
        LedgerUnavailableError: It cannot be used.
    """
    path = database_path(settings.database_url)
    if not path.exists():
        raise NoLedgerError(
            f"there is no ledger at {path}: restore it, or mend database.url in {settings.path}; "
            "only `kms init` makes one, for a new home"
        )
    refuse_foreign(path.parent, settings)
    migrate(settings.database_url)
    return SqlLedger(settings.database_url)


def probe(path: Path) -> bool:
    """Whether the signer behind a socket answers, within `PROBE_SECONDS`."""

    async def ask() -> bool:
        client = SignerClient(path, timeout=PROBE_SECONDS)
        try:
            await client.keys()
        except HsmError:
            return False
        finally:
            await client.aclose()
        return True

    return asyncio.run(ask())


class TokensProbe:
    """`probe` for a local command, which cannot try again later as a service does.

    It says yes once the signer answers and each token does, or has had its time to.
    """

    def __init__(self) -> None:
        self._until: float | None = None

    def __call__(self, path: Path) -> bool:
        """Whether the command may begin."""
        well = asyncio.run(self._ask(path))
        if well is None:
            return False
        if self._until is None:
            self._until = monotonic() + TOKENS_SECONDS
        return well or monotonic() > self._until

    async def _ask(self, path: Path) -> bool | None:
        client = SignerClient(path, timeout=PROBE_SECONDS)
        try:
            return all(token.healthy for token in await client.tokens())
        except HsmError:
            return None
        finally:
            await client.aclose()


def build_core(
    settings: Settings,
    ledger: Ledger,
    signer: StatementSigner,
    keys: ServiceKeys,
    epoch: Epoch,
    executor: ThreadPoolExecutor,
    observer: Observer,
    verifier: SignatureVerifier | None = None,
    clock: Clock | None = None,
    cosigner: Cosigner | None = None,
) -> Core:
    """Everything the use cases need, over one ledger and one signer.

    Proofs are verified in this process, the clock is the machine's, and the log's cosigner the one
    that the ledger knows, unless others are given.
    """
    ids, clock = SystemIds(), clock or SystemClock()
    vkey = VerifierKey.parse(epoch.vkey)
    cosigner = cosigner or find_cosigner(ledger, epoch, clock.now)
    sequencer = Sequencer(ledger, signer, KeyLabel(epoch.key), vkey, executor, observer, cosigner)
    sequencer.load()
    authorities = AuthoritySet(ledger, settings.public_url)
    authorities.load()
    return Core(
        ledger=ledger,
        signer=signer,
        keys=keys,
        sequencer=sequencer,
        clock=clock,
        ids=ids,
        policy=policy(settings),
        events=EventFactory(epoch.origin, ids, latest_time(ledger)),
        authorities=authorities,
        observer=observer,
        limits=Limits(
            batch=settings.limits.batch_items,
            enrolment_ttl=timedelta(seconds=settings.limits.enrolment_seconds),
            crl_validity=timedelta(seconds=settings.limits.crl_validity_seconds),
            crl_interval=timedelta(seconds=settings.limits.crl_interval_seconds),
            keep_answers=timedelta(days=settings.limits.idempotency_days),
            destruction=timedelta(days=settings.signer.destruction_days),
        ),
        verifier=verifier or InlineVerifier(),
        describe=describe,
    )


def latest_time(ledger: Ledger) -> datetime | None:
    """When the newest event happened; None in an empty epoch."""
    head = ledger.head()
    newest = None if head is None else ledger.get(Event, head.log, head.size - 1)
    return None if newest is None else newest.time


def current_epoch(ledger: Ledger) -> Epoch:
    """The epoch that the log is in.

    Raises:
        NotFoundedError: The log has not been opened, or has no first event yet.
    """
    head = ledger.head()
    epoch = None if head is None else ledger.get(Epoch, head.log)
    if head is None or epoch is None:
        raise NotFoundedError(
            "this home has no log yet: hold the ceremony, `kms authority ceremony --home DIR`"
        )
    if not head.size:
        command = "authority ceremony" if head.log == FIRST_LOG else "log new-epoch"
        raise NotFoundedError(
            f"the beginning of {epoch.origin} was interrupted: end it with `kms {command}`"
        )
    return epoch


@contextlib.asynccontextmanager
async def open_services(
    settings: Settings,
    socket_path: Path,
    observer: Observer,
    verifier: SignatureVerifier | None = None,
    clock: Clock | None = None,
) -> AsyncIterator[Services]:
    """The use cases over the home's ledger and a running signer.

    Raises:
        NotFoundedError: The ceremony has not been held.
    """
    async with _token_and_ledger(settings, socket_path) as (client, ledger, executor):
        epoch = current_epoch(ledger)
        signer = SharedSigner(client, observer)
        keys = SharedKeys(client)
        core = build_core(
            settings, ledger, signer, keys, epoch, executor, observer, verifier, clock
        )
        services = compose(core, blocklists(settings))
        services.crls.load()
        yield services
        await core.sequencer.drain()


async def refresh_policy(services: Services) -> None:
    """Log the configured policy as the one in force, unless it is already.

    Raises:
        KmsError: It could not be logged; nothing may be decided under it yet.
    """
    if await activate_policy(services.core, SERVICE.name):
        _log.info("policy.activated", policy=services.core.policy.name)


@contextlib.asynccontextmanager
async def local_services(settings: Settings, pin: Pin) -> AsyncIterator[Services]:
    """The use cases for a local command: the home is held, a signer runs for as long.

    Raises:
        HomeBusyError: A service or another command is at work.
        PinError: The token refused the PIN.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(home_lock(settings))
        started = temporary_signer(settings, pin, TokensProbe(), ceremony=False)
        path = await asyncio.to_thread(stack.enter_context, started)  # it probes in its own loop
        async with open_services(settings, path, Silent()) as services:
            await services.upkeep.recover()
            await log_restore(services.core, settings.data_dir)
            yield services


def hold_ceremony(
    settings: Settings,
    pin: Pin,
    plan: Plan,
    officers: Sequence[str],
    progress: Callable[[str], None],
) -> CeremonyReport:
    """Hold, or continue, the ceremony of a home.

    Raises:
        KmsError: A step failed; call again to continue.
        ConfigError: Home or token are not to be had.
    """

    async def hold(path: Path) -> CeremonyReport:
        async with _token_and_ledger(settings, path) as (client, ledger, executor):
            clock, chosen = SystemClock(), policy(settings)
            epoch = await open_log(ledger, client, plan, executor, chosen, clock.now())
            cosigner = await make_cosigner(client, plan, epoch, chosen, clock.now)
            core = build_core(
                settings, ledger, client, client, epoch, executor, Silent(), cosigner=cosigner
            )
            return await Ceremony(core, plan, officers, progress).hold(epoch)

    return _in_ceremony(settings, pin, hold)


def extend_home(
    settings: Settings,
    pin: Pin,
    plan: Plan,
    officers: Sequence[str],
    progress: Callable[[str], None],
) -> CeremonyReport:
    """Add what the plan names to a home that had its first ceremony.

    Raises:
        KmsError: A step failed; call again to continue.
        ConfigError: Home or token are not to be had.
    """

    async def extend(path: Path) -> CeremonyReport:
        async with _token_and_ledger(settings, path) as (client, ledger, executor):
            epoch, chosen = current_epoch(ledger), policy(settings)
            cosigner = await make_cosigner(client, plan, epoch, chosen, SystemClock().now)
            core = build_core(
                settings, ledger, client, client, epoch, executor, Silent(), cosigner=cosigner
            )
            return await Ceremony(core, plan, officers, progress).extend(epoch)

    return _in_ceremony(settings, pin, extend)


def in_ceremony(
    settings: Settings, pin: Pin, work: Callable[[Core, SignerClient], Awaitable[T]]
) -> T:
    """Let the use cases of a home work over a signer in ceremony mode.

    Raises:
        KmsError: As the work says.
        ConfigError: Home or token are not to be had.
    """

    async def run(path: Path) -> T:
        async with _token_and_ledger(settings, path) as (client, ledger, executor):
            epoch = current_epoch(ledger)
            core = build_core(settings, ledger, client, client, epoch, executor, Silent())
            return await work(core, client)

    return _in_ceremony(settings, pin, run)


def begin_epoch(
    settings: Settings,
    pin: Pin,
    officers: Sequence[str],
    reason: str,
    agree: Callable[[Loss], None],
) -> Epoch:
    """Continue a log that lost events in a new epoch, or end a beginning that was interrupted.

    Args:
        settings: Of the home.
        pin: Of its token.
        officers: Who is present; two at least.
        reason: Why, in a sentence without personal data.
        agree: Told what was lost before anything is done; ends the command by raising.

    Raises:
        KmsError: Nothing was lost, or fewer than two officers are present.
        ConfigError: Home or token are not to be had.
    """

    async def begin(path: Path) -> Epoch:
        async with _token_and_ledger(settings, path) as (client, ledger, executor):
            loss = await find_loss(ledger, client)
            agree(loss)
            epoch = await open_next_epoch(ledger, client, executor, loss)
            core = build_core(settings, ledger, client, client, epoch, executor, Silent())
            await continue_log(core, loss, officers, reason)
            return epoch

    return _in_ceremony(settings, pin, begin)


def _in_ceremony(settings: Settings, pin: Pin, work: Callable[[Path], Awaitable[T]]) -> T:
    """Hold the home, start a signer in ceremony mode, do the work, stop the signer."""

    async def run(path: Path) -> T:
        return await work(path)

    with home_lock(settings), temporary_signer(settings, pin, TokensProbe(), ceremony=True) as path:
        return asyncio.run(run(path))


@contextlib.asynccontextmanager
async def _token_and_ledger(
    settings: Settings, path: Path
) -> AsyncIterator[tuple[SignerClient, SqlLedger, ThreadPoolExecutor]]:
    ledger, client = open_ledger(settings), SignerClient(path)
    try:
        with ThreadPoolExecutor(1, thread_name_prefix="commit") as executor:
            yield client, ledger, executor
    finally:
        await client.aclose()
        ledger.close()


def signing_rates(settings: Settings) -> dict[Purpose, int]:
    """Statements of each purpose that one key signs in an hour."""
    signer = settings.signer
    return {
        Purpose.CERTIFICATE: signer.certificates_per_hour,
        Purpose.CRL: signer.crls_per_hour,
        Purpose.CHECKPOINT: signer.checkpoints_per_hour,
        Purpose.COSIGNATURE: signer.checkpoints_per_hour,
    }


def run_signer(arguments: argparse.Namespace) -> int:
    """Own the token and serve statements until SIGTERM; answers the exit status."""
    from hsm_drivers.rates import HOUR, Rates  # noqa: PLC0415 - P6: in the signer's branch alone
    from hsm_drivers.service.keyring import ServiceLimits  # noqa: PLC0415 - as above
    from hsm_drivers.signer import serve  # noqa: PLC0415 - as above
    from hsm_drivers.state import SignerState  # noqa: PLC0415 - as above
    from kms.processes.opening import open_tokens  # noqa: PLC0415 - as above

    harden()
    settings = load(arguments.config)
    listener = socket.socket(fileno=arguments.socket_fd)
    with contextlib.closing(SignerState(settings.signer_state)) as state:
        signed = state.journal.signed_since(int(time()) - HOUR)
        rates = Rates(signing_rates(settings), signed)
        with contextlib.closing(open_tokens(settings, state, arguments.pin_fd)) as tokens:
            serve(
                tokens,
                CHECKERS,
                state,
                listener,
                ceremony=arguments.ceremony,
                allowed_uids=frozenset(arguments.allow_uid),
                now=SystemClock(arguments.clock_base).now,
                rates=rates,
                limits=ServiceLimits(
                    timedelta(days=settings.signer.destruction_days),
                    settings.signer.service_keys_per_hour,
                ),
            )
    return 0


def run_worker(arguments: argparse.Namespace) -> int:
    """Serve requests until SIGTERM; answers the exit status.

    Under the operator's own user it stays open to inspection, so that `kms doctor` can tell what it
    has loaded; that user can read the worker's files anyway.
    """
    from kms.processes.worker import work  # noqa: PLC0415 - signers need no web framework

    harden(closed=arguments.own_user)
    clock = SystemClock(arguments.clock_base)
    return work(load(arguments.config), arguments.ready_fd, clock)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="kms.bootstrap")
    children = parser.add_subparsers(dest="child", required=True)
    signer = children.add_parser("signer")
    signer.add_argument("--config", type=Path, required=True)
    signer.add_argument("--socket-fd", type=int, required=True)
    signer.add_argument("--pin-fd", type=int)
    signer.add_argument("--ceremony", action="store_true")
    signer.add_argument("--allow-uid", type=int, action="append", required=True)
    signer.add_argument("--clock-base", type=float)
    signer.set_defaults(run=run_signer)
    worker = children.add_parser("worker")
    worker.add_argument("--config", type=Path, required=True)
    worker.add_argument("--ready-fd", type=int, required=True)
    worker.add_argument(
        "--own-user", action="store_true", help="nobody else's process runs as this user"
    )
    worker.add_argument("--clock-base", type=float)
    worker.set_defaults(run=run_worker)
    return parser


def main() -> int:
    """Entry of child processes."""
    arguments = _parser().parse_args()
    configure(arguments.child)
    try:
        status: int = arguments.run(arguments)
    except PinRefusedError as error:
        _log.error("signer.pin-refused", detail=str(error))
        return EXIT_PIN_REFUSED
    except ConfigError as error:
        _log.error(f"{arguments.child}.misconfigured", detail=str(error))
        return EXIT_MISCONFIGURED
    except (HsmError, SignerUnavailableError, LedgerUnavailableError, HardeningError) as error:
        _log.error(f"{arguments.child}.ended", detail=str(error))
        return 1
    return status


if __name__ == "__main__":
    sys.exit(main())
