"""TLS before it lets anybody in: bounded in number and time, and no matter to those inside."""

import errno
import os
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kms.api import connections
from tests.support.tls_site import Running, running

REQUEST = b"GET /v1/log HTTP/1.1\r\nHost: kms\r\n\r\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("handshakes")) as made:
        yield made


def stranger(server: Running) -> socket.socket:
    """Connected, and silent."""
    made = socket.create_connection(("127.0.0.1", server.ports["api"]), timeout=10)
    made.settimeout(10)
    return made


def guest(server: Running) -> ssl.SSLSocket:
    context = ssl.create_default_context(cafile=server.folder / "trust.pem")
    context.load_cert_chain(server.folder / "messenger.pem", server.folder / "messenger.key")
    return context.wrap_socket(stranger(server), server_hostname="127.0.0.1")


def is_answered(connection: ssl.SSLSocket) -> bool:
    connection.sendall(REQUEST)
    answer = b""
    while not answer.endswith(b"}"):
        part = connection.recv(65536)
        if not part:
            return False
        answer += part
    return answer.startswith(b"HTTP/1.1 200")


def is_ended(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def test_strangers_displace_one_another_and_nobody_inside(
    server: Running, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(connections, "MAX_HANDSHAKES", 4)
    with guest(server) as inside:
        assert is_answered(inside)
        crowd = [stranger(server) for _ in range(12)]
        assert all(is_ended(one) for one in crowd[:8])
        with guest(server) as newcomer:
            assert is_answered(newcomer)
        assert is_answered(inside)
        for one in crowd:
            one.close()


@pytest.mark.parametrize("said", [b"", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"])
def test_a_handshake_takes_its_time_at_most(
    server: Running, monkeypatch: pytest.MonkeyPatch, said: bytes
):
    monkeypatch.setattr(connections, "HANDSHAKE_SECONDS", 0.3)
    started = time.monotonic()
    with stranger(server) as one:
        one.sendall(said)
        assert is_ended(one)
    assert 0.2 < time.monotonic() - started < 5


def test_who_is_refused_and_stays_is_ended(server: Running, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(connections, "HANDSHAKE_SECONDS", 0.3)
    context = ssl.create_default_context(cafile=server.folder / "trust.pem")
    with context.wrap_socket(stranger(server), server_hostname="127.0.0.1") as one:
        with pytest.raises(ssl.SSLError, match="CERTIFICATE_REQUIRED"):
            one.recv(1)
        with socket.socket(fileno=os.dup(one.fileno())) as below:
            below.settimeout(10)
            assert is_ended(below)


def test_out_of_descriptors_it_waits_for_some(server: Running, monkeypatch: pytest.MonkeyPatch):
    real, refused = socket.socket.accept, []

    def accept(self: socket.socket) -> tuple[socket.socket, object]:
        if len(refused) < 3:
            refused.append(self)
            raise OSError(errno.EMFILE, "Too many open files")
        return real(self)

    monkeypatch.setattr(socket.socket, "accept", accept)
    started = time.monotonic()
    with guest(server) as patient:
        assert is_answered(patient)
    assert len(refused) == 3
    assert time.monotonic() - started > 2 * connections.PAUSE_SECONDS


def test_the_end_of_the_service_ends_handshakes(tmp_path: Path):
    with running(tmp_path) as made, guest(made) as known:
        assert is_answered(known)
        one = stranger(made)
        started = time.monotonic()
    assert is_ended(one)
    assert time.monotonic() - started < connections.HANDSHAKE_SECONDS / 2
    one.close()
