"""Making a container a tenant: ask the agent, edit the bundle, and take both back where either fails."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from cgpu.adapters.agent_client import AgentClient, tenant_path
from cgpu.errors import BundleError, CgpuError, ForbiddenError
from cgpu.model.container import (
    ANNOTATION_COMPUTE_LAYER,
    ANNOTATION_MEMORY_LAYER,
    ANNOTATION_TENANT,
    SIM_STATE,
    tenant_id_of,
)
from cgpu.oci.bundle import Bundle
from cgpu.oci.command_line import CommandLine
from cgpu.oci.conf import Conf
from cgpu.oci.environment import NVIDIA_VISIBLE, Request, request_of, variables
from cgpu.oci.sim_access import check_access
from cgpu.oci.wish import wish_of

_ANSWER_SECONDS: Final = 10.0  # as the hook waits
_CUDA_VISIBLE: Final = "CUDA_VISIBLE_DEVICES"


def prepare(line: CommandLine, conf: Conf) -> Callable[[], None]:
    """Make the container of this command line a tenant, if it asks for that; returns what takes it back.

    Raises CgpuError; then no tenant is left of it, and the bundle is as it was.
    """
    bundle = Bundle(Path(line.bundle))
    request = request_of(bundle.environment, bundle.annotations)
    if request is None:
        return lambda: None
    if not line.container:
        raise BundleError("the runtime's command line names no container")
    bundle.check_no_device()
    client = AgentClient(conf.socket, _ANSWER_SECONDS)
    tenant_id = tenant_id_of(line.container)
    wish = wish_of(request, line.container, client.get("/v1/gpus"))
    if conf.sim_state is not None:
        check_access(conf.sim_state, bundle.config)
    try:
        tenant, is_new = client.create(tenant_path(tenant_id), wish.body)
    except ForbiddenError as error:
        raise ForbiddenError(
            "this container has no share: the agent makes tenants of root's engines only, not of rootless ones",
            "run the container as root, or without a share (CGPU_DISABLE=1)",
        ) from error

    def take_back() -> None:
        bundle.restore()
        if is_new:  # else it is a running container's: the real runtime refuses its id
            client.delete(tenant_path(tenant_id))

    try:
        bundle.make_tenant(
            Path(tenant["region"]),
            sim_state=conf.sim_state,
            environment=_environment(request, bundle, wish.visible, simulated=conf.sim_state is not None),
            annotations=_annotations(tenant),
            hook=(str(conf.program), "hook", "attach", str(conf.socket), tenant_id),
        )
    except CgpuError:
        take_back()
        raise
    return take_back


def _environment(request: Request, bundle: Bundle, visible: tuple[str, ...], *, simulated: bool) -> dict[str, str]:
    """What tells the driver, or NVIDIA's own container hook, which cards the container has."""
    if not simulated:
        return {NVIDIA_VISIBLE: ",".join(visible)} if request.sets_visible else {}
    # A simulated card has no device node that could be kept from the container: CUDA's own variable does it.
    cards = variables(bundle.environment).get(_CUDA_VISIBLE, ",".join(visible))
    return {"CGPU_SIM_STATE": str(SIM_STATE), _CUDA_VISIBLE: cards}


def _annotations(tenant: Mapping[str, Any]) -> dict[str, str]:
    """The tenant, and what enforces its shares."""
    first = tenant["shares"][0]
    return {
        ANNOTATION_TENANT: tenant["id"],
        ANNOTATION_MEMORY_LAYER: first["memory_layer"],
        ANNOTATION_COMPUTE_LAYER: first["compute_layer"],
    }
