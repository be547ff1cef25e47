"""When a local command may begin: once its tokens answer, or have had their time to."""

from pathlib import Path

import pytest

from kms import bootstrap

SOCKET = Path("nowhere")


def probe_of(monkeypatch: pytest.MonkeyPatch, *said: bool | None) -> bootstrap.TokensProbe:
    """One whose signer says these, in turn: None for no answer, False for a token that is away."""
    answers = iter(said)

    async def ask(_probe: bootstrap.TokensProbe, _path: Path) -> bool | None:
        return next(answers)

    monkeypatch.setattr(bootstrap.TokensProbe, "_ask", ask)
    return bootstrap.TokensProbe()


def test_it_waits_for_signer_and_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    probe = probe_of(monkeypatch, None, False, False, True)
    assert [probe(SOCKET) for _ in range(4)] == [False, False, False, True]


def test_a_token_that_stays_away_is_not_waited_for_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [100.0]
    monkeypatch.setattr(bootstrap, "monotonic", lambda: now[0])
    probe = probe_of(monkeypatch, None, False, False, False)
    assert not probe(SOCKET)
    now[0] += 1_000  # a signer that has not answered has its own limit
    assert not probe(SOCKET)
    now[0] += bootstrap.TOKENS_SECONDS
    assert not probe(SOCKET)
    now[0] += 0.1
    assert probe(SOCKET)


def test_no_signer_is_no_answer(tmp_path: Path) -> None:
    assert not bootstrap.TokensProbe()(tmp_path / "signer.sock")
