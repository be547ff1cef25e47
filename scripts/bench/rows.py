"""What is measured, under which name, and what it is held against (issue of the release)."""

from dataclasses import dataclass

BATCH_SIZE = 100
BATCH_CONNECTIONS = 4
SINGLE_CONNECTIONS = 32
READ_CONNECTIONS = 16
MANY_OBJECTS = 10_000
FEW_OBJECTS = 10

RAW = "raw C signing, P-256"
SIGNER = "signer through its socket, batches of 100"
BUILD = "template build + sign, batches of 100"
BATCH = "enrolments of device-identity, batches of 100"
BUNDLE = "enrolments of device, batches of 100"
SINGLE = "single enrolments, 32 connections"
ECHO = "echo of single enrolments, 32 connections"
EACH = "single enrolments, a commit each"
FEW = "driver, token of 10 objects"
MANY = "driver, token of 10,000 objects"
CFSSL = "CFSSL serve, software key, at its best"
DJANGO = "django-ca, HSM backend"
DJANGO_HELD = "django-ca, HSM backend, session held open"
TILE, TILE_FILE = "hash tile", "hash tile as a static file"
CHECKPOINT, CHECKPOINT_FILE = "checkpoint", "checkpoint as a static file"
CRL, CRL_FILE = "CRL", "CRL as a static file"
MACS, MACS_RAW = "HMAC through the signer, batches of 100", "raw C HMAC-SHA-256"
SEALED, SEALED_RAW = "AES-GCM through the signer, batches of 100", "raw C AES-256-GCM"
OPENED = "MLKEM768-X25519 through the signer, batches of 100"
OPENED_RAW = "raw C X25519, then ML-KEM-768 in software"
POOL = "signer over a token process, batches of 100"
POOL_ONE, POOL_TWO = "pool, one token", "pool, two tokens"
LATENT_ONE = "pool, 5 ms a signature, one process"
LATENT_MANY = "pool, 5 ms a signature, 16 processes"
COMMITS = "ledger alone, 100 devices a commit"
COMMITS_EACH = "ledger alone, a commit each"

UNITS = {
    RAW: "signatures",
    SIGNER: "statements",
    BUILD: "certificates",
    BATCH: "certificates",
    BUNDLE: "certificates",
    SINGLE: "requests",
    ECHO: "requests",
    EACH: "requests",
    FEW: "signatures",
    MANY: "signatures",
    CFSSL: "certificates",
    DJANGO: "certificates",
    DJANGO_HELD: "certificates",
    TILE: "requests",
    TILE_FILE: "requests",
    CHECKPOINT: "requests",
    CHECKPOINT_FILE: "requests",
    CRL: "requests",
    CRL_FILE: "requests",
    MACS: "MACs of 1 KiB",
    MACS_RAW: "MACs of 1 KiB",
    SEALED: "texts of 1 KiB",
    SEALED_RAW: "texts of 1 KiB",
    OPENED: "decapsulations",
    OPENED_RAW: "decapsulations",
    POOL: "statements",
    POOL_ONE: "signatures",
    POOL_TWO: "signatures",
    LATENT_ONE: "signatures",
    LATENT_MANY: "signatures",
    COMMITS: "devices",
    COMMITS_EACH: "devices",
}
"""What each row counts."""


@dataclass(frozen=True, slots=True)
class Ratio:
    """A row of the table: one measured rate over another of the same round.

    Attributes:
        what: As people read it.
        of: Row above the line.
        to: Row below the line.
        floor: At least this.
        aim: What is hoped for.
    """

    what: str
    of: str
    to: str
    floor: float
    aim: float


RATIOS = (
    Ratio("signer through its socket ÷ raw C signing", SIGNER, RAW, 0.50, 0.75),
    Ratio("signer over a token process ÷ on its own token", POOL, SIGNER, 0.90, 1.0),
    Ratio("two token processes, two tokens ÷ one, P-256", POOL_TWO, POOL_ONE, 1.6, 1.9),
    Ratio("5 ms latency: 16 token processes ÷ one", LATENT_MANY, LATENT_ONE, 12, 15),
    Ratio("template build + sign ÷ the signer's own rate", BUILD, SIGNER, 0.85, 0.95),
    Ratio("batch-100 enrolments ÷ raw C signing", BATCH, RAW, 0.22, 0.45),
    Ratio("bundle `device` ÷ bundle `device-identity`", BUNDLE, BATCH, 0.80, 1.0),
    Ratio("single enrolments ÷ an echo, 32 connections", SINGLE, ECHO, 0.40, 0.70),
    Ratio("group commit ÷ a commit each, 32 connections", SINGLE, EACH, 2.0, 3.0),
    Ratio("sign rate with 10,000 objects ÷ with ten", MANY, FEW, 0.95, 1.0),
    Ratio("batch-100 enrolments ÷ CFSSL at its best", BATCH, CFSSL, 0.6, 1.2),
    Ratio("batch-100 enrolments ÷ django-ca, HSM backend", BATCH, DJANGO, 15, 30),
    Ratio("hash tile ÷ static file", TILE, TILE_FILE, 0.5, 0.8),
    Ratio("checkpoint ÷ static file", CHECKPOINT, CHECKPOINT_FILE, 0.5, 0.8),
    Ratio("CRL ÷ static file", CRL, CRL_FILE, 0.5, 0.8),
    Ratio("HMAC through the signer ÷ raw C", MACS, MACS_RAW, 0.5, 0.8),
    Ratio("AES-GCM through the signer ÷ raw C", SEALED, SEALED_RAW, 0.5, 0.8),
    Ratio("hybrid decapsulation ÷ its components", OPENED, OPENED_RAW, 0.5, 0.9),
)


@dataclass(frozen=True, slots=True)
class Sample:
    """One row of one round.

    Attributes:
        rate: Of what the row counts, a second.
        requests: HTTP requests a second; 0 where there are none.
        cpu: CPU microseconds per counted thing: worker with its verifier, signer, load client;
            empty where the row has no service.
        p50: Median latency of a request in milliseconds; 0 where there are none.
        p99: As `p50`.
    """

    rate: float
    requests: float = 0.0
    cpu: tuple[float, ...] = ()
    p50: float = 0.0
    p99: float = 0.0


def percentile(ordered: list[float], share: float) -> float:
    """The smallest of these ordered values that so large a share of them does not exceed."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]
