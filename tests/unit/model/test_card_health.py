from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cgpu.model.card_health import HARMLESS_XIDS, Ailment, CardLook, ailment_of, counting_xids, with_xid

WELL, LOST = CardLook(), CardLook(lost=True)
LOOKS = st.builds(
    CardLook,
    st.booleans(),
    st.sampled_from(["", "nvmlDeviceGetMemoryInfo: Unknown Error"]),
    st.none() | st.integers(0, 9),
)
XIDS = st.integers(1, 200)


@settings(deadline=None, max_examples=25)
@given(LOOKS, st.lists(XIDS, unique=True).map(tuple))
def test_a_name_is_a_value_of_a_taint(look: CardLook, xids: tuple[int, ...]):
    """The API server takes up to 63 letters, digits, `-`, `_` and `.`, with a letter or digit at both ends."""
    ailment = ailment_of(look, xids)
    if ailment is not None:
        assert re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", ailment.name)
        assert ailment.message


@settings(deadline=None, max_examples=25)
@given(st.lists(XIDS))
def test_only_xids_of_the_card_itself_count_and_each_once(told: list[int]):
    xids: tuple[int, ...] = ()
    for xid in told:
        xids = with_xid(xids, xid)
    assert sorted(xids) == sorted(set(told) - HARMLESS_XIDS)


def test_a_card_that_answers_and_has_told_nothing_is_well():
    assert ailment_of(WELL, ()) is None
    assert ailment_of(CardLook(recovery=0), ()) is None


@pytest.mark.parametrize(
    ("look", "xids", "name", "lost"),
    [
        (LOST, (), "lost", True),
        (WELL, (48, 79), "lost", True),
        (CardLook(failure="Unknown Error"), (), "no-answer", False),
        (CardLook(recovery=1), (48,), "gpu-reset", False),
        (CardLook(recovery=2), (), "node-reboot", False),
        (WELL, (48, 95), "xid-48", False),
    ],
)
def test_what_is_wrong_has_a_name(look: CardLook, xids: tuple[int, ...], name: str, lost: bool):
    ailment = ailment_of(look, xids)
    assert isinstance(ailment, Ailment)
    assert (ailment.name, ailment.lost) == (name, lost)


def test_xids_count_until_the_card_has_been_reset():
    assert counting_xids((48,), WELL, WELL) == (48,)
    assert counting_xids((48, 79), WELL, LOST) == (48, 79)
    assert counting_xids((48, 79), LOST, LOST) == (48, 79)
    assert counting_xids((48, 79), LOST, WELL) == ()
    assert counting_xids((48,), WELL, CardLook(recovery=1)) == (48,)
    assert counting_xids((48,), CardLook(recovery=1), CardLook(recovery=0)) == ()
