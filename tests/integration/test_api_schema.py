"""schemathesis against the API, and the document in docs/ against the code."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings

from cgpu.adapters.checkpoint import CheckpointStore
from cgpu.agent.api import PEER, Api, Peer
from cgpu.agent.documentation import openapi
from cgpu.agent.ledger import Ledger
from cgpu.agent.locks import GpuLocks
from cgpu.agent.state import NodeState
from cgpu.agent.views import Views
from cgpu.model.tenant import Share, Tenant
from cgpu.model.units import GIB
from cgpu.testing.fakes import FakeArbiter, FakeHost, FakeNode, gpu

DOCUMENT = Path(__file__).parents[2] / "docs" / "openapi.json"


@pytest.fixture
def schema(tmp_path: Path) -> Iterator[Any]:
    """The API over a fake node; its caller is root and runs."""
    host, node = FakeHost(), FakeNode((gpu(0), gpu(1)))
    host.spawn(50)
    (tmp_path / "locks").mkdir()
    state = NodeState(
        tenants_dir=tmp_path / "tenants",
        node=node,
        store=CheckpointStore(tmp_path / "checkpoint.json"),
        arbiter=FakeArbiter(),
        cgroups=host,
        processes=host,
        locks=GpuLocks(tmp_path / "locks"),
        ledger=Ledger(tmp_path / "account.sqlite3"),
    )
    state.create(Tenant("t", "t", (Share(gpu(0).uuid, GIB),)))  # the account is not empty
    api = Api(state, Views(state, node, private=False, runtime_dir=str(tmp_path)), owner_uid=0)

    def application(environment: dict[str, Any], start_response: Any) -> Any:
        environment[PEER] = Peer(50, 0, 0)
        return api(environment, start_response)

    yield schemathesis.openapi.from_wsgi("/openapi.json", application)
    state.close()


OPERATIONS = [
    (path, method)
    for path, item in openapi()["paths"].items()
    for method in item
    if method in ("get", "put", "patch", "delete", "post")
]


@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_the_api_does_what_its_document_says(schema: Any, path: str, method: str):
    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(case=schema[path][method].as_strategy())
    def every(case: Any) -> None:
        case.call_and_validate()

    every()


@pytest.mark.parametrize(
    ("path", "method"), [(path, method) for path, method in OPERATIONS if "{" in path or path == "/v1/account"]
)
def test_what_the_document_forbids_is_refused_cleanly(schema: Any, path: str, method: str):
    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(case=schema[path][method].as_strategy(generation_mode=schemathesis.GenerationMode.NEGATIVE))
    def every(case: Any) -> None:
        case.call_and_validate()

    every()


def test_the_document_in_docs_is_up_to_date():
    """Run ``python -m cgpu.agent.documentation > docs/openapi.json`` when this fails."""
    assert json.loads(DOCUMENT.read_text()) == openapi()
