"""Kinds of values that settings have, and the table that all tables are."""

import os
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo

from pki.names import is_location


@dataclass(frozen=True, slots=True)
class Address:
    """Where a listener listens."""

    host: str
    port: int

    def __str__(self) -> str:
        """`host:port`, IPv6 hosts in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(value: object) -> Address:
    """`127.0.0.1:8443` or `[::1]:8443`; names are refused, since a resolver could move a listener.

    Raises:
        ValueError: Any other form.
    """
    if isinstance(value, Address):
        return value
    host, separator, port = str(value).rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    try:
        address = ip_address(host[1:-1] if bracketed else host)
        number = int(port)
    except ValueError:
        address, number = None, 0
    good_form = address is not None and bracketed == (address.version == 6)
    if not (separator and good_form and port.isascii() and 0 < number <= 65535):
        raise ValueError("write an IP address and a port, such as 127.0.0.1:8443 or [::1]:8443")
    return Address(str(address), number)


def _below_home(value: Path, info: ValidationInfo) -> Path:
    home: Path = info.context["home"] if info.context else Path()
    return Path(os.path.normpath(home / value))


def _base_url(value: str) -> str:
    parts = urlsplit(value)
    plain = not (parts.query or parts.fragment or parts.username or parts.password)
    if parts.scheme not in {"http", "https"} or not parts.hostname or not plain:
        raise ValueError("write a plain http or https URL, such as http://pki.example.org")
    value = value.rstrip("/")
    if not is_location(f"{value}/pki/root.crl"):
        raise ValueError(
            "the host must be an IPv4 address or a full domain name in lower case, such as "
            "http://pki.example.org: it goes into certificates (RFC 5280 4.2.1.6)"
        )
    return value


Listener = Annotated[Address, BeforeValidator(parse_address)]
HomePath = Annotated[Path, AfterValidator(_below_home)]
BaseUrl = Annotated[str, Field(max_length=200), AfterValidator(_base_url)]
Text = Annotated[str, Field(min_length=1, max_length=200)]


def no_password(value: str) -> str:
    """A URL without one.

    Raises:
        ValueError: It has one.
    """
    if urlsplit(value).password is not None:
        raise ValueError("no password here: use a .pgpass file or peer authentication")
    return value


def count(default: int, low: int, high: int, description: str) -> Any:
    """A whole number within bounds."""
    return Field(default=default, ge=low, le=high, strict=True, description=description)


class Section(BaseModel):
    """A table of the file: frozen, and without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)
