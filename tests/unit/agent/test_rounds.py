"""When the agent looks at which cards."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cgpu.agent.rounds import Rounds, groups_of

PERIOD_NS = 500
CARDS = ("a", "b", "c", "d", "e")
GROUPS = groups_of(CARDS, ())


def test_cards_of_one_tenant_belong_together():
    assert tuple(frozenset(card) for card in CARDS) == GROUPS
    together = groups_of(CARDS, [("a", "c"), ("e",), ("c", "d"), ("gone", "b")])
    assert together == (frozenset("acd"), frozenset("b"), frozenset("e"))


@given(st.lists(st.tuples(st.integers(1, 150), st.sets(st.sampled_from(CARDS)), st.booleans()), max_size=60))
def test_every_card_is_looked_at_once_in_a_period_whatever_happens(events: list[tuple[int, set[str], bool]]):
    rounds, now_ns = Rounds(PERIOD_NS), 0
    turn = rounds.turn(now_ns, GROUPS, (), woken=True)
    assert turn.cards == set(CARDS)
    assert turn.chores
    looked = dict.fromkeys(CARDS, 0)
    chores_ns = 0
    for after_ns, touched, woken in events:
        now_ns += min(after_ns, turn.wait_ns)
        turn = rounds.turn(now_ns, GROUPS, touched, woken=woken)
        assert turn.cards >= touched
        looked |= dict.fromkeys(turn.cards, now_ns)
        chores_ns = now_ns if turn.chores else chores_ns
        assert turn.chores or not woken
        assert 0 <= turn.wait_ns <= PERIOD_NS // len(CARDS)
        assert now_ns - min(looked.values()) <= PERIOD_NS
        assert now_ns - chores_ns <= PERIOD_NS


def test_one_card_alone_is_looked_at_at_each_turn():
    rounds, group = Rounds(PERIOD_NS), (frozenset("a"),)
    assert rounds.turn(0, group, (), woken=True).wait_ns == PERIOD_NS
    assert rounds.turn(100, group, (), woken=True).cards == {"a"}
    turn = rounds.turn(300, group, (), woken=False)
    assert (turn.cards, turn.chores, turn.wait_ns) == (frozenset(), False, 300)
    assert rounds.turn(300, group, "a", woken=False).cards == {"a"}
    assert rounds.turn(600, group, (), woken=False).cards == {"a"}


def test_a_tenant_that_joins_two_cards_has_them_looked_at():
    rounds = Rounds(PERIOD_NS)
    rounds.turn(0, GROUPS, (), woken=True)
    assert rounds.turn(1, groups_of(CARDS, ["de"]), (), woken=False).cards == {"d", "e"}


def test_a_node_without_cards_has_its_chores():
    turn = Rounds(PERIOD_NS).turn(0, (), (), woken=False)
    assert (turn.cards, turn.chores, turn.wait_ns) == (frozenset(), True, PERIOD_NS)
