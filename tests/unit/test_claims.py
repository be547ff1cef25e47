"""What one request holds, no other gets; all of it is free when the request has ended."""

import pytest

from kms.services.claims import Claims
from kms.services.errors import StillRunningError


def test_what_is_held_nobody_else_gets():
    claims = Claims()
    with claims.hold(["one", "two"]), claims.hold(["three"]):
        for names in (["one"], ["four", "two"], ["three"]):
            with pytest.raises(StillRunningError):
                claims.hold(names)
        with claims.hold(["four"]):
            pass


def test_a_refused_request_holds_none_of_its_names():
    claims = Claims()
    with claims.hold(["one"]):
        with pytest.raises(StillRunningError):
            claims.hold(["two", "one"])
        with claims.hold(["two"]) as other:
            with pytest.raises(StillRunningError):
                other.add(["three", "one"])
            claims.hold(["three"])


def test_a_request_does_not_get_a_name_twice():
    with Claims().hold(["one"]) as held, pytest.raises(StillRunningError):
        held.add(["one"])


def test_an_end_frees_all_that_was_held_and_nothing_else():
    claims = Claims()
    with claims.hold(["kept"]):
        with claims.hold(["one"]) as held:
            held.add(["two"])
        claims.hold(["one", "two"])
        with pytest.raises(StillRunningError):
            claims.hold(["kept"])
