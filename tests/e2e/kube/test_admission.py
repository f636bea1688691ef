"""Admission on a real control plane: two webhooks with the rights of their service account."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml

from cgpu.k8s.admission import CLAIMS_PATH
from cgpu.k8s.isolation import Isolation, Placement, Sharing
from cgpu.k8s.slices import Card, Pool, devices, slices
from cgpu.model.tenant import Gpu
from cgpu.model.units import MIB
from tests.e2e import tools
from tests.e2e.conftest import needed
from tests.e2e.host import Host, eventually
from tests.e2e.kube import network, programs
from tests.e2e.kube.control_plane import ControlPlane
from tests.e2e.kube.webhooks import NAMESPACE, PREPARE, Webhooks

Json = dict[str, Any]
MEMORY, COMPUTE = "aliyun.com/gpu-mem", "aliyun.com/gpu-core.percentage"


@pytest.fixture(scope="module")
def hooks() -> Iterator[Webhooks]:
    """A control plane with the webhooks."""
    with needed():
        tools.root_with_namespaces()
        for name in ("ip", "nft"):
            tools.program(name)
        built, etcd = programs.kubernetes(programs.DEFAULT), programs.etcd()
    with Host(prepare=PREPARE) as host:
        network.connect([host])
        with ControlPlane(host, network.node_address(0), built, etcd) as plane, Webhooks(plane) as made:
            yield made


@pytest.fixture
def plane(hooks: Webhooks) -> ControlPlane:
    return hooks.control_plane


_numbers = iter(range(1000))


@pytest.fixture
def space(plane: ControlPlane) -> Iterator[str]:
    """A namespace of one's own, whose pods go with it."""
    name = f"team-{next(_numbers)}"
    plane.kubectl("create", "namespace", name)
    eventually(lambda: "default" in plane.kubectl("get", "serviceaccounts", "-n", name), "pods can be made there")
    yield name
    plane.kubectl("delete", "pods,deployments,jobs", "--all", "--force", "-n", name)
    plane.kubectl("delete", "namespace", name, "--wait=false")


def container(name: str = "main", memory: object = None, compute: object = None, **more: Any) -> Json:
    amounts = {key: str(value) for key, value in ((MEMORY, memory), (COMPUTE, compute)) if value is not None}
    return {"name": name, "image": "local/x:1", "resources": {"limits": {"cpu": "100m", **amounts}}, **more}


def pod(space: str, name: str, *containers: Json, init: tuple[Json, ...] = (), count: str = "", **notes: str) -> Json:
    labels = {"aliyun.com/gpu-count": count} if count else {}
    annotations = {f"cgpu.dev/{key}": value for key, value in notes.items()}
    spec = {"containers": list(containers), "initContainers": list(init)}
    metadata = {"name": name, "namespace": space, "labels": labels, "annotations": annotations}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def claim(space: str, name: str, memory: str = "1Gi", **parameters: Any) -> Json:
    request = {
        "name": "gpu",
        "exactly": {"deviceClassName": "gpu.cgpu.dev", "capacity": {"requests": {"memory": memory}}},
    }
    head = {"apiVersion": "gpu.cgpu.dev/v1", "kind": "ShareParameters"}
    config = [{"opaque": {"driver": "gpu.cgpu.dev", "parameters": head | parameters}}] if parameters else []
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaim",
        "metadata": {"name": name, "namespace": space},
        "spec": {"devices": {"requests": [request], "config": config}},
    }


def claim_template(space: str, name: str, **parameters: Any) -> Json:
    return claim(space, name) | {
        "kind": "ResourceClaimTemplate",
        "spec": {"spec": claim(space, name, **parameters)["spec"]},
    }


def get(plane: ControlPlane, space: str, kind: str, name: str = "") -> Any:
    words = [kind, name] if name else [kind]
    document = json.loads(plane.kubectl("get", *words, "-n", space, "-o=json"))
    return document if name else document["items"]


def refused(plane: ControlPlane, document: Json) -> str:
    return plane.refused("create", "--filename=-", text_in=yaml.safe_dump(document))


FORMS: dict[str, tuple[list[Json], tuple[Json, ...], str]] = {
    "memory": ([container(memory=8)], (), ""),
    "memory and compute": ([container(memory=8, compute=30)], (), ""),
    "a whole card": ([container(memory=8, compute=100)], (), ""),
    "two cards": ([container(memory=8)], (), "2"),
    "two containers": ([container("a", 2), container("b", 4), container("c")], (), ""),
    "init": ([container("a", 2), container("b", 4)], (container("i", 1),), ""),
    "only init": ([container("a")], (container("i", 1), container("j", 2)), ""),
    "sidecar": ([container("a", 2)], (container("s", 1, restartPolicy="Always"),), ""),
}
AMOUNTS: dict[str, list[tuple[str, str | None, int]]] = {
    "memory": [("8Gi", None, 1)],
    "memory and compute": [("8Gi", "30", 1)],
    "a whole card": [("8Gi", "100", 1)],
    "two cards": [("4Gi", None, 2)],
    "two containers": [("2Gi", None, 1), ("4Gi", None, 1)],
    "init": [("2Gi", None, 1), ("4Gi", None, 1)],
    "only init": [("2Gi", None, 1)],
    "sidecar": [("1Gi", None, 1), ("2Gi", None, 1)],
}


def amounts(found: Json) -> tuple[str, str | None, int]:
    """Of a claim of ours."""
    exactly = found["spec"]["devices"]["requests"][0]["exactly"]
    requests = exactly["capacity"]["requests"]
    return requests["memory"], requests.get("compute"), exactly["count"]


@pytest.mark.parametrize("how", ["client side", "server side"])
@pytest.mark.parametrize("form", FORMS)
def test_a_pod_of_ack_is_applied_and_applied_again(plane: ControlPlane, space: str, form: str, how: str):
    containers, init, count = FORMS[form]
    text = yaml.safe_dump(pod(space, "web", *containers, init=init, count=count))
    options = ["--server-side"] if how == "server side" else []
    plane.kubectl("apply", *options, "--filename=-", text_in=text)
    before = get(plane, space, "pod", "web")
    assert "aliyun.com/gpu-mem" not in json.dumps(before["spec"])
    eventually(lambda: len(get(plane, space, "resourceclaims")) == len(AMOUNTS[form]), "its claims are made")
    assert sorted(map(amounts, get(plane, space, "resourceclaims")), key=str) == sorted(AMOUNTS[form], key=str)
    for _ in range(2):
        plane.kubectl("apply", *options, "--filename=-", text_in=text)
    assert get(plane, space, "pod", "web")["spec"] == before["spec"]


def test_pods_with_the_same_amounts_share_a_template(plane: ControlPlane, space: str, hooks: Webhooks):
    hooks.apply(*(pod(space, f"web-{number}", container(memory=8)) for number in range(3)))
    assert len(get(plane, space, "resourceclaimtemplates")) == 1


def test_pods_at_once_find_one_template(plane: ControlPlane, space: str, hooks: Webhooks):
    documents = [pod(space, f"web-{number}", container(memory=8)) for number in range(50)]
    outcomes = json.loads(hooks.python("tests.e2e.kube.at_once", text_in=json.dumps(documents)))
    assert outcomes == [""] * 50
    assert len(get(plane, space, "resourceclaimtemplates")) == 1


def test_a_dry_run_makes_nothing(plane: ControlPlane, space: str):
    text = yaml.safe_dump(pod(space, "web", container(memory=8)))
    shown = plane.kubectl("create", "--dry-run=server", "-o=yaml", "--filename=-", text_in=text)
    assert "resourceClaimTemplateName: cgpu-m8192-n1-" in shown
    assert get(plane, space, "resourceclaimtemplates") == []


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (pod("SPACE", "web", container(memory=8, compute=33)), "container main: aliyun.com/gpu-core.percentage is 33"),
        (pod("SPACE", "web", container(memory="8Gi")), "it counts GiB: write 8 for 8 GiB"),
        (pod("SPACE", "web", container(compute=30)), "without aliyun.com/gpu-mem"),
        (pod("SPACE", "web", container(memory=8), count="3"), "cannot be divided by aliyun.com/gpu-count 3"),
        (pod("SPACE", "web", container(memory=8), weight="5"), "have an administrator label the namespace"),
        (claim("SPACE", "c", weight=5), "weight 5 is not allowed in this namespace"),
        (claim("SPACE", "c", priority=1), "high priority is not allowed in this namespace"),
        (claim("SPACE", "c", wieght=5), "unknown wieght"),
        (claim_template("SPACE", "t", priority=1), "high priority is not allowed in this namespace"),
        (claim_template("SPACE", "cgpu-m8192-n1-0123456789"), "names of this form are those that cgpu makes"),
    ],
)  # fmt: skip
def test_a_refusal_tells_why(plane: ControlPlane, space: str, document: Json, words: str):
    document = json.loads(json.dumps(document).replace("SPACE", space))
    assert words in refused(plane, document)


def test_weight_and_priority_where_the_administrator_allows_them(plane: ControlPlane, space: str, hooks: Webhooks):
    plane.kubectl("label", "namespace", space, "cgpu.dev/weight-and-priority=allowed")
    mine = claim(space, "mine", weight=7)
    eventually(lambda: hooks.dry_answers(CLAIMS_PATH, mine) == ["", ""], "the label is known to both")
    hooks.apply(pod(space, "web", container(memory=8), weight="5", priority="1"), mine)
    eventually(lambda: len(get(plane, space, "resourceclaims")) == 2, "its claim is made")
    rows = [row["spec"]["devices"]["config"][0]["opaque"]["parameters"] for row in get(plane, space, "resourceclaims")]
    assert sorted((row["weight"], row.get("priority")) for row in rows) == [(5, 1), (7, None)]


def test_deployments_and_jobs_with_bad_amounts_are_warned(plane: ControlPlane, space: str):
    template = {
        "metadata": {"labels": {"app": "web"}},
        "spec": {"containers": [container(memory=8, compute=33)], "restartPolicy": "Never"},
    }
    metadata = {"name": "web", "namespace": space}
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": {"template": template}}
    spec: Json = {"schedule": "0 0 1 1 *", "jobTemplate": {"spec": job["spec"]}}
    cron = {"apiVersion": "batch/v1", "kind": "CronJob", "metadata": metadata, "spec": spec}
    spec = {"selector": {"matchLabels": {"app": "web"}}, "template": json.loads(json.dumps(template))}
    spec["template"]["spec"]["restartPolicy"] = "Always"
    deployment = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec}
    for document in (job, cron, deployment):
        text = yaml.safe_dump(document)
        result = plane._kubectl("create", "--filename=-", text_in=text)
        assert result.returncode == 0, result.stderr
        assert "Warning: cgpu: its pods will be refused: container main:" in result.stderr


def test_the_share_of_a_pod_is_not_changed_by_applying(plane: ControlPlane, space: str, hooks: Webhooks):
    hooks.apply(pod(space, "web", container(memory=8)))
    text = yaml.safe_dump(pod(space, "web", container(memory=16)))
    assert "cannot be changed in the pod" in plane.refused("apply", "--filename=-", text_in=text)


def test_a_template_of_another_content_is_refused(plane: ControlPlane, space: str, hooks: Webhooks):
    hooks.apply(pod(space, "first", container(memory=8)))
    (made,) = get(plane, space, "resourceclaimtemplates")
    plane.kubectl("delete", "pod", "first", "-n", space, "--force")
    other = claim_template(space, made["metadata"]["name"])
    plane.kubectl("delete", "resourceclaimtemplate", made["metadata"]["name"], "-n", space)
    assert "is not what its name says" in refused(plane, other)


def test_templates_that_nothing_uses_go_and_what_is_missed_comes_back(plane: ControlPlane, space: str, hooks: Webhooks):
    hooks.apply(pod(space, "web", container(memory=8)), pod(space, "other", container(memory=3)))
    names = sorted(row["metadata"]["name"] for row in get(plane, space, "resourceclaimtemplates"))
    plane.kubectl("delete", "pod", "other", "-n", space, "--force")
    plane.kubectl("delete", "resourceclaimtemplate", names[1], "-n", space)
    hooks.python("tests.e2e.kube.ahead", "collect", "0")
    assert sorted(row["metadata"]["name"] for row in get(plane, space, "resourceclaimtemplates")) == names
    hooks.python("tests.e2e.kube.ahead", "collect", "9")
    assert len(get(plane, space, "resourceclaimtemplates")) == 2
    hooks.python("tests.e2e.kube.ahead", "collect", "11")
    assert [row["metadata"]["name"] for row in get(plane, space, "resourceclaimtemplates")] == names[1:]


def have_quota(plane: ControlPlane, space: str, hooks: Webhooks) -> None:
    """16 GiB, which both webhooks know of."""
    plane.kubectl("label", "namespace", space, "cgpu.dev/gpu-memory-quota=16Gi")
    big = claim(space, "big", "17Gi")
    eventually(
        lambda: all("exceeded quota" in said for said in hooks.dry_answers(CLAIMS_PATH, big)), "both know the label"
    )


def test_a_quota_holds_exactly_under_claims_at_once(plane: ControlPlane, space: str, hooks: Webhooks):
    have_quota(plane, space, hooks)
    documents = [claim(space, f"c-{number}") for number in range(50)]
    outcomes = json.loads(hooks.python("tests.e2e.kube.at_once", text_in=json.dumps(documents)))
    assert outcomes.count("") == 16
    assert all("exceeded quota of GPU memory" in outcome for outcome in outcomes if outcome)
    claims = get(plane, space, "resourceclaims")
    assert len(claims) == 16
    ledger = get(plane, NAMESPACE, "configmap", f"cgpu-quota-{space}")
    reserved = {row["uid"] for row in json.loads(ledger["data"]["reservations"])}
    assert reserved <= {row["metadata"]["uid"] for row in claims}  # the webhook knows claims by their uid
    assert "used 16GiB, limit 16GiB" in refused(plane, claim(space, "one-more"))
    assert "used 16GiB, limit 16GiB" in refused(plane, pod(space, "web", container(memory=1)))
    plane.kubectl("delete", "resourceclaim", "--all", "-n", space)
    hooks.apply(pod(space, "web", container(memory=16)))
    eventually(lambda: len(get(plane, space, "resourceclaims")) == 1, "its claim is made")


def _tried_error(plane: ControlPlane, document: Json) -> str:
    result = plane._kubectl("create", "--dry-run=server", "--filename=-", text_in=yaml.safe_dump(document))
    return result.stderr


def lists_of_claims(plane: ControlPlane) -> int:
    """How often somebody has listed claims."""
    wanted = ('verb="LIST"', 'resource="resourceclaims"', "apiserver_request_total{")
    lines = plane.kubectl("get", "--raw=/metrics").splitlines()
    return sum(int(float(line.rpartition(" ")[2])) for line in lines if all(part in line for part in wanted))


def test_claims_within_a_quota_are_counted_without_listing_them(plane: ControlPlane, space: str, hooks: Webhooks):
    plane.kubectl("label", "namespace", space, "cgpu.dev/gpu-memory-quota=64Gi")
    ledger = f"cgpu-quota-{space}"

    def is_counted() -> bool:
        hooks.apply(claim(space, f"early-{next(_numbers)}"))
        return ledger in plane.kubectl("get", "configmaps", "-n", NAMESPACE)

    eventually(is_counted, "the quota is known")
    for number in range(4):  # each webhook makes its copy when it first needs one
        hooks.apply(claim(space, f"first-{number}"))
    before = lists_of_claims(plane)
    hooks.apply(*(claim(space, f"more-{number}") for number in range(20)))
    assert lists_of_claims(plane) - before <= 4


def test_resource_quotas_on_acks_resources_go_on_to_hold(plane: ControlPlane, space: str, hooks: Webhooks):
    hard = {f"requests.{MEMORY}": "8", f"requests.{COMPUTE}": "50"}
    metadata = {"name": "gpus", "namespace": space}
    hooks.apply({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": metadata, "spec": {"hard": hard}})
    eventually(lambda: "exceeded quota" in _tried_error(plane, pod(space, "p", container(memory=9))), "it is known")
    hooks.apply(pod(space, "web", container(memory=6, compute=20)))
    eventually(lambda: len(get(plane, space, "resourceclaims")) == 1, "its claim is made")
    assert "asked 3 GiB, used 6 GiB, limit 8 GiB" in refused(plane, pod(space, "two", container(memory=3)))
    assert "used 20 %, limit 50 %" in refused(plane, pod(space, "two", container(memory=1, compute=35)))
    assert "used 6 GiB" in refused(plane, claim(space, "by-hand", "3Gi"))


def test_a_quota_holds_when_a_webhook_is_killed(plane: ControlPlane, space: str, hooks: Webhooks):
    have_quota(plane, space, hooks)
    documents = [claim(space, f"c-{number}") for number in range(50)]
    outcomes = _killed_meanwhile(plane, hooks, documents)
    hooks.restart()
    admitted = outcomes.count("")
    assert len(get(plane, space, "resourceclaims")) == admitted <= 16
    assert any("failed calling webhook" in outcome for outcome in outcomes)
    # What was reserved for those that failed is given back when it is sure that they do not come any more.
    assert "exceeded quota" in refused(plane, claim(space, "more", f"{17 - admitted}Gi"))


def _killed_meanwhile(plane: ControlPlane, hooks: Webhooks, documents: list[Json]) -> list[str]:
    """The outcomes for objects that are created at once; a webhook is killed when the first is there."""
    process = hooks.begin("tests.e2e.kube.at_once", json.dumps(documents))
    assert process.stderr
    assert process.stdout
    first = process.stderr.readline()
    plane.host.signal(hooks.replicas[8444], signal.SIGKILL)
    hooks.replicas.pop(8444).wait()
    outcomes: list[str] = json.loads(process.stdout.read() or json.dumps([first + process.stderr.read()]))
    plane.host.stop(process)
    return outcomes


T4 = Gpu(0, "GPU-5f0d1a2b-0000-4000-8000-000000000001", "Tesla T4", 15079 * MIB, "535.54.03", simulated=True)


@pytest.fixture
def card(plane: ControlPlane, hooks: Webhooks) -> Iterator[None]:
    """A node with a T4, as its agent publishes it, and nobody who runs its pods."""
    ready = [{"type": "Ready", "status": "True", "reason": "x", "message": "x"}]
    room = {"cpu": "64", "memory": "64Gi", "pods": "110"}
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "t4"}}
    hooks.apply(node | {"status": {"conditions": ready, "capacity": room, "allocatable": room}})
    uid = json.loads(plane.kubectl("get", "node", "t4", "-o=json"))["metadata"]["uid"]
    sharing = Sharing(Isolation.MEMORY_AND_COMPUTE, Placement.BINPACK)
    shown = devices([Card(T4, T4.total_bytes, "shim", "soft")], sharing, {})
    hooks.apply(*slices(Pool("t4", uid, 1), shown))
    yield
    plane.kubectl("delete", "resourceslice", "--all")
    plane.kubectl("delete", "node", "t4")


def consumed(plane: ControlPlane, space: str) -> dict[str, str]:
    """Memory that each pod's claim was given, by the pod's name."""
    return {
        row["metadata"]["ownerReferences"][0]["name"]: result["consumedCapacity"]["memory"]
        for row in get(plane, space, "resourceclaims")
        for result in row.get("status", {}).get("allocation", {}).get("devices", {}).get("results", ())
    }


@pytest.fixture
def options(hooks: Webhooks) -> Iterator[Callable[[str], None]]:
    """Starts the webhooks with an option."""

    def chosen(option: str) -> None:
        hooks.options = [option]
        hooks.restart()

    yield chosen
    hooks.options = []
    hooks.restart()


def test_a_gib_is_a_part_of_the_card_where_the_administrator_wants_it_so(
    plane: ControlPlane, space: str, hooks: Webhooks, card: None, options: Callable[[str], None]
):
    options("--proportional-memory")
    hooks.apply(*(pod(space, f"web-{size}", container(memory=size)) for size in (3, 11)))
    eventually(lambda: len(consumed(plane, space)) == 2, "both fit")
    assert consumed(plane, space) == {"web-3": "3231Mi", "web-11": "11847Mi"}  # together 15078 of 15079 MiB
    hooks.apply(pod(space, "web-3", container(memory=3)))  # again


def test_more_than_the_largest_card_is_a_warning(plane: ControlPlane, space: str, card: None):
    text = yaml.safe_dump(pod(space, "web", container(memory=20)))
    eventually(
        lambda: (
            "Warning: cgpu: 20GiB of one card is more than any card has that is there now"
            in plane._kubectl("create", "--dry-run=server", "--filename=-", text_in=text).stderr
        ),
        "the card is known",
    )


def test_more_than_the_named_largest_card_is_refused(plane: ControlPlane, space: str, options: Callable[[str], None]):
    options("--largest-card=16GiB")
    for document in (pod(space, "web", container(memory=20)), claim(space, "mine", "20Gi")):
        assert "than the largest card of this cluster has, 16GiB" in refused(plane, document)
    plane.kubectl("create", "--filename=-", text_in=yaml.safe_dump(pod(space, "web", container(memory=16))))


def test_without_webhooks_only_what_is_ours_waits(plane: ControlPlane, space: str, hooks: Webhooks):
    hooks.__exit__()
    try:
        hooks.apply(pod(space, "plain", container()))
        system = pod("kube-system", "gpu", container(memory=8))
        assert (
            "failed calling webhook"
            not in plane._kubectl("create", "--filename=-", text_in=yaml.safe_dump(system)).stderr
        )
        off = pod(space, "left-to-ack", container(memory=8))
        off["metadata"]["labels"]["cgpu.dev/admission"] = "disabled"
        hooks.apply(off)
        assert MEMORY in json.dumps(get(plane, space, "pod", "left-to-ack")["spec"])
        assert "failed calling webhook" in refused(plane, pod(space, "web", container(memory=8)))
    finally:
        hooks.restart()
    hooks.apply(pod(space, "web", container(memory=8)))


def test_a_certificate_is_replaced_while_both_are_trusted(plane: ControlPlane, space: str, hooks: Webhooks):
    def bundle() -> str:
        return plane.kubectl(
            "get", "mutatingwebhookconfiguration", "cgpu-pods", "-o=jsonpath={.webhooks[0].clientConfig.caBundle}"
        )

    # As if the one that there is had been made two months ago.
    hooks.__exit__()
    plane.kubectl("delete", "secret", "cgpu-webhook-certificate", "-n", NAMESPACE)
    assert hooks.python("tests.e2e.kube.ahead", "renew", str(-61 * 24 * 60)).strip() == "MAKE"
    old = bundle()
    hooks.restart()  # the first replica announces another, and serves the old one
    assert "announce" in hooks.log(8443)
    assert "announce" not in hooks.log(8444)
    assert len(bundle()) > 1.5 * len(old)
    assert hooks.python("tests.e2e.kube.ahead", "renew", "1").strip() == "KEEP"
    hooks.apply(pod(space, "before", container(memory=8)))
    assert hooks.python("tests.e2e.kube.ahead", "renew", "6").strip() == "SERVE"
    hooks.apply(pod(space, "meanwhile", container(memory=2)))
    hooks.restart()
    hooks.apply(pod(space, "after", container(memory=4)))
