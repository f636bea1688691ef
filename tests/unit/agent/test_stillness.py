"""When a look can be left out: never where it could have found something."""

from __future__ import annotations

from cgpu.agent.attribution import STEADY_NS
from cgpu.agent.rounds import Group
from cgpu.agent.stillness import LOOK_NS, Glance, Stillness

CARD, OTHER = frozenset({"a"}), frozenset({"b"})


def glance(words: bytes = b"") -> Glance:
    return Glance((("t", ("/t",)),), words, (((), 0),))


def look(still: Stillness, group: Group, seen: Glance | None, now_ns: int, *, ending: bool = False) -> bool:
    """Whether the group was looked at."""
    if group not in still.to_look_at({group: seen}, now_ns):
        return False
    still.looked(group, seen, now_ns, ending=ending)
    return True


def rests(still: Stillness) -> bool:
    return still.rests


def stirred(still: Stillness) -> tuple[Group, ...]:
    return still.stirred


def test_two_looks_that_far_enough_apart_find_the_same_are_enough():
    still = Stillness()
    assert look(still, CARD, glance(), 0)
    assert not rests(still)
    assert look(still, CARD, glance(), STEADY_NS // 2)
    assert look(still, CARD, glance(), STEADY_NS)
    assert not look(still, CARD, glance(), STEADY_NS + 1)
    assert rests(still)


def test_now_and_then_everything_is_looked_at_and_rests_all_the_same():
    still = Stillness()
    times = range(0, 2 * LOOK_NS, STEADY_NS)
    looked = [now_ns for now_ns in times if look(still, CARD, glance(), now_ns)]
    assert looked == [0, STEADY_NS, STEADY_NS + LOOK_NS]
    assert look(still, CARD, glance(), STEADY_NS + 2 * LOOK_NS)
    assert rests(still)
    assert stirred(still) == ()


def test_until_when_nothing_could_be_found():
    still = Stillness()
    assert still.due_ns({CARD: glance()}) is None
    look(still, CARD, glance(), 0)
    look(still, CARD, glance(), STEADY_NS)
    look(still, OTHER, glance(), 5)
    assert still.due_ns({CARD: glance()}) == STEADY_NS + LOOK_NS
    assert still.due_ns({CARD: glance(b"x")}) is None
    assert still.due_ns({CARD: None}) is None
    assert still.due_ns({CARD: glance(), OTHER: glance()}) is None
    look(still, OTHER, glance(), 5 + STEADY_NS)
    assert still.due_ns({CARD: glance(), OTHER: glance()}) == STEADY_NS + LOOK_NS


def test_whatever_changes_is_looked_at_until_it_has_lasted():
    still = Stillness()
    look(still, CARD, glance(), 0)
    look(still, CARD, glance(), STEADY_NS)
    assert not look(still, CARD, glance(), 2 * STEADY_NS)
    assert look(still, CARD, glance(b"x"), 3 * STEADY_NS)
    assert stirred(still) == (CARD,)
    assert look(still, CARD, glance(), 4 * STEADY_NS)  # as it was before; but the last look found something else
    assert stirred(still) == ()
    assert look(still, CARD, glance(), 5 * STEADY_NS)
    assert not look(still, CARD, glance(), 6 * STEADY_NS)


def test_what_ends_by_itself_or_does_not_answer_is_looked_at_each_time():
    still = Stillness()
    assert all(look(still, CARD, glance(), number * STEADY_NS, ending=True) for number in range(5))
    assert all(look(still, CARD, None, number * STEADY_NS) for number in range(5, 10))


def test_groups_are_told_apart_and_forgotten():
    still = Stillness()
    for now_ns in (0, STEADY_NS, 2 * STEADY_NS):
        look(still, CARD, glance(), now_ns)
    assert look(still, OTHER, glance(), 2 * STEADY_NS)
    assert not rests(still)
    still.keep_only([CARD])
    assert rests(still)
    assert look(still, OTHER, glance(), 3 * STEADY_NS)
