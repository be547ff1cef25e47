"""Where a token leaves the standard, or its own profile; sentences, from values alone."""

from collections.abc import Iterable, Sequence
from dataclasses import fields

from hsm_drivers.compat.report import AlgorithmResult, Outcome, Step
from hsm_drivers.vendor import Profile, Spelling, standard


def deviations(
    profile: Profile, results: Sequence[AlgorithmResult], steps: Sequence[Step]
) -> tuple[str, ...]:
    """What was seen first, then what the profile says of the token."""
    every = [*steps, *(one for result in results for one in result.steps)]
    seen = [*_broken(results, steps), *_unknown_codes(profile, every)]
    return (*seen, *_told(profile))


def _broken(results: Sequence[AlgorithmResult], steps: Iterable[Step]) -> Iterable[str]:
    for result in results:
        for one in result.steps:
            if one.outcome is Outcome.BAD:
                yield f"seen: {result.algorithm}: {one.what}: {one.detail}"
            elif one.outcome is Outcome.LACKING and one.code:
                said = "its mechanisms are listed, and"
                yield f"seen: {result.algorithm}: {said} {one.what} answers {one.code}"
    for one in steps:
        if one.outcome is Outcome.BAD:
            yield f"seen: {one.what}: {one.detail}"


def _unknown_codes(profile: Profile, steps: Iterable[Step]) -> Iterable[str]:
    for code in sorted({one.code for one in steps if one.code}):
        if code not in profile.remedies:
            yield f"seen: it answers {code}, which neither standard nor profile know"


def _told(profile: Profile) -> Iterable[str]:
    base = standard()
    if profile.name == base.name:
        return
    for scheme, spelling in profile.spellings.items():
        said = _differences(spelling, base.spellings[scheme])
        if said:
            yield f"profile: {scheme}: {said} ({spelling.source})"
    for quirk in profile.quirks:
        yield f"profile: {quirk.what} ({quirk.source})"


def _differences(own: Spelling, base: Spelling) -> str:
    differ = [
        field.name
        for field in fields(Spelling)
        if field.name not in {"source", "hashes"}
        and getattr(own, field.name) != getattr(base, field.name)
    ]
    return ", ".join(
        f"{name} {_shown(getattr(own, name))} for {_shown(getattr(base, name))}" for name in differ
    )


def _shown(value: object) -> str:
    if isinstance(value, frozenset):
        return " ".join(sorted(value)) or "none"
    return f"{value:#x}" if isinstance(value, int) else str(value)
