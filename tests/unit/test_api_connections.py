"""The connections of a listener: a newcomer's place is that of the one waiting longest."""

from kms.api.connections import Connections


class Guest:
    ended = False

    def abort(self) -> None:
        self.ended = True


def guests(count: int, into: Connections) -> list[Guest]:
    made = [Guest() for _ in range(count)]
    for guest in made:
        into.enter(guest)
    return made


def ended(some: list[Guest]) -> list[int]:
    return [number for number, guest in enumerate(some) if guest.ended]


def test_the_one_that_waits_longest_makes_room():
    all_of_them = Connections(3)
    some = guests(3, all_of_them)
    assert ended(some) == []
    some += guests(2, all_of_them)
    assert ended(some) == [0, 1]


def test_waiting_begins_anew_with_every_answer():
    all_of_them = Connections(3)
    some = guests(3, all_of_them)
    all_of_them.serve(some[0])
    all_of_them.wait(some[0])
    some += guests(2, all_of_them)
    assert ended(some) == [1, 2]


def test_who_is_served_is_never_given_up():
    all_of_them = Connections(2)
    some = guests(2, all_of_them)
    for guest in some:
        all_of_them.serve(guest)
    some += guests(1, all_of_them)
    assert ended(some) == [2]
    all_of_them.wait(some[1])
    some += guests(1, all_of_them)
    assert ended(some) == [1, 2]


def test_who_left_takes_no_place():
    all_of_them = Connections(2)
    some = guests(2, all_of_them)
    all_of_them.serve(some[0])
    for guest in some:
        all_of_them.leave(guest)
        all_of_them.wait(guest)  # an answer that is finished after its connection
    some += guests(2, all_of_them)
    assert ended(some) == []
