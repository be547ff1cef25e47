"""The first `kms.toml` of a home: every key with its documentation, unset ones commented out."""

import json
import os
import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from kms.config import ConfigError, parse
from kms.settings import CONFIG_NAME, GIVEN, Settings

_HEADER = """\
# Settings of one key management service. This directory is its home; relative paths start here.
# The file holds no secrets. Keys that are commented out show their defaults.
"""
_WIDTH = 98


def write_initial(
    home: Path,
    *,
    name: str,
    public_url: str,
    token_label: str,
    module: Path | None = None,
    pin_file: Path | None = None,
    softhsm_conf: Path | None = None,
    listeners: Mapping[str, str] | None = None,
    server_names: Sequence[str] | None = None,
) -> Settings:
    """Make the home (0755) and its `kms.toml` (0644).

    Args:
        home: Directory; made if it is absent.
        name: Name of the log.
        public_url: Base URL of the public listener.
        token_label: CKA_LABEL of the token.
        module: PKCS#11 module; None for SoftHSM2's usual place.
        pin_file: File with the user PIN.
        softhsm_conf: SoftHSM2's configuration; its token directory is recorded, too.
        listeners: `api`, `public`, `operator` as `address:port`.
        server_names: Names of the API's server certificate.

    Raises:
        ConfigError: A value is wrong, or the home has a `kms.toml` already.
    """
    home = home.absolute()
    path = home / CONFIG_NAME
    token: dict[str, Any] = {"label": token_label}
    if module is not None:
        token["module"] = _relative(module, home)
    if pin_file is not None:
        token["pin_file"] = _relative(pin_file, home)
    if softhsm_conf is not None:
        token["directory"] = _relative(_token_directory(softhsm_conf), home)
        token["environment"] = {"SOFTHSM2_CONF": str(softhsm_conf.absolute())}
    values: dict[str, Any] = {"name": name, "public_url": public_url, "token": token}
    if listeners:
        values["listeners"] = dict(listeners)
    if server_names:
        values["tls"] = {"server_names": list(server_names)}
    settings = parse(path, values)
    _create(path, render(values))
    return settings


def render(values: Mapping[str, Any]) -> str:
    """The file's text: given values set, all others as comments with their defaults."""
    tables = {
        key: field.annotation
        for key, field in Settings.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
    }
    top = {
        key: field
        for key, field in Settings.model_fields.items()
        if key not in tables and key not in GIVEN
    }
    parts = [_HEADER, *_keys(top, values)]
    for key, model in tables.items():
        parts.append(f"{_comment(model.__doc__ or '')}\n[{key}]")
        parts.extend(_keys(model.model_fields, values.get(key, {})))
    return "\n\n".join(part.rstrip() for part in parts) + "\n"


def _keys(fields: Mapping[str, FieldInfo], values: Mapping[str, Any]) -> list[str]:
    return [
        f"{_comment(field.description or '')}\n{_assignment(key, field, values)}"
        for key, field in fields.items()
    ]


def _assignment(key: str, field: FieldInfo, values: Mapping[str, Any]) -> str:
    if key in values:
        return f"{key} = {_toml(values[key])}"
    default = field.get_default(call_default_factory=True, validated_data={})
    return f"# {key} =" if default is None else f"# {key} = {_toml(default)}"


def _toml(value: object) -> str:
    """A TOML value; a JSON string is a TOML basic string."""
    if isinstance(value, Mapping):
        pairs = (f"{json.dumps(key)} = {_toml(item)}" for key, item in value.items())
        return "{ " + ", ".join(pairs) + " }" if value else "{}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return str(value) if isinstance(value, int) else json.dumps(str(value), ensure_ascii=False)


def _comment(text: str) -> str:
    lines = textwrap.wrap(" ".join(text.split()), _WIDTH, break_on_hyphens=False)
    return "\n".join(f"# {line}" for line in lines)


def _relative(path: Path, home: Path) -> str:
    absolute = Path(os.path.normpath(path.absolute()))
    return str(absolute.relative_to(home) if absolute.is_relative_to(home) else absolute)


def _token_directory(conf: Path) -> Path:
    try:
        text = conf.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{conf}: the SoftHSM2 configuration cannot be read: {error}") from error
    match = re.search(r"^\s*directories\.tokendir\s*=\s*(\S.*?)\s*$", text, re.MULTILINE)
    if match is None:
        raise ConfigError(f"{conf}: names no directories.tokendir")
    return Path(match[1])


def _create(path: Path, text: str) -> None:
    """Write a file that must be new, durably: a half-written one would be taken for a whole."""
    temporary = path.with_name(f".{path.name}.new")
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        os.link(temporary, path)
    except FileExistsError as error:
        raise ConfigError(f"{path}: exists already; this home is set up") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from error
    finally:
        temporary.unlink(missing_ok=True)
