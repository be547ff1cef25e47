"""What the signer keeps of service keys: one small file a key, replaced whole and synced.

    keys/<label>.json    a key that is being made, is held, or was destroyed

The first of several thousand keys is as quick to make as the last. A file is written before the
token is asked to make the key, so that a crash leaves no key that nobody knows of, and stays when
the key is gone, so that no label is used again.
"""

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Literal

import msgspec

from hsm_drivers import durable
from hsm_drivers.errors import KeyNotFoundError, TokenFailureError, TokenUnavailableError
from hsm_drivers.ports import KeyLabel, KeyRecord


class Making(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="making"):
    """A key that a token may or may not hold, and that nobody was told of.

    Attributes:
        token: Where it is made.
        objects: Labels that it has there.
    """

    version: Literal[1]
    label: KeyLabel
    token: str
    objects: tuple[KeyLabel, ...]


class Held(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="held"):
    """A key that serves.

    Attributes:
        record: Its operations are those that are left.
        made_at: By the signer's clock.
        destroy_at: From when on it may be destroyed; None for a key that is to stay.
        destroying: Whether that has begun: it serves no more, and only what a look at the tokens
            shows to be whole comes back.
    """

    version: Literal[1]
    record: KeyRecord
    made_at: datetime
    destroy_at: datetime | None = None
    destroying: bool = False


class Destroyed(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="destroyed"):
    """A key that is gone.

    Attributes:
        tokens: Names of those that held it.
        at: By the signer's clock.
    """

    version: Literal[1]
    label: KeyLabel
    key_id: str
    algorithm: str
    tokens: tuple[str, ...]
    at: datetime


Entry = Making | Held | Destroyed
_decoder: msgspec.json.Decoder[Entry] = msgspec.json.Decoder(Entry)


class ServiceStore:
    """The open directory; `SignerState`'s lock sees to it that it is opened once."""

    def __init__(self, directory: Path) -> None:
        """Create or open, and read.

        Raises:
            TokenFailureError: It is open to other users, or a file is damaged.
        """
        self._directory = directory
        durable.private_directory(directory)
        self._entries = {label_of(entry): entry for entry in self._read()}

    def __iter__(self) -> Iterator[Entry]:
        """All that is known, oldest file name first."""
        return iter(list(self._entries.values()))

    def get(self, label: KeyLabel) -> Entry | None:
        """What is known of a label."""
        return self._entries.get(label)

    def held(self, label: KeyLabel) -> Held:
        """A key that serves.

        Raises:
            KeyNotFoundError: There is none, or it was destroyed.
        """
        match self._entries.get(label):
            case Held(destroying=False) as entry:
                return entry
            case Held() | Destroyed():
                raise KeyNotFoundError(f"service key {label!r} was destroyed")
            case _:
                raise KeyNotFoundError(f"the signer has no service key called {label!r}")

    def put(self, entry: Entry) -> None:
        """Keep an entry in place of the label's last one, durably.

        Raises:
            TokenUnavailableError: The disk refused; the old one stands.
        """
        path = self._path(label_of(entry))
        try:
            durable.replace(path, msgspec.json.encode(entry))
        except OSError as error:
            raise TokenUnavailableError(
                f"{path} cannot be written ({error.strerror}); no service key is made or changed"
                " until it can"
            ) from error
        self._entries[label_of(entry)] = entry

    def drop(self, label: KeyLabel) -> None:
        """Forget a key that never was.

        Raises:
            TokenUnavailableError: The disk refused.
        """
        path = self._path(label)
        try:
            durable.remove(path)
        except OSError as error:
            raise TokenUnavailableError(f"{path} cannot be removed ({error.strerror})") from error
        self._entries.pop(label, None)

    def _path(self, label: KeyLabel) -> Path:
        return self._directory / f"{label}.json"

    def _read(self) -> Iterator[Entry]:
        for path in sorted(self._directory.glob("*.json")):
            try:
                entry = _decoder.decode(path.read_bytes())
            except (OSError, msgspec.DecodeError) as error:
                raise TokenFailureError(
                    f"{path} cannot be read ({error}); restore it from a copy of this directory"
                ) from error
            if label_of(entry) != path.stem:
                raise TokenFailureError(f"{path} is the record of {label_of(entry)!r}")
            yield entry


def label_of(entry: Entry) -> KeyLabel:
    """The key's name."""
    return entry.record.label if isinstance(entry, Held) else entry.label
