"""What a refusal must leave: nothing but an answer and a number."""

import hashlib
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

from tests.support.calling import Answer, Client
from tests.support.running import Service, wait_for

OWN_PACE = {"signer_mark"}
"""Tables that the service changes by itself."""
LIST_SECONDS = 3.0
"""By then a revocation is on a list: gathering takes half a second, signing far less."""


def state_of(service: Service) -> dict[str, str]:
    """Every table of the ledger and a digest of its rows."""
    path = service.home.settings.data_dir / "ledger.db"
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        names = [
            name
            for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            if name not in OWN_PACE
        ]
        return {
            name: hashlib.sha256(
                repr(database.execute(f'SELECT * FROM "{name}"').fetchall()).encode()  # noqa: S608
            ).hexdigest()
            for name in names
        }


@contextmanager
def until_listed(service: Service, authority: str = "people") -> Iterator[None]:
    """Something is revoked; the service makes a new list by itself, and is at rest then."""
    before = service.metric("kms_crl_number", authority=authority)
    yield
    wait_for(lambda: service.metric("kms_crl_number", authority=authority) > before)


def _rest(service: Service) -> None:
    """Wait for the list that follows a revocation of a moment ago."""
    path = service.home.settings.data_dir / "ledger.db"
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        (last,) = database.execute("SELECT max(revoked_at) FROM certificates").fetchone()
    if last is not None:
        time.sleep(max(0.0, min(LIST_SECONDS, last + LIST_SECONDS - time.time())))


@contextmanager
def changing_nothing(service: Service) -> Iterator[None]:
    """Whatever happens meanwhile changes neither ledger nor log."""
    _rest(service)
    before, size = state_of(service), service.metric("kms_log_size")
    yield
    after = state_of(service)
    assert after.keys() == before.keys()
    changed = [name for name in before if before[name] != after[name]]
    assert not changed, changed
    assert service.metric("kms_log_size") == size


@contextmanager
def refusing(service: Service, problem: str, count: int = 1) -> Iterator[None]:
    """As above, and the refusals are counted."""
    before = service.metric("kms_refusals_total", problem=problem)
    with changing_nothing(service):
        yield
    assert service.metric("kms_refusals_total", problem=problem) == before + count


def check_refusal(answer: Answer, problem: str, field: str | None = None) -> None:
    """A problem document of that type, for the client's fault, that names the field."""
    assert answer.problem == problem, answer.body
    assert 400 <= answer.status < 500, answer.body
    document = answer.document
    assert document["status"] == answer.status
    assert {"type", "title", "status", "detail", "retry"} <= document.keys()
    assert document["detail"]
    assert answer.field == field, answer.body
    assert answer.headers["cache-control"] == "no-store"


def post_refused(
    service: Service, client: Client, path: str, body: object, problem: str, field: str | None
) -> Answer:
    """A POST that is refused in every respect."""
    with refusing(service, problem):
        answer = client.post(path, body)
    check_refusal(answer, problem, field)
    return answer
