"""One service or one local command at a time works in a home."""

import contextlib
import fcntl
import os
from collections.abc import Iterator

from kms.config import ConfigError
from kms.settings import Settings


class HomeBusyError(ConfigError):
    """A service or a local command is at work in the home."""


@contextlib.contextmanager
def home_lock(settings: Settings) -> Iterator[None]:
    """Hold the home for a service or a local command; the lock ends with the process.

    Raises:
        HomeBusyError: Someone else holds it.
    """
    if not settings.run_dir.is_dir():
        settings.run_dir.mkdir(parents=True, exist_ok=True)
        settings.run_dir.chmod(0o711)  # whatever the umask: the worker must reach the socket
    path = settings.run_dir / "home.lock"
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(fd, 20, 0).decode("ascii", "replace").strip() or "unknown"
            raise HomeBusyError(
                f"{settings.home} is in use by process {holder}: a service or another local "
                "command; stop it, or wait for its end"
            ) from None
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(fd)
