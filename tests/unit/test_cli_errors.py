"""Every error ends in a sentence, a remedy and the right exit status; never in a traceback."""

from pathlib import Path

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from hsm_drivers.errors import BY_CODE
from kms.cli.errors import (
    PROBLEM,
    REMEDIES,
    RULES,
    ExitCode,
    RefusedError,
    UsageProblemError,
    explain,
    printable,
)
from kms.cli.main import app, run
from kms.config import ConfigError
from kms.services.errors import KmsError
from tests.support.cli import Cli


def _all(root: type[BaseException]) -> list[type[BaseException]]:
    return [root, *(found for item in root.__subclasses__() for found in _all(item))]


@pytest.mark.parametrize("kind", _all(KmsError), ids=lambda kind: kind.__name__)
def test_every_refusal_of_a_use_case_fails_with_its_type(kind: type[KmsError]) -> None:
    explanation = explain(kind("no", field="name"))
    assert explanation.exit_code == ExitCode.FAILED
    assert explanation.document()["error"]["type"] == PROBLEM + kind.problem
    assert "(field name)" in explanation.text()


@pytest.mark.parametrize("kind", BY_CODE.values(), ids=lambda kind: kind.__name__)
def test_every_error_of_a_token_has_a_remedy(kind: type[Exception]) -> None:
    assert explain(kind("the token is gone")).remedy


def test_remedies_are_for_problems_that_exist() -> None:
    from kms.api import problems  # noqa: PLC0415 - registers its own errors

    assert problems
    known = {kind.problem for kind in _all(KmsError)}
    assert set(REMEDIES) <= known


def test_no_rule_hides_a_later_one() -> None:
    for at, rule in enumerate(RULES):
        hidden = [late.error for late in RULES[at + 1 :] if issubclass(late.error, rule.error)]
        assert not hidden, f"{rule.error.__name__} hides {hidden}"


def test_usage_and_failure_differ() -> None:
    assert explain(ConfigError("no such file")).exit_code == ExitCode.USAGE
    assert explain(UsageProblemError("which?")).exit_code == ExitCode.USAGE
    assert explain(FileNotFoundError(2, "No such file", "x.pem")).detail == "x.pem: No such file"
    assert explain(RefusedError("about:blank", 502, "no", field=None)).exit_code == ExitCode.FAILED
    assert explain(typer.Abort()).exit_code == ExitCode.FAILED
    assert explain(KeyboardInterrupt()).exit_code == ExitCode.FAILED


def test_a_defect_is_told_with_its_place_and_without_a_traceback(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("kms.cli.commands.client_settings", broken)
    done = cli.remote("tenant", "list", "--json")
    assert done.status == ExitCode.FAILED
    assert "unexpected ZeroDivisionError in test_cli_errors:" in done.err.replace(
        __name__, "test_cli_errors"
    )
    assert "Traceback" not in done.err
    assert done.json["error"]["type"] == "defect"


def test_an_interrupt_ends_quietly(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("kms.cli.commands.client_settings", interrupted)
    done = cli.remote("tenant", "list")
    assert done.status == ExitCode.FAILED
    assert done.err == "kms: interrupted; nothing more is done\n"


@given(st.text())
def test_nothing_printed_can_steer_a_terminal(text: str) -> None:
    assert all(letter.isprintable() or letter == "\n" for letter in printable(text))


@given(st.text(), st.text())
def test_a_problem_of_any_text_is_told(detail: str, field: str) -> None:
    explanation = explain(RefusedError(PROBLEM + "weak-key", 422, detail, field=field))
    told = explanation.text()
    assert all(letter.isprintable() or letter == "\n" for letter in told)


def test_the_program_exits_with_the_status(monkeypatch: pytest.MonkeyPatch) -> None:
    from kms.cli import main as program  # noqa: PLC0415 - its sys.argv is replaced

    monkeypatch.setattr("sys.argv", ["kms", "nonsense"])
    with pytest.raises(SystemExit) as caught:
        program.main()
    assert caught.value.code == ExitCode.USAGE


def test_a_reader_that_goes_away_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(**_: object) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr("kms.cli.main.app", gone)
    assert app is not gone
    assert run(["tenant", "list"]) == ExitCode.FAILED


@pytest.fixture
def cli(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(tmp_path, lambda: tuple(capsys.readouterr()))
