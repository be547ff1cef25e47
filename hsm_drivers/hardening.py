"""What a process of the service gives up when it starts, for good: nothing of it can be undone.

Linux only, through prctl(2). What needs no code of ours (file systems, system calls) is systemd's:
see docs/systemd.
"""

import ctypes
import os
import resource
import signal

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_NO_NEW_PRIVS = 38


class HardeningError(Exception):
    """The kernel refused; nothing secret has been touched yet."""


def harden(*, closed: bool = True) -> None:
    """Write no memory to disk, gain no rights, and show nobody what is inside.

    Args:
        closed: Whether no other process of the same user may look into this one (ptrace, memory,
            environment, descriptors); root with CAP_SYS_PTRACE may.

    Raises:
        HardeningError: The kernel refused.
    """
    forbid_core_dumps()
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    if closed:
        close_to_inspection()


def forbid_core_dumps() -> None:
    """No crash of this process or a child may write memory, and so a PIN, to a disk."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def close_to_inspection() -> None:
    """No core dump to a program either, and no ptrace by the same user (PR_SET_DUMPABLE 0).

    A child that is exec'd begins open again: each process closes itself.
    """
    _prctl(_PR_SET_DUMPABLE, 0)


def die_with(parent: int) -> None:
    """Be killed when the process `parent` dies; a change of user on the way here undid that.

    Raises:
        HardeningError: It is dead already, or not this one's parent.
    """
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        raise HardeningError(f"process {parent} is not the parent of this one any more")


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        reason = os.strerror(ctypes.get_errno())
        raise HardeningError(f"prctl({option}, {value}): {reason}")
