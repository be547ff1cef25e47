"""`kms`: the command line of the service. `main` is the entry point of the installed program."""

import sys
from collections.abc import Sequence

import typer

from kms.cli import (
    authorities,
    backup,
    certificates,
    demo_command,
    doctor_command,
    extending,
    founding,
    hsm,
    journal,
    kem,
    keys,
    local_principals,
    log,
    people,
    principals,
    replicas,
    restore_command,
    serving,
    tenants,
)
from kms.cli.commands import Runtime
from kms.cli.errors import ExitCode, explain
from kms.cli.output import print_json

_INTERRUPTED = 130
"""What typer makes of Ctrl-C; our commands end with an `ExitCode`."""

app = typer.Typer(
    name="kms",
    help="Key management of a state's own messenger: certifies devices, holds none of their keys,"
    " and records every key event.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for group in (
    authorities.group,
    tenants.group,
    principals.group,
    certificates.group,
    people.devices,
    people.users,
    keys.group,
    kem.group,
    hsm.group,
    log.group,
    backup.group,
):
    app.add_typer(group)
app.command("init")(founding.init)
app.command("serve")(serving.serve)
app.command("doctor")(doctor_command.doctor)
app.command("demo")(demo_command.demo)
app.command("restore")(restore_command.restore)
authorities.group.command("ceremony")(founding.ceremony)
authorities.group.command("add")(extending.add_authorities)
keys.group.command("replicate")(replicas.replicate)
log.group.command("move")(replicas.move_log)
log.group.command("add-cosigner")(extending.add_cosigner)
log.group.command("new-epoch")(founding.new_epoch)
log.group.command("export-journal")(journal.export_journal)
log.group.command("find-orphans")(journal.find_orphans)
principals.group.command("dev-clients")(local_principals.dev_clients)
principals.group.command("bootstrap-officer")(local_principals.bootstrap_officer)


def main() -> None:
    """Run the command that the process was started with, and exit."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str], runtime: Runtime | None = None) -> int:
    """Run one command; answers the exit status. Errors become sentences, never tracebacks."""
    try:
        status = app(args=list(arguments), prog_name="kms", standalone_mode=False, obj=runtime)
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001  # the one place where errors end
        return _report(error, as_json="--json" in arguments)
    if status == _INTERRUPTED:
        return _report(KeyboardInterrupt(), as_json="--json" in arguments)
    return status if isinstance(status, int) else ExitCode.DONE


def _report(error: BaseException, *, as_json: bool) -> int:
    explanation = explain(error)
    if isinstance(error, BrokenPipeError):
        return ExitCode.FAILED
    if not explanation.detail:  # a group without a command has shown its help instead
        return explanation.exit_code
    sys.stderr.write(explanation.text() + "\n")
    if as_json:
        print_json(explanation.document())
    return explanation.exit_code
