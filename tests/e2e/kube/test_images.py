"""Images whose programs cannot load the shim have no share where only the shim would hold them to it."""

from __future__ import annotations

import json

import pytest

from tests.e2e.host import eventually
from tests.e2e.kube import images
from tests.e2e.kube.installation import Installation, pod, template

AARCH64 = 183
SLEEP = ["sleep", "3600"]


def import_image(installation: Installation, kind: str) -> str:
    """An image without glibc on all nodes, of another architecture where it is a foreign one; its name."""
    name, host = f"docker.io/local/{kind}:1", installation.cluster.control_plane.host
    architecture = AARCH64 if kind == "foreign" else None
    folder = host.folder / f"image-{kind}"
    archive = folder / "without-glibc.tar"
    if not archive.exists():
        images.without_glibc(folder, name, architecture=architecture)
        for worker in installation.cluster.workers:
            worker.import_image(archive)
    return name


@pytest.mark.parametrize(
    ("kind", "reason"),
    [("musl", "its C library is musl"), ("foreign", "its program /bin/sleep is of another architecture than x86_64")],
)
def test_the_pods_event_says_why_an_image_is_refused(installation: Installation, kind: str, reason: str):
    wrong = pod(f"wrong-{kind}", "one", *SLEEP)
    wrong["spec"]["containers"][0]["image"] = import_image(installation, kind)
    installation.apply(template("one", "1Gi"), wrong)
    events = ("get", "events", f"--field-selector=involvedObject.name=wrong-{kind},type=Warning", "-o=json")

    def said() -> str:
        return " ".join(row["message"] for row in json.loads(installation.kubectl(*events))["items"])

    eventually(lambda: reason in said(), "the event tells")
    assert "use an image with glibc, or a node with driver r615 or later" in said()
    assert installation.phase(f"wrong-{kind}") != "Running"


def test_a_container_without_a_claim_may_have_any_image(installation: Installation):
    beside = pod("beside", "one", *SLEEP)
    beside["spec"]["containers"].append(
        {"name": "other", "image": import_image(installation, "musl"), "command": SLEEP}
    )
    installation.apply(template("one", "1Gi"), beside)
    installation.wait_for("beside", "Running")
