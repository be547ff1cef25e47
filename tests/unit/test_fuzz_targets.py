"""The fuzzed parsers on their seeds and on changes of them; `make fuzz` goes on from there."""

import random
from collections.abc import Iterator

import pytest

from tests.support.fuzz_targets import TARGETS

CHANGES = 300


def changed(seeds: list[bytes], rng: random.Random) -> Iterator[bytes]:
    """Seeds with bytes changed, cut out, doubled, or mixed with another's."""
    for _ in range(CHANGES):
        data = bytearray(rng.choice(seeds))
        for _ in range(rng.randint(1, 3)):
            at, end = sorted(rng.choices(range(len(data) + 1), k=2))
            end = min(end, at + 16)
            other = rng.choice(seeds)
            data[at:end] = rng.choice(
                [rng.randbytes(end - at), b"", data[at:end] * 2, other[at:end]]
            )
        yield bytes(data)


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_and_changes_of_them(name: str):
    target = TARGETS[name]
    seeds = list(target.seeds())
    assert seeds
    for data in [b"", *seeds, *changed(seeds, random.Random(name))]:  # noqa: S311 - the same each time
        target.one(data)
