"""`kms serve`: the service itself, in the foreground, until it is told to end."""

from kms.cli.commands import PinFdOption, local
from kms.cli.output import Shown, lines
from kms.logs import configure
from kms.processes.pin import obtain_pin
from kms.processes.supervisor import serve as supervise
from kms.settings import Settings


@local
def serve(settings: Settings, pin_fd: PinFdOption = None) -> Shown:
    """Run the service until SIGTERM or Ctrl-C; it answers what it has accepted."""
    from kms.bootstrap import probe  # noqa: PLC0415 - remote commands start faster

    configure("supervisor")
    pin = obtain_pin(settings, pin_fd=pin_fd)
    status = supervise(settings, pin, probe)
    ended = {"ended": "in order" if status == 0 else "with an error, see the log lines"}
    return Shown({**ended, "status": status}, lines(f"Ended {ended['ended']}."), status=status)
