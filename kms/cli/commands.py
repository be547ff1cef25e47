"""How commands are made: options that many share, and what happens around a command's own work.

A command is a function from its arguments to what is shown. `remote` gives it a connected
`Session`, `local` a home; both add their options to its own, and `--json`.
"""

import functools
import inspect
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Concatenate, ParamSpec, cast

import httpx
import typer

from kms.cli.client import ApiClient, open_api, open_public
from kms.cli.errors import ExitCode, UsageProblemError
from kms.cli.output import Shown, show
from kms.config import ClientSettings, Environment, client_settings, load, locate
from kms.settings import Settings

P = ParamSpec("P")

HomeOption = Annotated[
    Path | None, typer.Option("--home", help="Home of the service. Else $KMS_HOME.")
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON document to standard output.")
]
TenantOption = Annotated[
    str | None, typer.Option("--tenant", help="Tenant; the caller's own by default.")
]
LimitOption = Annotated[int, typer.Option("--limit", min=1, help="Most records to show.")]
PinFdOption = Annotated[
    int | None, typer.Option("--pin-fd", min=0, help="Read the token's PIN from this descriptor.")
]
YesOption = Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")]

_AsOption = Annotated[
    str, typer.Option("--as", help="A client of the home: clients/NAME.pem and .key.")
]
_ServerOption = Annotated[
    str | None, typer.Option("--server", help="Base URL of the API. Else $KMS_SERVER.")
]
_PublicOption = Annotated[
    str | None,
    typer.Option("--public", help="Base URL of the public listener, where it is not the usual."),
]
_CertOption = Annotated[
    Path | None, typer.Option("--cert", help="Client certificate, PEM. Else $KMS_CERT.")
]
_KeyOption = Annotated[Path | None, typer.Option("--key", help="Its private key. Else $KMS_KEY.")]
_TrustOption = Annotated[
    Path | None, typer.Option("--trust", help="Anchor of the server, PEM. Else $KMS_TRUST.")
]
_IdempotencyOption = Annotated[
    str | None,
    typer.Option("--idempotency-key", help="Repeat an earlier command under its key: once only."),
]

DEFAULT_CLIENT = "alice"
"""The officer that `kms principal dev-clients` makes."""


@dataclass(frozen=True, slots=True)
class Runtime:
    """How commands reach the network; tests give their own."""

    api: Callable[[ClientSettings], httpx.Client] = open_api
    public: Callable[[str], httpx.Client] = open_public
    sleep: Callable[[float], None] = time.sleep

    def client(self, http: httpx.Client, idempotency_key: str | None = None) -> ApiClient:
        """A client over a connection."""
        return ApiClient(http, idempotency_key=idempotency_key, sleep=self.sleep)


@dataclass(frozen=True, slots=True)
class Session:
    """What a remote command works with."""

    api: ApiClient
    runtime: Runtime
    json: bool
    public_url: str | None
    """Where the public listener is, if an option or the home says so."""

    def open_public(self, base_url: str) -> ApiClient:
        """A client of the public listener."""
        return self.runtime.client(self.runtime.public(base_url))


def new_group(name: str, text: str) -> typer.Typer:
    """A group of commands."""
    return typer.Typer(name=name, help=text, no_args_is_help=True, add_completion=False)


def runtime_of(context: typer.Context) -> Runtime:
    """The runtime that the caller of the program gave, or the real one."""
    return context.obj if isinstance(context.obj, Runtime) else Runtime()


def remote(function: Callable[Concatenate[Session, P], Shown]) -> Callable[..., None]:
    """Make a command that talks to the API."""

    def command(
        *,
        context: typer.Context,
        home: HomeOption = None,
        client: _AsOption = DEFAULT_CLIENT,
        server: _ServerOption = None,
        public: _PublicOption = None,
        cert: _CertOption = None,
        key: _KeyOption = None,
        trust: _TrustOption = None,
        idempotency_key: _IdempotencyOption = None,
        as_json: JsonOption = False,
        **arguments: Any,
    ) -> None:
        runtime = runtime_of(context)
        settings = client_settings(home, client, server=server, cert=cert, key=key, trust=trust)
        with runtime.client(runtime.api(settings), idempotency_key) as api:
            nearby = None if server is not None else home or Environment().home
            session = Session(api, runtime, as_json, public or _public_of(nearby))
            finish(_call(function, session, arguments), as_json=as_json)

    return _with_options(function, command)


def local(function: Callable[Concatenate[Settings, P], Shown]) -> Callable[..., None]:
    """Make a command that works in a home on this machine."""

    def command(*, home: HomeOption = None, as_json: JsonOption = False, **arguments: Any) -> None:
        from kms.logs import configure  # noqa: PLC0415 - remote commands start faster

        configure("cli", quiet=True)  # standard output is the command's own
        settings = load(locate(home))
        finish(_call(function, settings, arguments), as_json=as_json)

    return _with_options(function, command)


def confirm(question: str, *, yes: bool, as_json: bool) -> None:
    """Ask, unless it was answered by `--yes`.

    Raises:
        UsageProblemError: Nobody is there to answer.
        typer.Abort: The answer is no.
    """
    if yes:
        return
    if as_json:
        raise UsageProblemError(f"{question} Nobody can answer under --json", "give --yes")
    typer.confirm(question, abort=True, err=True)


def _public_of(home: Path | None) -> str | None:
    """The public listener of a home on this machine."""
    return None if home is None else f"http://{load(locate(home)).listeners.public}"


def _call(function: Callable[..., Shown], subject: object, arguments: dict[str, Any]) -> Shown:
    return function(subject, **arguments)


def finish(shown: Shown, *, as_json: bool) -> None:
    """Print the outcome and end the command with its status."""
    show(shown, as_json=as_json)
    if shown.status != ExitCode.DONE:
        raise typer.Exit(shown.status)


def _with_options(
    function: Callable[..., Shown], command: Callable[..., None]
) -> Callable[..., None]:
    """`command` under the name and help of `function`, with the options of both."""
    own = list(inspect.signature(function).parameters.values())[1:]
    shared = [
        parameter
        for parameter in inspect.signature(command).parameters.values()
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    together = [item.replace(kind=inspect.Parameter.KEYWORD_ONLY) for item in [*own, *shared]]
    functools.update_wrapper(command, function)
    target = cast("Any", command)
    target.__signature__ = inspect.Signature(together)
    target.__annotations__ = {item.name: item.annotation for item in together}
    return command
