"""Every call of every listener, as described and not: no crash, no answer that is not described."""

from collections.abc import Iterator

import pytest
from schemathesis import GenerationMode

from tests.support.described import CHECKS, PLAIN_CHECKS, Described, session
from tests.support.tls_site import Running, running

QUICK, LONG = 4, 100
"""Requests per operation, in every run and in the long one."""
NAMES = ["officer", "auditor", "messenger"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("fuzzed")) as made:
        yield made


def fuzz_api(server: Running, name: str, mode: GenerationMode, examples: int) -> None:
    with session(server, name) as asking:
        api = Described(server.url, asking, CHECKS)
        for operation in api.operations():
            api.fuzz(operation, mode, examples)


def fuzz_plain(server: Running, listener: str, mode: GenerationMode, examples: int) -> None:
    with session(server, None) as asking:
        url = f"http://127.0.0.1:{server.ports[listener]}"
        pages = Described(url, asking, PLAIN_CHECKS)
        for operation in pages.operations():
            pages.fuzz(operation, mode, examples)


@pytest.mark.parametrize("name", ["officer", "messenger"])
@pytest.mark.parametrize("mode", list(GenerationMode))
def test_the_api_answers_as_described(server: Running, name: str, mode: GenerationMode):
    fuzz_api(server, name, mode, QUICK)


@pytest.mark.parametrize("listener", ["public", "operator"])
@pytest.mark.parametrize("mode", list(GenerationMode))
def test_plain_listeners_answer_as_described(server: Running, listener: str, mode: GenerationMode):
    fuzz_plain(server, listener, mode, 5 * QUICK)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("mode", list(GenerationMode))
def test_the_api_answers_as_described_for_long(server: Running, name: str, mode: GenerationMode):
    fuzz_api(server, name, mode, LONG)
    for listener in ("public", "operator"):
        fuzz_plain(server, listener, mode, LONG)
