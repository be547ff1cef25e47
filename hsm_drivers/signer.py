"""The signer process: one thread, one token, a Unix socket (DESIGN section 3).

Whoever starts it binds the socket, opens driver and state, and calls `serve`:

    tokens = SingleToken(Pkcs11Driver(module, label, pin))
    with SignerState(directory) as state:
        serve(tokens, checkers, state, listener, ceremony=False, allowed_uids=frozenset({uid}))
    tokens.close()

The PKCS#11 module sees one thread only. A batch is signed whole before the next begins, but in
slices: between them others are told what they ask, so that a large batch on a slow token does not
look like a wedged signer. A stop (SIGTERM, SIGINT) comes between batches.
"""

import contextlib
import errno
import logging
import math
import selectors
import socket
import struct
import time
from collections import deque
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import assert_never

from hsm_drivers import frames
from hsm_drivers.core import SignerCore, utc_now
from hsm_drivers.errors import HsmError, UnsupportedError
from hsm_drivers.ports import KeySpec, Purpose, Statement, StatementChecker
from hsm_drivers.rates import Rates
from hsm_drivers.service.keyring import ServiceLimits
from hsm_drivers.state import SignerState
from hsm_drivers.stopping import stop_signals
from hsm_drivers.tokens import Tokens

_log = logging.getLogger(__name__)

MAX_CONNECTIONS = 64
_READ_SIZE = 256 * 1024
_LAST_WORDS_S = 2.0
"""How long a stopping signer lets its clients take their answers."""
_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_REST_S = 0.2
"""How long nobody is let in once there was no descriptor for it; they wait in the backlog."""
_PEER_CREDENTIALS = struct.Struct("3i")
"""struct ucred: pid, uid, gid (unix(7))."""


def serve(
    tokens: Tokens,
    checkers: Mapping[Purpose, StatementChecker],
    state: SignerState,
    listener: socket.socket,
    *,
    ceremony: bool,
    allowed_uids: frozenset[int],
    rates: Rates | None = None,
    now: Callable[[], datetime] = utc_now,
    limits: ServiceLimits | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT; the batch at hand is finished and answered first.

    Must run in the main thread, the one that opened the driver.

    Args:
        tokens: What keys live on; stay open.
        checkers: What judges statements, per purpose.
        state: Owned by this process; stays open.
        listener: A bound, listening Unix socket; stays open.
        ceremony: Whether keys may be made.
        allowed_uids: Users whose processes may connect (SO_PEERCRED); others are closed at once.
        rates: How much each key signs; without them, as much as is asked for.
        now: Clock, as `SignerCore` has it.
        limits: On service keys.
    """
    core = SignerCore(
        tokens, checkers, state, ceremony=ceremony, now=now, rates=rates, limits=limits
    )
    with stop_signals() as stop:
        _Server(core, listener, stop, allowed_uids).run()


Question = (
    frames.ReadKeys
    | frames.ReadAttributes
    | frames.ReadJournal
    | frames.ReadHealth
    | frames.ReadTokens
)
"""What is answered at once, in the middle of a batch too."""
Change = (
    frames.Generate
    | frames.SealJournal
    | frames.Narrow
    | frames.ScheduleDestruction
    | frames.CancelDestruction
    | frames.Destroy
    | frames.Replicate
    | frames.Move
)
Batch = frames.Sign | frames.Use
Order = Batch | Change
"""What is done in turn, one at a time."""


def answer(core: SignerCore, request: Question | Change) -> frames.Answer:
    """Do what is asked; errors are answers too."""
    try:
        return _answer(core, request)
    except HsmError as error:
        return frames.Failed(request.id, frames.refusal(error))


def _answer(core: SignerCore, request: Question | Change) -> frames.Answer:
    if isinstance(request, Question):
        return _told(core, request)
    return _changed(core, request)


def _told(core: SignerCore, request: Question) -> frames.Answer:
    match request:
        case frames.ReadKeys():
            return frames.KeysRead(request.id, *core.keys_after(request.after, request.limit))
        case frames.ReadAttributes():
            return frames.AttributesRead(request.id, core.attributes(request.label))
        case frames.ReadJournal():
            return frames.JournalRead(request.id, core.journal(request.after, request.limit))
        case frames.ReadHealth():
            return frames.HealthRead(request.id, core.health())
        case frames.ReadTokens():
            return frames.TokensRead(request.id, core.service.tokens())
        case _:
            assert_never(request)


def _changed(core: SignerCore, request: Change) -> frames.Answer:
    match request:
        case frames.Generate():
            return frames.Generated(request.id, core.generate(_spec(request)))
        case frames.SealJournal():
            return frames.JournalSealed(request.id, core.seal_journal(request.label))
        case frames.Replicate(label=label, token=token, how=how, trusted=trusted):
            return frames.Generated(request.id, core.replicas.add(label, token, how, trusted))
        case frames.Move():
            return frames.Generated(request.id, core.replicas.move(request.label, request.token))
        case frames.Narrow():
            core.service.narrow(request.label, request.operations)
        case frames.ScheduleDestruction():
            core.service.schedule_destruction(request.label, request.at)
        case frames.CancelDestruction():
            core.service.cancel_destruction(request.label)
        case frames.Destroy():
            return frames.Destroyed(request.id, core.service.destroy(request.label))
        case _:
            assert_never(request)
    return frames.Changed(request.id)


def _spec(request: frames.Generate) -> KeySpec:
    return KeySpec(
        request.label,
        request.algorithm,
        request.purposes,
        request.constraints,
        request.ceremony_only,
        request.operations,
        request.token,
        request.components,
    )


def carry_out(core: SignerCore, order: Order) -> Generator[None, None, frames.Answer]:
    """Do what is ordered, with the pauses of `SignerCore.signing`; its value is the answer."""
    match order:
        case frames.Sign():
            return (yield from _signed(core, order))
        case frames.Use():
            return (yield from _used(core, order))
        case _:
            return answer(core, order)


def _signed(core: SignerCore, order: frames.Sign) -> Generator[None, None, frames.Answer]:
    statements = [
        Statement(item.key, item.purpose, item.message, item.evidence) for item in order.statements
    ]
    outcomes = yield from core.signing(statements)
    return frames.Signed(
        order.id,
        [
            outcome if isinstance(outcome, bytes) else frames.refusal(outcome)
            for outcome in outcomes
        ],
    )


def _used(core: SignerCore, order: frames.Use) -> Generator[None, None, frames.Answer]:
    outcomes = yield from core.service.using(order.calls)
    return frames.Used(
        order.id,
        [
            frames.Undone(frames.refusal(outcome))
            if isinstance(outcome, HsmError)
            else frames.Done(outcome)
            for outcome in outcomes
        ],
    )


class _Connection:
    """One client: what it sent and is not yet answered, what it has not yet taken."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.received = frames.FrameBuffer()
        self.pending = bytearray()
        self.ordered = False
        """Whether an order of it is not yet done."""

    def receive(self) -> None:
        """Take what has come."""
        data = self.sock.recv(_READ_SIZE)
        if not data:
            raise ConnectionResetError
        self.received.feed(data)

    def flush(self) -> None:
        """Send what the client takes now."""
        with contextlib.suppress(BlockingIOError):
            while self.pending:
                del self.pending[: self.sock.send(self.pending)]


@dataclass(slots=True)
class _Work:
    """An order of a connection, and how far it is."""

    connection: _Connection
    steps: Generator[None, None, frames.Answer]
    begun: bool = False


class _Server:
    """The loop: each turn answers a question of every connection and does a slice of the orders.

    Nothing is read from a connection while a request of it waits or an answer is not taken, so
    that a client can fill no more than one frame of memory and gets its answers in order.
    """

    def __init__(
        self,
        core: SignerCore,
        listener: socket.socket,
        stop: socket.socket,
        allowed_uids: frozenset[int],
    ) -> None:
        self._core = core
        self._listener = listener
        self._stop = stop
        self._allowed = allowed_uids
        self._selector = selectors.DefaultSelector()
        self._connections: set[_Connection] = set()
        self._backlog: deque[_Connection] = deque()
        self._orders: deque[_Work] = deque()
        self._resting_until = math.inf
        self._tend_at = 0.0

    def run(self) -> None:
        """Until told to stop."""
        self._listener.setblocking(False)
        self._selector.register(self._stop, selectors.EVENT_READ)
        self._selector.register(self._listener, selectors.EVENT_READ)
        try:
            while self._turn():
                pass
        finally:
            self._close_all()

    def _turn(self) -> bool:
        """Move bytes, answer questions, go on with the first order; False once told to stop."""
        for key, _ in self._selector.select(self._patience()):
            if key.fileobj is self._stop:
                self._finish()
                return False
            if key.fileobj is self._listener:
                self._accept()
            elif not (key.data.ordered or key.data in self._backlog):
                self._guarded(self._transfer, key.data)
        for _ in range(len(self._backlog)):
            self._guarded(self._take_next, self._backlog.popleft())
        if self._orders:
            self._work()
        if time.monotonic() >= self._tend_at:
            self._tend_at = time.monotonic() + self._core.tend()
        if time.monotonic() >= self._resting_until:
            self._resting_until = math.inf
            self._selector.register(self._listener, selectors.EVENT_READ)
        return True

    def _patience(self) -> float | None:
        """Seconds to wait for something to happen; None for as long as it takes."""
        if self._backlog or self._orders:
            return 0
        wake = min(self._resting_until, self._tend_at)
        return None if wake == math.inf else max(0.0, wake - time.monotonic())

    def _work(self) -> bool:
        """A slice of the first order; True once that is done and answered."""
        work = self._orders[0]
        work.begun = True
        try:
            next(work.steps)
        except StopIteration as done:
            reply: frames.Answer = done.value
        else:
            return False
        self._orders.popleft()
        work.connection.ordered = False
        self._guarded(lambda connection: self._reply(connection, reply), work.connection)
        return True

    def _finish(self) -> None:
        """What was begun is journalled, so it is signed and answered; the rest never came."""
        if self._orders and self._orders[0].begun:
            while not self._work():
                pass

    def _guarded(self, step: Callable[[_Connection], None], connection: _Connection) -> None:
        """Whatever is wrong with a client ends its connection only."""
        try:
            step(connection)
        except frames.FrameError as error:
            _log.warning("a client was disconnected: %s", error)
            self._close(connection)
        except OSError:
            self._close(connection)
        else:
            wanted = selectors.EVENT_WRITE if connection.pending else selectors.EVENT_READ
            if self._selector.get_key(connection.sock).events != wanted:
                self._selector.modify(connection.sock, wanted, connection)

    def _transfer(self, connection: _Connection) -> None:
        if connection.pending:
            connection.flush()
        else:
            connection.receive()
        if not connection.pending:
            self._backlog.append(connection)

    def _take_next(self, connection: _Connection) -> None:
        body = connection.received.next()
        if body is None:
            return
        request = frames.decode_request(body)
        if isinstance(request, Order):
            connection.ordered = True
            self._orders.append(_Work(connection, carry_out(self._core, request)))
        else:
            self._reply(connection, answer(self._core, request))

    def _reply(self, connection: _Connection, reply: frames.Answer) -> None:
        connection.pending += _fitting(reply)
        connection.flush()
        if not connection.pending:
            self._backlog.append(connection)

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError as error:  # else the client gave up before it was let in
            if error.errno in _EXHAUSTED:
                _log.warning("no new connections for now: %s", error.strerror)
                self._selector.unregister(self._listener)
                self._resting_until = time.monotonic() + _REST_S
            return
        uid = _peer_uid(sock)
        if uid not in self._allowed:
            _log.warning("a process of user %d tried to connect and was refused", uid)
            sock.close()
        elif len(self._connections) >= MAX_CONNECTIONS:
            _log.warning("more than %d connections; the newest was refused", MAX_CONNECTIONS)
            sock.close()
        else:
            sock.setblocking(False)
            connection = _Connection(sock)
            self._connections.add(connection)
            self._selector.register(sock, selectors.EVENT_READ, connection)

    def _close(self, connection: _Connection) -> None:
        self._connections.discard(connection)
        self._selector.unregister(connection.sock)
        connection.sock.close()

    def _close_all(self) -> None:
        deadline = time.monotonic() + _LAST_WORDS_S
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                connection.sock.settimeout(max(0.01, deadline - time.monotonic()))
                connection.sock.sendall(connection.pending)
            self._close(connection)
        self._selector.close()


def _fitting(reply: frames.Answer) -> bytes:
    try:
        return frames.encode(reply)
    except frames.FrameError as error:
        refused = UnsupportedError(f"the answer does not fit a frame; ask for less ({error})")
        return frames.encode(frames.Failed(reply.id, frames.refusal(refused)))


def _peer_uid(sock: socket.socket) -> int:
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER_CREDENTIALS.size)
    return int(_PEER_CREDENTIALS.unpack(raw)[1])
