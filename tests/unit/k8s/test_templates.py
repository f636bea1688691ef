from __future__ import annotations

import copy

import pytest

from cgpu.errors import ClaimError
from cgpu.k8s.templates import (
    Share,
    check_content,
    fitting_sizes,
    has_amounts_of,
    may_be_ours,
    name_of,
    proportional_mib,
    share_named,
    template,
)


@pytest.mark.parametrize("name", ["", "mine", "cgpu-m8192-n1-0123456789", "cgpu-m8192-c30-n1", "cgpu-mx-n1-0123456789"])
def test_other_names_tell_nothing(name: str):
    assert share_named(name) is None


@pytest.mark.parametrize(
    "share", [Share(8192), Share(8192, 30, 2, weight=3, high_priority=True), Share(3072, card_sizes_mib=(15079,))]
)
def test_ours_are_known_by_the_form_of_their_names(share: Share):
    assert may_be_ours(name_of(share))
    assert not may_be_ours(f"my-{name_of(share)}")


def test_the_template_of_a_share():
    made = template(Share(8192, 30, 2, weight=3, high_priority=True), "team")
    assert made["metadata"]["name"].startswith("cgpu-m8192-c30-n2-w3-high-")
    devices = made["spec"]["spec"]["devices"]
    assert devices["requests"] == [
        {
            "name": "gpu",
            "exactly": {
                "deviceClassName": "gpu.cgpu.dev",
                "allocationMode": "ExactCount",
                "count": 2,
                "capacity": {"requests": {"memory": "8Gi", "compute": "30"}},
            },
        }
    ]
    assert devices["config"][0]["opaque"]["parameters"] == {
        "apiVersion": "gpu.cgpu.dev/v1",
        "kind": "ShareParameters",
        "weight": 3,
        "priority": 1,
    }


def test_a_proportional_share_has_an_alternative_for_each_size_of_card():
    share = Share(3072, card_sizes_mib=(15079, 16130))
    (request,) = template(share, "team")["spec"]["spec"]["devices"]["requests"]
    assert [row["capacity"]["requests"]["memory"] for row in request["firstAvailable"]] == ["3231Mi", "3226Mi"]
    assert name_of(share) != name_of(Share(3072, card_sizes_mib=(15079,)))
    assert has_amounts_of(name_of(share), Share(3072))
    assert not has_amounts_of(name_of(share), Share(4096))
    assert share_named(name_of(share)) is None
    assert share_named(name_of(share), (8192, *share.card_sizes_mib)) == share


@pytest.mark.parametrize(
    ("card", "gib", "visible"),
    [
        (15079, 3, 3231),
        (16130, 4, 4301),
        (16130, 3, 3226),
        (16130, 2, 2150),
        (15360, 3, 3072),
        (23028, 8, 8373),
        (46068, 8, 8376),
        (46068, 3, 3141),
    ],
)
def test_proportional_memory_is_what_was_published(card: int, gib: int, visible: int):
    assert proportional_mib(card, gib * 1024) == visible


def test_sizes_are_those_of_cards_that_are_offered_as_so_much():
    assert fitting_sizes([15079, 23028, 15079, 8000], 14 * 1024) == (15079, 23028)
    assert fitting_sizes([15079], 15 * 1024) == ()
    assert len(fitting_sizes(range(10_000, 11_000), 1024)) == 8


def test_the_content_is_compared():
    wanted = template(Share(8192, 30), "team")
    check_content(wanted, copy.deepcopy(wanted))
    other = copy.deepcopy(wanted)
    other["spec"]["metadata"] = {}
    other["spec"]["spec"]["devices"]["requests"][0]["exactly"]["someDefaultOfALaterServer"] = "x"
    check_content(wanted, other)
    for change in (
        {"count": 2},
        {"capacity": {"requests": {"memory": "8Gi", "compute": "30", "shares": "1"}}},
        {"tolerations": [{"operator": "Exists"}]},
        {"selectors": [{"cel": {"expression": "false"}}]},
    ):
        other = copy.deepcopy(wanted)
        other["spec"]["spec"]["devices"]["requests"][0]["exactly"] |= change
        if "capacity" in change:
            continue  # an amount more is what the server could have filled in
        with pytest.raises(ClaimError, match="not what its name says"):
            check_content(wanted, other)


def test_amounts_that_the_server_dropped_are_named():
    wanted = template(Share(8192), "team")
    found = copy.deepcopy(wanted)
    del found["spec"]["spec"]["devices"]["requests"][0]["exactly"]["capacity"]
    with pytest.raises(ClaimError, match="DRAConsumableCapacity is off"):
        check_content(wanted, found)
