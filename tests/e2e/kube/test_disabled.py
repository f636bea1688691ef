"""A pod cannot take the quota off itself: CGPU_DISABLE is ignored, and it is told."""

from __future__ import annotations

from functools import partial

import yaml

from cgpu.model.units import GIB
from tests.e2e.host import eventually
from tests.e2e.kube.installation import Installation, pod, template
from tests.e2e.kube.test_ack import ack_pod
from tests.e2e.kube.test_pods import FILL, OUT_OF_MEMORY, told

ON = [{"name": "CGPU_DISABLE", "value": "true"}]


def test_the_quota_holds_and_the_pod_is_told_once(installation: Installation):
    own, of_ack = pod("own", "disabled", *FILL), ack_pod("of-ack", *FILL, mem="1")
    for made in (own, of_ack):
        made["spec"]["containers"][0]["env"] = ON
    installation.apply(template("disabled", "1Gi"))
    for made in (own, of_ack):
        said = installation.cluster.control_plane.warned("apply", "-f", "-", text_in=yaml.safe_dump(made))
        assert "Warning: cgpu: container main: CGPU_DISABLE is ignored" in said
    for name in ("own", "of-ack"):
        seen = told(installation, name)
        assert seen["device_total"] == seen["total"] == seen["nvml_total"] == GIB
        assert seen["refusal"] == OUT_OF_MEMORY

    def notes(name: str) -> list[str]:
        words = "-o=jsonpath={range .items[*]}{.message}{'\\n'}{end}"
        uid = installation.kubectl("get", "pod", name, "-o=jsonpath={.metadata.uid}")
        selected = f"--field-selector=involvedObject.uid={uid},reason=CgpuDisableIgnored"
        return installation.kubectl("get", "events", selected, words).splitlines()

    for name in ("own", "of-ack"):
        eventually(partial(notes, name), "the pod is told")
        (note,) = notes(name)
        assert note.startswith("container main: CGPU_DISABLE is ignored")
