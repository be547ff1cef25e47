"""The processes of a running service: who holds what, and how they begin and end."""

import contextlib
import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.calling import LOST, Answer, Client, enrol
from tests.support.running import MESSENGER, SERVE, Home, Service, alive, running, wait_for

pytestmark = pytest.mark.timeout(300)

MakeHome = Callable[..., Home]
PKCS11 = ("softhsm", "pkcs11", "p11-kit", "opensc")


def proc(pid: int, name: str) -> bytes:
    """A file of a process; empty where it is closed to its own user, who is not root."""
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except PermissionError:
        assert os.geteuid() != 0
        return b""


def status(pid: int) -> dict[str, str]:
    lines = proc(pid, "status").decode().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def pids_of(service: Service) -> list[int]:
    return [service.supervisor, service.pid("worker"), service.pid("signer")]


def children_of(parent: int) -> list[int]:
    pids = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal()]
    found = []
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended
            found += [pid] if int(status(pid)["PPid"]) == parent else []
    return found


def test_only_the_signer_loads_a_module(service: Service):
    with Client(service.home, MESSENGER) as client:
        enrol(client, service.home.device("ada", "ada-maps"))
    supervisor, worker, signer = (proc(pid, "maps").decode() for pid in pids_of(service))
    assert "libc.so" in worker
    for maps in (supervisor, worker):
        assert not [word for word in PKCS11 if word in maps.lower()]
    assert "libsofthsm2" in signer or (os.geteuid() != 0 and not signer)


def test_no_core_dumps_no_new_rights_no_files_for_others(service: Service):
    supervisor, worker, signer = pids_of(service)
    (verifier,) = children_of(worker)
    children = [worker, signer, verifier]
    for pid in (supervisor, *children):
        limits = proc(pid, "limits").decode().splitlines()
        (core,) = [line.split()[4:6] for line in limits if line.startswith("Max core file size")]
        assert core == ["0", "0"], pid
        assert status(pid)["NoNewPrivs"] == "1", pid
    for pid in children:
        assert status(pid)["Umask"] == "0077"
        if service.state()["separated"]:
            assert int(status(pid)["CapEff"], 16) == int(status(pid)["CapPrm"], 16) == 0


LOOK = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
for pid in map(int, sys.argv[1:]):
    for name in ("mem", "environ", "maps", "fd", "cwd", "exe", "root"):
        path = f"/proc/{pid}/{name}"
        try:
            os.readlink(path) if name in ("cwd", "exe", "root") else (
                os.listdir(path) if name == "fd" else open(path, "rb").close())
            print("read", path)
        except PermissionError:
            pass
    if libc.ptrace(0x4206, pid, 0, 0) == 0:  # PTRACE_SEIZE
        print("traced", pid)
"""


def test_not_even_its_own_user_looks_into_a_process(service: Service):
    """As whoever runs it, from another process; root alone could, by CAP_SYS_PTRACE."""
    supervisor, worker, signer = pids_of(service)
    separated = service.state()["separated"]
    closed = [worker, signer] if separated else [supervisor, signer]
    closed += children_of(worker)
    for pid in closed:
        uid = int(status(pid)["Uid"].split()[0])
        if uid == 0:
            continue  # root as a whole service: nobody to keep out, and the doctor warns
        gid = int(status(pid)["Gid"].split()[0])
        other = {"user": uid, "group": gid, "extra_groups": []} if os.geteuid() == 0 else {}
        command = [sys.executable, "-I", "-c", LOOK, str(pid)]
        done = subprocess.run(command, capture_output=True, text=True, cwd="/", check=True, **other)
        assert done.stdout == "", pid


def test_the_pin_is_in_no_argument_environment_or_log(service: Service):
    pin = (service.home.token / "pin").read_bytes().strip()
    pids = pids_of(service)
    for pid in pids:
        assert pin not in proc(pid, "cmdline") + proc(pid, "environ")
    assert pin not in service.home.log.read_bytes()
    assert pin not in (service.home.path / "run" / "state.json").read_bytes()
    names = {path.readlink().name for path in Path(f"/proc/{pids[1]}/fd").iterdir()}
    assert not names & {"pin", "so-pin"}


def test_users_are_separate_where_they_can_be(service: Service):
    state = service.state()
    owners = {
        name: int(status(service.pid(name))["Uid"].split()[0]) for name in ("worker", "signer")
    }
    if state["separated"]:
        assert len({*owners.values(), 0}) == 3
    else:
        assert state["not_separated_because"]
        assert set(owners.values()) == {os.geteuid()}


def test_what_is_private_is_private(service: Service):
    home = service.home
    settings = home.settings
    secret = [settings.data_dir / "ledger.db", home.token / "pin", settings.tls_dir / "server.key"]
    secret += [*home.signer_state.rglob("*"), *settings.clients_dir.glob("*.key")]
    for path in secret:
        wanted = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.stat().st_mode) == wanted, path
    assert stat.S_IMODE(settings.signer_socket.stat().st_mode) == 0o600
    for path in (home.signer_state, settings.data_dir, settings.tls_dir):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700, path


def test_logs_and_metrics_name_nobody(service: Service):
    with Client(service.home, MESSENGER) as client:
        device = service.home.device("Very.Private@person.example", "very-private-phone")
        certified = enrol(client, device)
        client.get("/v1/users/Very.Private@person.example/devices")
        client.get("/v1/devices/very-private-tablet")
        serial = certified["certificates"][0]["serial"]
        client.get(f"/v1/certificates/{serial}")
    shown = service.home.log.read_text() + service.operator("/metrics")[1]
    for word in ("Very.Private", "very-private", serial, certified["enrolment"], MESSENGER):
        assert word not in shown, word
    assert '"route": "/v1/users/{user}/devices"' in shown
    lines = service.home.log.read_text().splitlines()
    assert all(isinstance(json.loads(line), dict) for line in lines)


def test_a_home_has_one_service(service: Service):
    before = service.pid("worker"), service.pid("signer")
    command = [*SERVE, "--home", str(service.home.path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert str(service.supervisor) in done.stderr
    assert (service.pid("worker"), service.pid("signer")) == before
    assert service.ready()


def test_a_killed_supervisor_leaves_nothing_running(new_home: MakeHome):
    home = new_home()
    service = Service(home)
    service.start()
    children = [service.pid("worker"), service.pid("signer")]
    os.kill(service.supervisor, signal.SIGKILL)
    assert service.wait_ended() == -signal.SIGKILL
    wait_for(lambda: not any(alive(pid) for pid in children), 10, "children outlived it")
    with running(home) as again, Client(home, MESSENGER) as client:
        enrol(client, home.device("ada", "phone"))
        assert again.state()["worker"]["restarts"] == 0


def test_idle_connections_do_not_hold_up_the_end(new_home: MakeHome):
    home = new_home()
    with running(home) as service, Client(home, MESSENGER) as client:
        assert client.get("/v1/log").status == 200
        started = time.monotonic()
        assert service.stop() == 0
        assert time.monotonic() - started < 10


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_was_accepted_is_answered(new_home: MakeHome, number: signal.Signals):
    """A large batch is under way when the service is told to end."""
    home = new_home()
    devices = [home.device(f"user-{n}", f"device-{n}", identity="Ed25519") for n in range(300)]
    items = [device.request("device-identity") for device in devices]
    answers: list[Answer | Exception] = []
    with running(home) as service, Client(home, MESSENGER) as client:
        begun = client.post("/v1/enrolments:batch", {"items": items}).document["results"]
        proofs = [
            {"enrolment": item["body"]["enrolment"], **device.prove(item["body"])}
            for device, item in zip(devices, begun, strict=True)
        ]

        def finish() -> None:
            try:
                answers.append(client.post("/v1/enrolments:batch-proofs", {"items": proofs}))
            except LOST as error:
                answers.append(error)

        in_flight = 'kms_http_requests_in_flight{listener="api"} 1.0'
        thread = threading.Thread(target=finish)
        thread.start()
        wait_for(lambda: answers or in_flight in service.operator("/metrics")[1], 20)
        os.kill(service.supervisor, number)
        thread.join(60)
        assert service.wait_ended() == 0
    (answer,) = answers
    assert isinstance(answer, Answer)
    results = answer.document["results"]
    assert {item["status"] for item in results} == {201}
    for device, item in zip(devices, results, strict=True):
        device.accept(item["body"])


def test_one_token_needs_no_processes_of_its_own(service: Service):
    assert service.state()["tokens"] == {}
    assert not (service.home.path / "run" / "tokens").exists()
    wait_for(lambda: service.metric("kms_token_healthy", token="main") == 1.0)
