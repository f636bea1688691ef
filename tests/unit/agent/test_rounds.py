"""When the agent looks at which cards."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cgpu.agent.rounds import AGAIN_NS, Rounds, groups_of

PERIOD_NS, CHORES_NS = 500, 800
CARDS = ("a", "b", "c", "d", "e")
GROUPS = groups_of(CARDS, ())


def test_cards_of_one_tenant_belong_together():
    assert tuple(frozenset(card) for card in CARDS) == GROUPS
    together = groups_of(CARDS, [("a", "c"), ("e",), ("c", "d"), ("gone", "b")])
    assert together == (frozenset("acd"), frozenset("b"), frozenset("e"))


@given(
    st.lists(st.tuples(st.integers(1, 150), st.sets(st.sampled_from(CARDS)), st.booleans(), st.booleans()), max_size=60)
)
def test_every_card_is_looked_at_once_in_a_period_whatever_happens(events: list[tuple[int, set[str], bool, bool]]):
    rounds, now_ns = Rounds(PERIOD_NS, CHORES_NS), 0
    turn = rounds.turn(now_ns, GROUPS, (), woken=True)
    assert set(turn.groups) == set(GROUPS)
    assert turn.chores
    looked = dict.fromkeys(CARDS, 0)
    wait_ns, chores_ns = rounds.wait_ns(0, (), rests=False), 0
    for after_ns, touched, woken, rests in events:
        now_ns += min(after_ns, wait_ns)
        turn = rounds.turn(now_ns, GROUPS, touched, woken=woken)
        cards = frozenset[str]().union(*turn.groups)
        assert cards >= touched
        looked |= dict.fromkeys(cards, now_ns)
        chores_ns = now_ns if turn.chores else chores_ns
        assert turn.chores or not woken
        wait_ns = rounds.wait_ns(now_ns, (), rests=rests)
        assert 0 <= wait_ns <= 2 * PERIOD_NS // len(CARDS)
        assert rests or wait_ns <= PERIOD_NS // len(CARDS)
        assert now_ns - min(looked.values()) <= 2 * PERIOD_NS
        assert now_ns - chores_ns <= CHORES_NS + 2 * PERIOD_NS


def test_one_card_alone_is_looked_at_at_each_turn():
    rounds, group = Rounds(PERIOD_NS, CHORES_NS), (frozenset("a"),)
    assert rounds.turn(0, group, (), woken=True).groups == group
    assert rounds.wait_ns(0, (), rests=False) == PERIOD_NS
    assert rounds.turn(100, group, (), woken=True).groups == group
    assert rounds.wait_ns(100, (), rests=False) == PERIOD_NS
    turn = rounds.turn(300, group, (), woken=False)
    assert (turn.groups, turn.chores) == ((), False)
    assert rounds.wait_ns(300, (), rests=False) == 300
    assert rounds.turn(300, group, "a", woken=False).groups == group
    assert rounds.turn(600, group, (), woken=False).groups == group


def test_where_nothing_changes_a_period_is_twice_as_long():
    rounds, group = Rounds(PERIOD_NS, CHORES_NS), (frozenset("a"),)
    rounds.turn(0, group, (), woken=True)
    assert rounds.wait_ns(0, (), rests=True) == 2 * PERIOD_NS
    assert rounds.turn(PERIOD_NS, group, (), woken=False).groups == ()


def test_a_card_that_was_still_is_looked_at_again_soon_and_once():
    rounds = Rounds(10 * AGAIN_NS, CHORES_NS)
    rounds.turn(0, GROUPS, (), woken=True)
    assert rounds.wait_ns(0, GROUPS[3:4], rests=False) == AGAIN_NS
    assert rounds.turn(AGAIN_NS, GROUPS, (), woken=False).groups == GROUPS[3:4]
    assert rounds.wait_ns(AGAIN_NS, (), rests=False) == AGAIN_NS
    assert rounds.turn(2 * AGAIN_NS, GROUPS, (), woken=False).groups == GROUPS[:1]


def test_a_tenant_that_joins_two_cards_has_them_looked_at():
    rounds = Rounds(PERIOD_NS, CHORES_NS)
    rounds.turn(0, GROUPS, (), woken=True)
    rounds.wait_ns(0, (), rests=False)
    assert rounds.turn(1, groups_of(CARDS, ["de"]), (), woken=False).groups == (frozenset("de"),)


def test_a_node_without_cards_has_its_chores():
    rounds = Rounds(PERIOD_NS, CHORES_NS)
    turn = rounds.turn(0, (), (), woken=False)
    assert (turn.groups, turn.chores) == ((), True)
    assert rounds.wait_ns(0, (), rests=False) == PERIOD_NS
