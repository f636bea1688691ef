"""Errors keep their kind on the way through the socket."""

from __future__ import annotations

from pathlib import Path

import pytest

from cgpu import errors
from cgpu.adapters.agent_client import AgentClient, NoAgentError, error_from, gpu_path, tenant_path
from cgpu.errors import CgpuError


def kinds(kind: type[CgpuError] = CgpuError) -> list[type[CgpuError]]:
    return [kind, *(found for child in kind.__subclasses__() for found in kinds(child))]


@pytest.mark.parametrize("kind", [kind for kind in kinds() if kind.__module__ == errors.__name__])
def test_an_error_arrives_as_what_it_was(kind: type[CgpuError]):
    error = error_from({"code": kind.code, "message": "m", "remedy": "r"})
    assert type(error) is kind
    assert (error.message, error.remedy) == ("m", "r")


def test_an_unknown_code_is_still_an_error():
    assert type(error_from({"code": "from the future"})) is CgpuError


def test_no_socket_means_no_agent(tmp_path: Path):
    with pytest.raises(NoAgentError, match="no agent answers"):
        AgentClient(tmp_path / "none", 1.0).get("/v1/info")


def test_names_are_quoted():
    assert tenant_path("a/b c") == "/v1/tenants/a%2Fb%20c"
    assert gpu_path("0") == "/v1/gpus/0"
