"""What a systemd unit takes away, as far as it can be taken without systemd as init.

`python -m tests.support.sandbox UNIT COMMAND…` becomes the command with the unit's capabilities,
system calls, address families, executable memory and limits, by the means that systemd uses:
PR_CAPBSET_DROP and seccomp(2). Mounts and control groups are left as they are.
"""

import ctypes
import errno
import functools
import os
import platform
import re
import resource
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
"""AUDIT_ARCH_* of seccomp_data.arch (linux/audit.h)."""
_CAPABILITIES = re.compile(r"^#define CAP_(\w+)\s+(\d+)$", re.MULTILINE)
_PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _FILTER = 24, 38, 22, 2
_LOAD, _EQUAL, _ANY_BIT, _AND, _RETURN = 0x20, 0x15, 0x45, 0x54, 0x06
_NUMBER, _ARCH, _ARGUMENTS = 0, 4, 16
_ALLOW, _KILL, _REFUSE = 0x7FFF0000, 0x80000000, 0x00050000 | errno.EPERM
_WRITE, _EXECUTE = 2, 4


@functools.cache
def macros(header: str) -> str:
    command = ["gcc", "-dM", "-E", "-include", header, "-"]
    return subprocess.run(command, input="", capture_output=True, text=True, check=True).stdout


def numbers() -> dict[str, int]:
    """System calls of this machine."""
    found = re.findall(r"^#define __NR_(\w+) (\d+)$", macros("sys/syscall.h"), re.MULTILINE)
    return {name: int(number) for name, number in found}


def settings(unit: Path) -> dict[str, list[str]]:
    """Values of the section [Service], in order; lists are cut into words."""
    found: dict[str, list[str]] = {}
    section = unit.read_text().split("[Service]")[1].split("\n[")[0]
    for line in section.splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(name, []).append(value)
    return found


def system_calls(lines: list[str]) -> set[str]:
    """Names that a unit's SystemCallFilter= lines allow; groups are systemd's own."""
    allowed: set[str] = set()
    for line in lines:
        words = line.removeprefix("~").split()
        names = {name for word in words for name in group(word)}
        allowed = allowed - names if line.startswith("~") else allowed | names
    return allowed


def group(word: str) -> Iterator[str]:
    if not word.startswith("@"):
        yield word
        return
    command = ["systemd-analyze", "syscall-filter", "--no-pager", word]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for line in listed.splitlines()[1:]:
        name = line.strip()
        if name and not name.startswith("#"):
            yield from group(name)


def step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    """A struct sock_filter."""
    return struct.pack("HBBI", code, if_true, if_false, value)


def argument(place: int) -> bytes:
    """Load the low half of an argument."""
    return step(_LOAD, _ARGUMENTS + 8 * place)


def program(unit: dict[str, list[str]]) -> bytes:
    """The filter; what it refuses gets EPERM, as the unit's SystemCallErrorNumber= says."""
    call = numbers()
    both = [argument(2), step(_AND, _WRITE | _EXECUTE), step(_EQUAL, _WRITE | _EXECUTE, 0, 1)]
    families = unit["RestrictAddressFamilies"][0].split()
    rules = [step(_LOAD, _ARCH), step(_EQUAL, ARCHITECTURES[platform.machine()], 1)]
    rules += [step(_RETURN, _KILL), step(_LOAD, _NUMBER)]
    rules += inside(call["mmap"], [*both, step(_RETURN, _REFUSE)])
    for name in ("mprotect", "pkey_mprotect"):
        executable = [argument(2), step(_ANY_BIT, _EXECUTE, 0, 1), step(_RETURN, _REFUSE)]
        rules += inside(call[name], executable)
    known = [step(_EQUAL, int(socket.AddressFamily[name]), at) for name, at in jumps(families)]
    rules += inside(call["socket"], [argument(0), *known, step(_RETURN, _REFUSE)])
    for name in sorted(system_calls(unit["SystemCallFilter"]) & call.keys()):
        rules += [step(_EQUAL, call[name], 0, 1), step(_RETURN, _ALLOW)]
    return b"".join([*rules, step(_RETURN, _REFUSE)])


def inside(number: int, steps: list[bytes]) -> list[bytes]:
    """Steps that are taken for one system call, and load its number again where they end."""
    return [step(_EQUAL, number, 0, len(steps) + 1), *steps, step(_LOAD, _NUMBER)]


def jumps(words: list[str]) -> Iterator[tuple[str, int]]:
    """Each word with the steps from its comparison to behind the refusal after the last."""
    for at, word in enumerate(words):
        yield word, len(words) - at


def confine(unit: dict[str, list[str]]) -> None:
    """Give up what the unit gives up, for good."""
    libc = ctypes.CDLL(None, use_errno=True)
    filter_ = program(unit)  # runs programs: before they are forbidden anything
    kept = {f"CAP_{name}" for name, _ in _CAPABILITIES.findall(macros("linux/capability.h"))}
    kept &= set(unit["CapabilityBoundingSet"][0].split())
    if os.geteuid() == 0:
        for name, number in _CAPABILITIES.findall(macros("linux/capability.h")):
            if f"CAP_{name}" not in kept and name != "LAST_CAP":
                assert libc.prctl(_PR_CAPBSET_DROP, int(number), 0, 0, 0) == 0, name
    os.umask(int(unit["UMask"][0], 8))
    core = int(unit["LimitCORE"][0])
    resource.setrlimit(resource.RLIMIT_CORE, (core, core))
    assert libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
    steps = ctypes.create_string_buffer(filter_, len(filter_))
    head = struct.pack("HxxxxxxP", len(filter_) // 8, ctypes.addressof(steps))
    if libc.prctl(_PR_SET_SECCOMP, _FILTER, ctypes.create_string_buffer(head), 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "seccomp")


def main() -> None:
    confine(settings(Path(sys.argv[1])))
    os.execv(sys.argv[2], sys.argv[2:])  # noqa: S606 - what a sandbox is for


if __name__ == "__main__":
    main()
