"""Admission: pods, templates, quotas and reviews of any values."""

from __future__ import annotations

import contextlib
import json
import re
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from cgpu.errors import CgpuError, QuotaError, UsageError
from cgpu.k8s.ack_pods import Rules, asks_anything
from cgpu.k8s.claim_check import asked_of
from cgpu.k8s.quota import Limits, Reservation, format_reservations, parse_reservations
from cgpu.k8s.review import parse_review
from cgpu.k8s.templates import Share, has_amounts_of, has_form_of_ours, name_of, proportional_mib, share_named
from cgpu.model.units import GIB
from tests.unit.k8s.json_patch import patched
from tests.unit.k8s.test_ack_pods import claims, container, created, pod
from tests.unit.k8s.test_quota import admit, asked, claim

amounts = st.one_of(st.none(), st.integers(0, 40))
rows = st.builds(container, st.just("x"), amounts, st.one_of(st.none(), st.sampled_from([5, 50, 100])))


@given(
    st.lists(rows, min_size=1, max_size=4),
    st.lists(st.tuples(rows, st.booleans()), max_size=3),
    st.integers(1, 4),
    st.booleans(),
)
def test_whatever_is_admitted_has_no_such_resource_and_is_stable(
    mains: list[Any], inits: list[Any], cards: int, uneven: bool
):
    for number, row in enumerate(mains):
        row["name"] = f"m{number}"
    for number, (row, lasting) in enumerate(inits):
        row["name"] = f"i{number}"
        if lasting:
            row["restartPolicy"] = "Always"
    document = pod(*mains, init=tuple(row for row, _ in inits), count=str(cards))
    try:
        done = created(document, Rules(uneven_splits=uneven))
    except CgpuError:
        return
    after = patched(document, done.patch)
    assert not asks_anything(after)
    entries = {entry["name"] for entry in after["spec"].get("resourceClaims", ())}
    used = {name for names in claims(after).values() for name in names}
    assert used == entries
    assert len(entries) == len(done.shares)
    assert patched(after, created(after).patch) == after


shares = st.builds(
    Share,
    memory_mib=st.integers(1, 1 << 20),
    compute_percent=st.one_of(st.none(), st.integers(1, 100)),
    cards=st.integers(1, 32),
    weight=st.integers(1, 1000),
    high_priority=st.booleans(),
)


@given(shares)
def test_a_name_tells_the_whole_share(share: Share):
    name = name_of(share)
    assert share_named(name) == share
    assert has_form_of_ours(name)
    assert has_amounts_of(name, share)
    assert len(name) <= 63
    assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", name)


@given(shares, shares)
def test_other_shares_have_other_names(one: Share, other: Share):
    assert (name_of(one) == name_of(other)) == (one == other)


@given(st.integers(1024, 1 << 20), st.lists(st.integers(1, 1 << 17), max_size=40))
def test_proportional_memory_never_over_commits_a_card(card: int, asked: list[int]):
    offered = card // 1024 * 1024
    fitting: list[int] = []
    for amount in asked:
        if sum(fitting) + amount <= offered:
            fitting.append(amount)
    assert sum(proportional_mib(card, amount) for amount in fitting) <= card


@given(st.lists(st.integers(1, 20), max_size=30), st.integers(1, 100))
def test_claims_together_never_exceed_the_limit(sizes: list[int], limit: int):
    limits = Limits(memory_bytes=limit * GIB)
    stored: list[dict[str, Any]] = []
    rows: list[Reservation] = []
    for number, size in enumerate(sizes):
        try:
            rows = admit(limits, stored, rows, str(number), asked(size), 0.0)
        except QuotaError:
            continue
        if number % 2:  # the others are still on their way
            stored.append(claim(str(number), size))
    uids = {row["metadata"]["uid"] for row in stored} | {row.uid for row in rows}
    assert sum(sizes[int(uid)] for uid in uids) <= limit


@given(st.lists(st.builds(Reservation, st.text(), st.floats(0, 1e10), st.integers(0), st.integers(0), st.integers(0))))
def test_reservations_are_read_as_written(rows: list[Reservation]):
    assert parse_reservations(format_reservations(rows)) == rows


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["request", "uid", "kind", "object"]), inner),
)


@given(json_values)
def test_nonsense_never_crashes(value: Any):
    with contextlib.suppress(UsageError):
        parse_review(json.dumps(value).encode())


_KEYS = st.sampled_from(
    ["spec", "metadata", "containers", "initContainers", "resources", "limits", "requests", "aliyun.com/gpu-mem",
     "name", "env", "value", "labels", "annotations", "cgpu.dev/weight", "devices", "exactly", "firstAvailable",
     "deviceClassName", "capacity", "memory", "config", "opaque", "parameters", "resourceClaims"]
)  # fmt: skip
_DOCUMENTS = st.recursive(
    st.none() | st.integers() | st.sampled_from(["gpu.cgpu.dev", "8", "x"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=6),
    max_leaves=30,
)
_FORMLESS = (LookupError, TypeError, AttributeError, ValueError)
"""What an object of no known form may raise; the webhook refuses it then."""


@given(st.dictionaries(_KEYS, _DOCUMENTS))
def test_a_pod_or_claim_of_any_form_is_answered_or_refused(document: Any):
    with contextlib.suppress(CgpuError, *_FORMLESS):
        created(document)
    with contextlib.suppress(CgpuError, *_FORMLESS):
        asked_of(document, "claim")
