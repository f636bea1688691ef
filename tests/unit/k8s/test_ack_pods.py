from __future__ import annotations

import copy
from typing import Any

import pytest

from cgpu.errors import AmountError, RefusedError
from cgpu.k8s.ack_pods import Rules, Translation, asks_anything, translate, workload_warnings
from cgpu.k8s.templates import Share, name_of
from tests.unit.k8s.json_patch import patched

MEMORY, COMPUTE = "aliyun.com/gpu-mem", "aliyun.com/gpu-core.percentage"
EXACT = Rules()


def container(name: str = "main", memory: object = None, compute: object = None, **more: Any) -> dict[str, Any]:
    """As the API server shows it: requests are the limits."""
    amounts = {key: str(value) for key, value in ((MEMORY, memory), (COMPUTE, compute)) if value is not None}
    resources = {"limits": {"cpu": "1", **amounts}, "requests": {"cpu": "1", **amounts}}
    return {"name": name, "image": "x", "resources": resources, **more}


def pod(*containers: dict[str, Any], init: tuple[dict[str, Any], ...] = (), count: str = "", **annotations: Any) -> Any:
    labels = {"aliyun.com/gpu-count": count} if count else {}
    spec: dict[str, Any] = {"containers": list(containers)}
    if init:
        spec["initContainers"] = list(init)
    notes = {f"cgpu.dev/{key}": value for key, value in annotations.items()}
    return {"metadata": {"name": "web", "labels": labels, "annotations": notes}, "spec": spec}


def created(document: Any, rules: Rules = EXACT, sizes: tuple[int, ...] = (), *, favoured: bool = False) -> Translation:
    return translate(document, None, rules, sizes, favoured=favoured)


def claims(document: Any) -> dict[str, list[str]]:
    """Which claims each container uses."""
    spec = document["spec"]
    rows = [*spec["containers"], *spec.get("initContainers", ())]
    return {row["name"]: [entry["name"] for entry in row["resources"].get("claims", ())] for row in rows}


def test_a_pod_of_ack_becomes_one_with_a_claim():
    document = pod(container(memory=8, compute=30))
    done = created(document)
    assert done.shares == (Share(8192, 30),)
    assert done.warnings == ()
    after = patched(document, done.patch)
    assert after["spec"]["resourceClaims"] == [
        {"name": "cgpu-main", "resourceClaimTemplateName": name_of(Share(8192, 30))}
    ]
    assert after["spec"]["containers"][0]["resources"] == {
        "limits": {"cpu": "1"},
        "requests": {"cpu": "1"},
        "claims": [{"name": "cgpu-main"}],
    }


def test_the_limit_alone_is_enough():
    document = pod({"name": "main", "resources": {"limits": {MEMORY: "2"}}})
    assert created(document).shares == (Share(2048),)


def test_memory_is_divided_by_the_cards():
    done = created(pod(container(memory=8, compute=50), count="2"))
    assert done.shares == (Share(4096, 50, cards=2),)
    with pytest.raises(AmountError, match=r"8 cannot be divided by .*gpu-count 3.*write 9"):
        created(pod(container(memory=8), count="3"))


def test_an_uneven_split_is_in_mib_and_never_too_little():
    (share,) = created(pod(container(memory=8), count="3"), Rules(uneven_splits=True)).shares
    assert share == Share(2731, cards=3)
    assert share.memory_mib * 3 >= 8 * 1024


def test_each_container_has_a_claim_of_its_own():
    document = pod(container("a", 4), container("b"), container("c", 2, 10))
    done = created(document)
    assert claims(patched(document, done.patch)) == {"a": ["cgpu-a"], "b": [], "c": ["cgpu-c"]}
    assert done.shares == (Share(4096), Share(2048, 10))


def test_what_the_pod_claims_itself_stays():
    main = container(memory=4)
    main["resources"]["claims"] = [{"name": "nic"}]
    document = pod(main)
    document["spec"]["resourceClaims"] = [{"name": "nic", "resourceClaimName": "nic"}]
    after = patched(document, created(document).patch)
    assert claims(after) == {"main": ["nic", "cgpu-main"]}
    assert [entry["name"] for entry in after["spec"]["resourceClaims"]] == ["nic", "cgpu-main"]


def test_init_containers_use_the_share_of_the_container_with_the_most_memory():
    document = pod(container("a", 2), container("b", 8), container("c", 8), init=(container("i", 4), container("j")))
    done = created(document)
    assert claims(patched(document, done.patch)) == {
        "a": ["cgpu-a"],
        "b": ["cgpu-b"],
        "c": ["cgpu-c"],
        "i": ["cgpu-b"],
        "j": [],
    }
    assert done.warnings == ()


def test_a_larger_init_container_makes_the_share_larger_and_that_is_told():
    done = created(pod(container(memory=2), init=(container("i", 6, 20),)))
    assert done.shares == (Share(6144, 20),)
    assert "both use one share" in done.warnings[0]


def test_init_containers_alone_share_one():
    document = pod(container("main"), init=(container("i", 4), container("j", 2)))
    done = created(document)
    assert done.shares == (Share(4096),)
    assert claims(patched(document, done.patch)) == {"main": [], "i": ["cgpu-i"], "j": ["cgpu-i"]}


def test_a_sidecar_has_a_claim_of_its_own():
    document = pod(container(memory=8), init=(container("side", 2, restartPolicy="Always"),))
    assert claims(patched(document, created(document).patch)) == {"main": ["cgpu-main"], "side": ["cgpu-side"]}


@pytest.mark.parametrize(
    ("memory", "compute", "words"),
    [
        ("5.5", None, "whole number"),
        ("8Gi", None, "counts GiB"),
        ("-1", None, "whole number"),
        ("x", None, "whole number"),
        (8, 33, "multiple of 5"),
        (8, 105, "multiple of 5"),
        (8, "0.5", "whole number"),
        (None, 30, "without aliyun.com/gpu-mem"),
    ],
)
def test_malformed_amounts_are_refused_with_the_reason(memory: object, compute: object, words: str):
    with pytest.raises(AmountError) as raised:
        created(pod(container(memory=memory, compute=compute)))
    assert words in str(raised.value)
    assert "container main" in str(raised.value)


def test_limit_and_request_have_to_agree():
    main = container(memory=8)
    main["resources"]["requests"][MEMORY] = "4"
    with pytest.raises(AmountError, match="4 and 8"):
        created(pod(main))


def test_zero_asks_for_nothing():
    document = pod(container(memory=0))
    done = created(document)
    assert done.shares == ()
    assert not asks_anything(patched(document, done.patch))


@pytest.mark.parametrize("count", ["0", "-1", "two", "33", "٣", "1.5"])
def test_a_malformed_count_is_refused(count: str):
    with pytest.raises(AmountError, match="from 1 to 32"):
        created(pod(container(memory=64), count=count))


def test_weight_and_priority_need_the_administrators_word():
    document = pod(container(memory=4), weight="3", priority="1")
    assert created(document, favoured=True).shares == (Share(4096, weight=3, high_priority=True),)
    with pytest.raises(RefusedError, match=r"cgpu.dev/weight-and-priority=allowed"):
        created(document)
    assert created(pod(container(memory=4), weight="1", priority="0")).shares == (Share(4096),)
    bad_ones: list[dict[str, Any]] = [{"weight": "0"}, {"weight": "x"}, {"priority": "urgent"}]
    for bad in bad_ones:
        with pytest.raises(AmountError):
            created(pod(container(memory=4), **bad), favoured=True)


def test_the_environment_of_cgpu_asks_for_weight_and_priority_too():
    env = [{"name": "ALIYUN_COM_GPU_SCHD_WEIGHT", "value": "3"}, {"name": "ALIYUN_COM_GPU_HIGH_PRIO", "value": "1"}]
    document = pod(container(memory=4, env=env))
    assert created(document, favoured=True).shares == (Share(4096, weight=3, high_priority=True),)
    done = created(document)
    assert done.shares == (Share(4096),)
    assert "left out" in done.warnings[0]
    assert created(pod(container(memory=4, env=env), weight="2"), favoured=True).shares == (Share(4096, weight=2),)
    stored = patched(document, done.patch)
    again = copy.deepcopy(stored)
    again["spec"]["containers"][0]["resources"]["limits"][MEMORY] = "4"
    assert patched(again, translate(again, stored, EXACT, ()).patch) == stored


def test_variables_of_the_environment_that_say_nothing_or_nonsense():
    name = "ALIYUN_COM_GPU_SCHD_WEIGHT"
    for row in ({"name": name}, {"name": name, "value": "$(OTHER)"}, {"name": name, "valueFrom": {}}):
        assert created(pod(container(memory=4, env=[row]))).shares == (Share(4096),)
    with pytest.raises(AmountError, match="container main: ALIYUN_COM_GPU_SCHD_WEIGHT is 'x'"):
        created(pod(container(memory=4, env=[{"name": name, "value": "x"}])))


def test_more_than_any_card_is_a_warning_and_more_than_the_named_one_is_refused():
    document = pod(container(memory=100))
    assert "24GiB" in created(document, sizes=(16384, 24576)).warnings[0]
    assert created(document).warnings == ()  # no card is known yet
    with pytest.raises(RefusedError, match="80GiB"):
        created(document, Rules(largest_card_mib=81920))


def test_proportional_memory_names_the_cards_and_is_a_gib_where_there_are_none():
    rules = Rules(proportional=True)
    assert created(pod(container(memory=8)), rules, (15079, 7000, 23028)).shares == (
        Share(8192, card_sizes_mib=(15079, 23028)),
    )
    assert created(pod(container(memory=8)), rules).shares == (Share(8192),)
    assert "more than any card" in created(pod(container(memory=15)), rules, (15079,)).warnings[0]


def test_applying_the_manifest_again_changes_nothing():
    document = pod(container(memory=8), init=(container("i", 2),))
    stored = patched(document, created(document).patch)
    again = copy.deepcopy(stored)
    for row, sent in zip(again["spec"]["containers"], document["spec"]["containers"], strict=True):
        row["resources"] |= {part: sent["resources"][part] for part in ("limits", "requests")}
    done = translate(again, stored, EXACT, ())
    assert patched(again, done.patch) == stored
    assert done.shares == ()


def test_the_share_of_a_pod_is_not_changed_by_applying():
    document = pod(container(memory=8))
    stored = patched(document, created(document).patch)
    again = copy.deepcopy(stored)
    again["spec"]["containers"][0]["resources"]["limits"][MEMORY] = "16"
    with pytest.raises(RefusedError, match="cannot be changed in the pod"):
        translate(again, stored, EXACT, ())


def test_a_pod_gets_no_share_later():
    stored = pod(container())
    with pytest.raises(RefusedError, match="after it was created"):
        translate(pod(container(memory=8)), stored, EXACT, ())


def test_applying_again_succeeds_when_the_cards_or_the_rules_are_others():
    document = pod(container(memory=8), weight="3")
    before = created(document, Rules(proportional=True), (15079,), favoured=True)
    stored = patched(document, before.patch)
    again = copy.deepcopy(stored)
    again["spec"]["containers"][0]["resources"]["limits"][MEMORY] = "8"
    for rules, sizes in ((Rules(proportional=True), (23028,)), (Rules(), ()), (Rules(largest_card_mib=4096), ())):
        assert patched(again, translate(again, stored, rules, sizes).patch) == stored


def test_a_pod_that_was_there_before_is_left_alone():
    document = pod(container(memory=8))
    assert translate(document, document, EXACT, ()) == Translation()


def test_a_claim_of_the_same_name_and_other_content_is_refused():
    document = pod(container(memory=8))
    document["spec"]["resourceClaims"] = [{"name": "cgpu-main", "resourceClaimTemplateName": "mine"}]
    with pytest.raises(RefusedError, match="cgpu-main"):
        created(document)


def test_long_names_of_containers_stay_apart():
    document = pod(container("a" * 63, 2), container("a" * 62 + "b", 2))
    names = [entry["name"] for entry in patched(document, created(document).patch)["spec"]["resourceClaims"]]
    assert len(set(names)) == 2
    assert all(len(name) <= 63 for name in names)


def test_workloads_are_warned_in_the_same_words():
    assert workload_warnings(pod(container(memory=8)), EXACT, ()) == []
    (warning,) = workload_warnings(pod(container(memory=8, compute=33)), EXACT, ())
    assert warning.startswith("its pods will be refused: ")
    assert "multiple of 5" in warning
