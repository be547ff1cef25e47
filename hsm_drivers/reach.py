"""Whether the tokens that are well now hold every key that signs statements."""

from collections.abc import Sequence

from hsm_drivers.errors import TokenUnavailableError
from hsm_drivers.ports import KeyRecord, TokenStatus


def away(tokens: Sequence[TokenStatus]) -> list[str]:
    """Why each token that is not well is not, a sentence each."""
    return [_sentence(token, tokens) for token in tokens if not token.healthy]


def refuse_unreachable(records: Sequence[KeyRecord], tokens: Sequence[TokenStatus]) -> None:
    """Every key is where it was made, or on a replica; without keys the service's own token is.

    Raises:
        TokenUnavailableError: One is not, and why.
    """
    well = {token.name for token in tokens if token.healthy}
    said = {token.name: _sentence(token, tokens) for token in tokens}
    for places in [record.places for record in records] or [("",)]:
        if not well & set(places):
            unknown = "the settings have no token {!r}"
            raise TokenUnavailableError(
                "; ".join(said.get(place, unknown.format(place)) for place in places)
            )


def _sentence(token: TokenStatus, tokens: Sequence[TokenStatus]) -> str:
    name = token.name or "main"
    return token.detail if len(tokens) == 1 else f"token {name} ({token.label}): {token.detail}"
