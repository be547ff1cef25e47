"""What can be configured: every key with its default and its consequence for security.

Pure values; `kms.config` reads them from `<home>/kms.toml`. `kms init` writes the descriptions that
stand here into the file it makes.
"""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from kms.settings_kinds import (
    Address,
    BaseUrl,
    HomePath,
    Listener,
    Section,
    Text,
    count,
    no_password,
    parse_address,
)
from kms.settings_tokens import MAIN, Token, refuse_misnamed, refuse_twice, shown

__all__ = ["CONFIG_NAME", "GIVEN", "MAIN", "Address", "Settings", "Token", "parse_address", "shown"]

CONFIG_NAME = "kms.toml"
GIVEN = ("path", "home")
"""Fields of `Settings` that follow from where the file lies and are no keys of it."""

_NAME = r"[a-z0-9]([a-z0-9.-]{0,78}[a-z0-9])?"


class Listeners(Section):
    """Where the service listens. Everything stands on loopback until you say otherwise."""

    api: Listener = Field(
        default=Address("127.0.0.1", 8443),
        description="The API: TLS 1.3, a client certificate is required. Open it to the messaging "
        "servers and officers only.",
    )
    public: Listener = Field(
        default=Address("127.0.0.1", 8080),
        description="CRLs, CA certificates and the log's public part over plain HTTP: signed, "
        "read-only data. May be open to everyone.",
    )
    operator: Listener = Field(
        default=Address("127.0.0.1", 9464),
        description="Metrics and health, without authentication: keep it on loopback or in the "
        "operators' network.",
    )


class Tls(Section):
    """The API's server certificate, issued by the infrastructure CA and renewed by itself."""

    server_names: tuple[Text, ...] = Field(
        default=("127.0.0.1",),
        min_length=1,
        max_length=32,
        description="DNS names and IP addresses that clients call the API by.",
    )
    certificate_hours: int = count(
        72,
        1,
        168,
        "Lifetime of the server certificate. Its key is a 0600 file, not on the token, so keep "
        "this short.",
    )
    renew_before_hours: int = count(
        24, 1, 167, "How long before its end the server certificate is replaced."
    )


class Database(Section):
    """Where the ledger is kept."""

    url: Annotated[Text, AfterValidator(no_password)] | None = Field(
        default=None,
        description="SQLAlchemy URL; default: SQLite in <home>/data. Never write a password here.",
    )


class Signer(Section):
    """Signer processes: the only ones that hold the PIN."""

    state: HomePath | None = Field(
        default=None,
        description="Directory of the signer's journal, key records and last log heads; default: "
        "<home>-signer. It must be outside the home and its backups, or a rolled-back database "
        "could not be told from a good one.",
    )
    wedge_seconds: int = count(
        10, 2, 600, "A signer that does not answer for so long is killed and started again."
    )
    certificates_per_hour: int = count(
        1_000_000,
        60,
        1_000_000_000,
        "Most certificates that one authority's key signs at once, and in every hour after that; "
        "the signer refuses more. It bounds what a worker that was taken over gets signed: set it "
        "to a few times your busiest hour.",
    )
    crls_per_hour: int = count(
        36_000,
        3_600,
        1_000_000_000,
        "The same for its CRLs, counted apart: no flood of certificates holds up a revocation.",
    )
    checkpoints_per_hour: int = count(
        36_000_000,
        3_600,
        1_000_000_000,
        "The same for log heads, and for their cosignatures. The default is more than tokens sign: "
        "a head is wanted after every commit.",
    )
    service_keys_per_hour: int = count(
        1_000,
        1,
        1_000_000,
        "Most service keys that are made at once, and in every hour after that: an intruder in the "
        "worker fills no token.",
    )
    destruction_days: int = count(
        7,
        0,
        3_650,
        "From asking for the destruction of a service key to the first moment it is carried out; "
        "until then it can be cancelled. 0 destroys at once: for tests alone.",
    )


class Users(Section):
    """System users of the child processes; only a service started as root can use them."""

    worker: Text | None = Field(
        default=None,
        description="User of the worker; default: kms-worker where it exists. Without separate "
        "users, whoever takes over the worker can read the signer's memory.",
    )
    signer: Text | None = Field(
        default=None, description="User of the signers; default: kms-signer where it exists."
    )


class Limits(Section):
    """Bounds on what a client can ask for, and times."""

    max_body_bytes: int = count(8 << 20, 1 << 10, 64 << 20, "Largest request body.")
    batch_items: int = count(1000, 1, 1000, "Most items in a batch call.")
    concurrency: int = count(
        256,
        1,
        10_000,
        "Requests that the public listener serves at a time; more are answered 503 with "
        "Retry-After. [admission] has the API's.",
    )
    enrolment_seconds: int = count(
        600, 10, 86_400, "How long a device may take for its proofs: the life of a challenge."
    )
    idempotency_days: int = count(
        7, 7, 365, "How long answers are kept for repeated calls; they hold personal data."
    )
    crl_interval_seconds: int = count(
        3600, 10, 604_800, "A new CRL at least this often, besides one after every revocation."
    )
    crl_validity_seconds: int = count(
        86_400,
        60,
        604_800,
        "Distance from thisUpdate to nextUpdate: how long a verifier that is cut off may trust "
        "an old CRL.",
    )
    drain_seconds: int = count(
        30, 1, 600, "How long accepted requests may take to finish when the service stops."
    )


class Admission(Section):
    """Calls of the API that are served and that wait, by class; further ones get Retry-After.

    More places carry higher peaks over and make answers later; they make nothing faster.
    """

    revocations: int = count(
        16, 1, 1000, "Revocations, disablings and CRLs served at a time, before all other work."
    )
    revocations_waiting: int = count(496, 0, 10_000, "Such calls that may wait.")
    administration: int = count(
        4, 1, 1000, "Officers' other orders served at a time: principals, their certificates."
    )
    administration_waiting: int = count(60, 0, 10_000, "Such calls that may wait.")
    enrolments: int = count(64, 1, 1000, "Calls for one device served at a time.")
    enrolments_waiting: int = count(
        192,
        0,
        10_000,
        "Such calls that may wait. With all places taken an answer takes about as "
        "many milliseconds as there are places, at 1,000 calls a second.",
    )
    batches: int = count(
        4, 1, 1000, "Batch calls served at a time. Each may hold limits.max_body_bytes of memory."
    )
    batches_waiting: int = count(12, 0, 10_000, "Such calls that may wait, their bodies read.")
    key_uses: int = count(32, 1, 1000, "Uses of keys served at a time, batches included.")
    key_uses_waiting: int = count(96, 0, 10_000, "Such calls that may wait.")
    readings: int = count(32, 1, 1000, "Reading calls of the API served at a time.")
    readings_waiting: int = count(96, 0, 10_000, "Such calls that may wait.")
    wait_seconds: int = count(
        2, 1, 600, "How long a call for one device or key, or a reading one, may wait for its turn."
    )
    long_wait_seconds: int = count(10, 1, 600, "How long all others may.")


class WeakKeys(Section):
    """Lists of known-compromised keys."""

    blocklist: HomePath | None = Field(
        default=None,
        description="Directory of badkeys blocklists. Nothing is downloaded. Without it keys that "
        "are public knowledge elsewhere are not recognised, and `kms doctor` says so.",
    )


class Settings(Section):
    """Everything about one service; made by `load`."""

    path: Path = Field(description="The file itself; not a key of it.")
    home: Path = Field(description="The directory of the file; not a key of it.")
    name: Annotated[str, Field(pattern=rf"^{_NAME}(/{_NAME})*$", max_length=100)] = Field(
        description="Name of the log, as its verifiers know it; the origin is <name>/<epoch>. "
        "Never change it: the log would be another one.",
    )
    public_url: BaseUrl = Field(
        description="Base URL of the public listener as the world reaches it; goes into CRL and "
        "issuer addresses of every certificate.",
    )
    policy: Text = Field(
        default="sovereign-2026",
        description="Policy that decides algorithms: a shipped name, or a path (with a slash) of "
        "a file in the same form.",
    )
    listeners: Listeners = Listeners()
    tls: Tls = Tls()
    database: Database = Database()
    token: Token = Token()
    tokens: dict[str, Token] = Field(
        default_factory=dict,
        max_length=32,
        description="Further tokens: tables [tokens.<name>] with the keys of [token], the name of "
        "1 to 32 letters a-z, digits and hyphens. Keys remember it: never give it to another "
        "token.",
    )
    signer: Signer = Signer()
    users: Users = Users()
    limits: Limits = Limits()
    admission: Admission = Admission()
    weak_keys: WeakKeys = WeakKeys()

    @model_validator(mode="after")
    def _consistent(self) -> "Settings":
        refuse_misnamed(self.tokens)
        refuse_twice(self.estate)
        if self.signer_state.is_relative_to(self.home):
            raise ValueError("signer.state must be outside the home, as <home>-signer is")
        if self.tls.renew_before_hours >= self.tls.certificate_hours:
            raise ValueError("tls.renew_before_hours must be less than tls.certificate_hours")
        if self.limits.crl_interval_seconds >= self.limits.crl_validity_seconds:
            raise ValueError(
                "limits.crl_interval_seconds must be less than limits.crl_validity_seconds"
            )
        return self

    @property
    def estate(self) -> dict[str, Token]:
        """All tokens by name; the service's own, whose name is empty, first."""
        return {"": self.token, **self.tokens}

    @property
    def pooled(self) -> bool:
        """Whether tokens have processes of their own; else the signer opens the only one."""
        return bool(self.tokens) or self.token.apart

    @property
    def policy_path(self) -> Path | None:
        """The policy's file where `policy` is a path; None for a shipped one."""
        return self.home / self.policy if "/" in self.policy else None

    @property
    def data_dir(self) -> Path:
        """What the worker writes besides TLS keys: the ledger."""
        return self.home / "data"

    @property
    def tls_dir(self) -> Path:
        """The worker's TLS keys and certificates."""
        return self.home / "tls"

    @property
    def run_dir(self) -> Path:
        """Pid files, locks and the signer's socket."""
        return self.home / "run"

    @property
    def clients_dir(self) -> Path:
        """Development clients: `<name>.pem` and `<name>.key`."""
        return self.home / "clients"

    @property
    def trust_path(self) -> Path:
        """PEM anchor of the API's server certificate."""
        return self.home / "trust.pem"

    @property
    def signer_socket(self) -> Path:
        """Unix socket on which the signer answers."""
        return self.run_dir / "signer.sock"

    @property
    def tokens_dir(self) -> Path:
        """Sockets of the token processes; the signer's alone."""
        return self.run_dir / "tokens"

    def token_sockets(self, name: str) -> list[Path]:
        """Of each process of the token."""
        count = self.estate[name].signers
        return [self.tokens_dir / f"{shown(name)}-{number}.sock" for number in range(1, count + 1)]

    @property
    def signer_state(self) -> Path:
        """The signer's own directory."""
        return self.signer.state or self.home.with_name(f"{self.home.name}-signer")

    @property
    def database_url(self) -> str:
        """SQLAlchemy URL of the ledger."""
        return self.database.url or f"sqlite:///{self.data_dir / 'ledger.db'}"
