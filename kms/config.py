"""Reading settings: the only module that opens the configuration file or sees the environment.

A service lives in a *home* directory; `<home>/kms.toml` describes it and holds no secret. Unknown
keys are refused, relative paths are relative to the home. `kms.settings` documents every key.
"""

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from kms.settings import CONFIG_NAME, GIVEN, Settings

MAX_CONFIG = 1 << 20
"""Largest configuration file that is read, in bytes."""


class ConfigError(Exception):
    """The configuration is wrong; the message names the file, the key and what to do."""


class Environment(BaseSettings):
    """Every environment variable that the service or its client reads."""

    model_config = SettingsConfigDict(
        env_prefix="KMS_", frozen=True, extra="ignore", env_ignore_empty=True
    )

    home: Path | None = Field(default=None, description="KMS_HOME: the home directory.")
    config: Path | None = Field(default=None, description="KMS_CONFIG: a configuration file.")
    server: str | None = Field(default=None, description="KMS_SERVER: base URL of the API.")
    cert: Path | None = Field(default=None, description="KMS_CERT: the client's certificate, PEM.")
    key: Path | None = Field(default=None, description="KMS_KEY: the client's private key, PEM.")
    trust: Path | None = Field(default=None, description="KMS_TRUST: anchor of the server, PEM.")
    credentials_directory: Path | None = Field(
        default=None, validation_alias="CREDENTIALS_DIRECTORY", description="Set by systemd."
    )


def credential_pin_file(token: str = "") -> Path | None:
    """`$CREDENTIALS_DIRECTORY/kms-pin[-<token>]` (systemd's LoadCredential), if it is there."""
    directory = Environment().credentials_directory
    name = f"kms-pin-{token}" if token else "kms-pin"
    path = directory / name if directory is not None else None
    return path if path is not None and path.is_file() else None


def child_environment(extra: Mapping[str, str]) -> dict[str, str]:
    """Environment of a child process: search path, locale, time zone, and what it is given."""
    kept = ("PATH", "LANG", "LC_ALL", "TZ")
    # What a thread frees, glibc keeps in that thread's arena: with few of them memory stays flat.
    fixed = {"MALLOC_ARENA_MAX": "2"}
    return {name: os.environ[name] for name in kept if name in os.environ} | fixed | dict(extra)


def locate(home: Path | None = None, config: Path | None = None) -> Path:
    """The configuration file: argument, then KMS_CONFIG, then KMS_HOME.

    Raises:
        ConfigError: Nothing names one.
    """
    env = Environment()
    if home is None and config is None:
        home, config = env.home, env.config
    path = config or (home / CONFIG_NAME if home is not None else None)
    if path is None:
        raise ConfigError("which service? Give --home DIR, or set KMS_HOME")
    return path


def load(path: Path) -> Settings:
    """Read and check a configuration file; its directory is the home.

    Raises:
        ConfigError: With every fault found.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_CONFIG + 1)
        if len(raw) > MAX_CONFIG:
            raise ConfigError(f"{path}: larger than {MAX_CONFIG} bytes; this is no kms.toml")
        values = tomllib.loads(raw.decode())
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: not found; make a home with `kms init --home DIR`") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not TOML: {error}") from error
    return parse(path, values)


def parse(path: Path, values: Mapping[str, Any]) -> Settings:
    """Check the values of the configuration file `path`.

    Raises:
        ConfigError: With every fault found; values are not repeated, they may be misplaced secrets.
    """
    where = path.absolute()
    for key in GIVEN:
        if key in values:
            raise ConfigError(f"{path}: {key}: unknown key; the file's own place decides it")
    try:
        return Settings.model_validate(
            {**values, "path": where, "home": where.parent}, context={"home": where.parent}
        )
    except ValidationError as error:
        faults = error.errors(include_url=False, include_input=False, include_context=False)
        lines = [_sentence(fault["type"], fault["loc"], fault["msg"]) for fault in faults]
        raise ConfigError("\n".join(f"{path}: {line}" for line in lines)) from None


def _sentence(kind: str, location: tuple[int | str, ...], message: str) -> str:
    key = ".".join(str(part) for part in location)
    message = message.removeprefix("Value error, ")
    if kind == "missing":
        return f"{key}: is required"
    if kind != "extra_forbidden":
        return f"{key}: {message}" if key else message
    if "pin" in str(location[-1]).lower():
        return f"{key}: unknown key; a PIN never stands here, token.pin_file names a file with it"
    return f"{key}: unknown key; known here: {', '.join(_known_keys(location[:-1]))}"


def _known_keys(location: tuple[int | str, ...]) -> list[str]:
    model: Any = Settings
    for part in location:
        if get_origin(model) is dict:  # a table of tables: any name leads to one of them
            model = get_args(model)[1]
        elif isinstance(model, type) and issubclass(model, BaseModel):
            model = model.model_fields[str(part)].annotation
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        return []
    return [name for name in model.model_fields if name not in GIVEN]


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """How the command line reaches the API."""

    server: str
    cert: Path
    key: Path
    trust: Path


def client_settings(
    home: Path | None = None,
    client: str = "officer",
    *,
    server: str | None = None,
    cert: Path | None = None,
    key: Path | None = None,
    trust: Path | None = None,
) -> ClientSettings:
    """Each value from its argument, else a given home, else the environment, else KMS_HOME.

    Args:
        home: Where `kms.toml`, `trust.pem` and `clients/<client>.pem|.key` lie.
        client: Which of the home's clients.
        server: Base URL of the API.
        cert: Client certificate, PEM.
        key: Its private key, PEM.
        trust: Anchor of the server, PEM.

    Raises:
        ConfigError: A value is missing everywhere, or a file is.
    """
    env = Environment()
    near, far = _home_layout(home, client), _home_layout(env.home, client)

    def choose(name: str, given: str | Path | None, set_: str | Path | None) -> str:
        return _first(name, given, near.get(name), set_, far.get(name))

    found = ClientSettings(
        server=choose("server", server, env.server),
        cert=Path(choose("cert", cert, env.cert)),
        key=Path(choose("key", key, env.key)),
        trust=Path(choose("trust", trust, env.trust)),
    )
    for path in (found.cert, found.key, found.trust):
        if not path.is_file():
            raise ConfigError(f"{path}: not found; name it by --cert, --key or --trust")
    return found


def _home_layout(home: Path | None, client: str) -> dict[str, str]:
    if home is None:
        return {}
    settings = load(home / CONFIG_NAME)
    api = settings.listeners.api
    everywhere = ip_address(api.host).is_unspecified
    address = f"{settings.tls.server_names[0]}:{api.port}" if everywhere else str(api)
    return {
        "server": f"https://{address}",
        "cert": str(settings.clients_dir / f"{client}.pem"),
        "key": str(settings.clients_dir / f"{client}.key"),
        "trust": str(settings.trust_path),
    }


def _first(name: str, *candidates: str | Path | None) -> str:
    for candidate in candidates:
        if candidate is not None:
            return str(candidate)
    raise ConfigError(f"--{name} is missing; give it, set KMS_{name.upper()}, or name a --home")
