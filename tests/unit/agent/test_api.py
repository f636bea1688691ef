"""The HTTP API: statuses, errors as JSON, who may change what, and the document that describes it."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import pytest

from cgpu.adapters.agent_client import tenant_path
from cgpu.adapters.nvml import GpuProcess
from cgpu.agent.api import BODY_BYTES_MAX, PATH, PEER, Api, Peer
from cgpu.agent.documentation import ACCOUNT
from cgpu.agent.schema import check
from cgpu.agent.state import NodeState
from cgpu.agent.views import Views
from cgpu.errors import DriverError
from cgpu.model.account import Counters
from cgpu.model.tenant import Gpu
from cgpu.model.units import GIB
from cgpu.testing.fakes import GPU_UUIDS
from cgpu.testing.tenant_process import TenantProcess
from tests.unit.agent.conftest import World, write_counters

OWNER = Peer(pid=50, uid=1000, gid=1000)
STRANGER = Peer(pid=51, uid=1001, gid=1001)


def limited(percent: int, limit: int) -> dict[str, Any]:
    return {"shares": [{"gpu": "0", "memory_bytes": GIB, "compute_percent": percent, "compute_limit_percent": limit}]}


WISH = {"name": "web", "shares": [{"gpu": "0", "memory_bytes": GIB, "compute_percent": 30, "weight": 2}]}

Call = Callable[..., tuple[int, Any]]


@pytest.fixture
def api(world: World, state: NodeState) -> Api:
    return Api(state, Views(state, world.node, private=True, runtime_dir="/run/x"), owner_uid=1000)


@pytest.fixture
def call(api: Api) -> Call:
    def request(
        method: str, path: str, body: Any = None, *, peer: Peer = OWNER, raw: bytes | None = None
    ) -> tuple[int, Any]:
        data = raw if raw is not None else b"" if body is None else json.dumps(body).encode()
        got: list[str] = []
        path, _, query = path.partition("?")
        environment = {
            "REQUEST_METHOD": method,
            PATH: path,
            "QUERY_STRING": query,
            "CONTENT_LENGTH": str(len(data)),
            "wsgi.input": io.BytesIO(data),
            PEER: peer,
        }
        content = b"".join(api(environment, lambda status, headers: got.append(status)))  # type: ignore[arg-type]
        return int(got[0][:3]), json.loads(content) if content else None

    return request


def test_a_name_may_have_a_slash(call: Call):
    assert call("PUT", "/v1/tenants/k8s-1-0", WISH | {"name": "team/web-gpu-x"})[0] == 201
    status, tenant = call("PATCH", tenant_path("team/web-gpu-x"), {"weight": 3})
    assert (status, tenant["id"], tenant["shares"][0]["weight"]) == (200, "k8s-1-0", 3)
    assert call("GET", "/v1/tenants/team/web-gpu-x")[0] == 404


def test_a_tenant_from_its_making_to_its_end(call: Call):
    status, made = call("PUT", "/v1/tenants/t1", WISH)
    assert status == 201
    assert (made["name"], made["lifetime"], made["simulated"]) == ("web", "explicit", True)
    (share,) = made["shares"]
    assert (share["memory_bytes"], share["memory_layer"], share["compute_layer"], share["policy"]) == (
        GIB,
        "shim",
        "slots",
        2,
    )
    assert (share["compute_percent"], share["compute_enforced"]) == (30, False)
    assert call("PUT", "/v1/tenants/t1", WISH)[0] == 200
    assert call("GET", "/v1/tenants")[1] == [made]
    assert call("GET", "/v1/tenants/web") == (200, made)
    status, changed = call("PATCH", "/v1/tenants/web", {"memory_bytes": 2 * GIB})
    assert (status, changed["shares"][0]["memory_bytes"]) == (200, 2 * GIB)
    assert call("DELETE", "/v1/tenants/t1") == (204, None)
    assert call("DELETE", "/v1/tenants/t1")[0] == 404


def test_a_percentage_can_be_taken_away_again(call: Call):
    call("PUT", "/v1/tenants/t1", limited(30, 60))
    status, changed = call("PATCH", "/v1/tenants/t1", {"weight": 3})
    assert (status, changed["shares"][0]["compute_percent"]) == (200, 30)
    status, changed = call("PATCH", "/v1/tenants/t1", {"compute_percent": None})
    assert status == 200
    assert [changed["shares"][0][name] for name in ("compute_percent", "compute_limit_percent", "weight")] == [
        None, 60, 3,
    ]  # fmt: skip
    assert (
        call("PATCH", "/v1/tenants/t1", {"compute_limit_percent": None})[1]["shares"][0]["compute_limit_percent"]
        is None
    )
    assert call("PATCH", "/v1/tenants/t1", {"weight": None})[0] == 400


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("GET", "/v1/tenants/none", None, 404, "no_such_tenant"),
        ("GET", "/v1/gpus/9", None, 404, "no_such_gpu"),
        ("GET", "/v2", None, 404, "path"),
        ("POST", "/v1/tenants", None, 405, "method"),
        ("PUT", "/v1/tenants/-", WISH, 400, "usage"),
        ("PUT", "/v1/tenants/x", {}, 400, "usage"),
        ("PUT", "/v1/tenants/x", [], 400, "usage"),
        ("PUT", "/v1/tenants/x", {"shares": []}, 400, "usage"),
        ("PUT", "/v1/tenants/x", {"shares": [{"gpu": "0", "memory_bytes": 0}]}, 400, "usage"),
        ("PUT", "/v1/tenants/x", {"shares": [{"gpu": "0", "memory_bytes": True}]}, 400, "usage"),
        ("PUT", "/v1/tenants/x", {"shares": [{"gpu": "0", "memory_bytes": 1.5}]}, 400, "usage"),
        ("PUT", "/v1/tenants/x", {"shares": [{"gpu": "0", "memory_bytes": -1}]}, 400, "usage"),
        ("PUT", "/v1/tenants/x", {**WISH, "colour": "red"}, 400, "usage"),
        ("PUT", "/v1/tenants/x", {**WISH, "name": "a\n"}, 400, "usage"),
        ("PUT", "/v1/tenants/x", {**WISH, "lifetime": "never"}, 400, "usage"),
        ("PUT", "/v1/tenants/x", {**WISH, "container": ""}, 400, "usage"),
        ("PUT", "/v1/tenants/x", {**WISH, "require_layer": "broker"}, 400, "usage"),
        ("PUT", "/v1/tenants/x", {**WISH, "require_layer": "driver"}, 409, "layer"),
        ("POST", "/v1/tenants/none/attach", {"pid": 1}, 404, "no_such_tenant"),
        ("POST", "/v1/tenants/none/attach", {}, 400, "usage"),
        ("POST", "/v1/tenants/none/attach", {"pid": 0}, 400, "usage"),
        ("POST", "/v1/tenants/none/attach", {"pid": "1"}, 400, "usage"),
        ("POST", "/v1/tenants/none/attach", None, 400, "usage"),
        ("POST", "/v1/tenants/none/ending", None, 404, "no_such_tenant"),
        ("PUT", "/v1/tenants/x", {"shares": [{"gpu": "9", "memory_bytes": GIB}]}, 404, "no_such_gpu"),
        ("PUT", "/v1/tenants/x", {"shares": [{"gpu": "0", "memory_bytes": 17 * GIB}]}, 409, "capacity"),
        ("PATCH", "/v1/tenants/none", {"weight": 2}, 404, "no_such_tenant"),
        ("PATCH", "/v1/gpus/0", {"policy": 6}, 400, "usage"),
        ("PATCH", "/v1/gpus/0", {"prio_ratio": 19}, 400, "usage"),
        ("PATCH", "/v1/gpus/0", {"prio_ratio": 100}, 400, "usage"),
        ("PATCH", "/v1/gpus/0", {"quantum_ms": 0}, 400, "usage"),
        ("PUT", "/v1/tenants/x", limited(30, 20), 400, "amount"),
        ("PATCH", "/v1/gpus/0", {"max_inst": 21}, 400, "usage"),
    ],
)
def test_what_is_wrong_is_said_with_a_status(call: Call, method: str, path: str, body: Any, status: int, code: str):
    got, document = call(method, path, body)
    assert (got, document["code"]) == (status, code)
    assert document["message"]


def test_the_account_is_up_to_date_with_every_question(call: Call, state: NodeState):
    call("PUT", "/v1/tenants/t1", WISH)
    write_counters(state.region("t1"), Counters(got_ns=7, turns=2))
    status, (row,) = call("GET", "/v1/account")
    check(row, ACCOUNT)
    assert (status, row["name"], row["got_ns"], row["turns"], row["simulated"]) == (200, "web", 7, 2, True)
    write_counters(state.region("t1"), Counters(got_ns=9, turns=3))
    assert call("GET", "/v1/account?tenant=web&gpu=0")[1][0]["got_ns"] == 9


def test_the_account_of_an_interval_in_steps(call: Call, world: World):
    call("PUT", "/v1/tenants/t1", WISH)
    begin = int(world.started_s)
    world.now_ns = 600 * 10**9
    path = f"/v1/account?since={begin + 60}&until={begin + 239}&step=120&gpu={GPU_UUIDS[0]}"
    history = [(row["from"] - begin, row["to"] - begin) for row in call("GET", path)[1]]
    assert history == [(60, 120), (120, 240)]  # steps begin at multiples of 120 s, and are cut to the interval


def test_a_gpu_without_an_account_is_no_error_and_one_that_is_none_is(call: Call):
    call("PUT", "/v1/tenants/t1", WISH)
    assert call("GET", "/v1/account?gpu=1") == (200, [])
    assert call("GET", "/v1/account?gpu=7")[0] == 404
    assert call("GET", "/v1/account?tenant=nobody")[1]["code"] == "no_such_tenant"


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("colour=red", "colour"),
        ("since=yesterday", "since"),
        ("since=", "since"),
        ("since=-1", "since"),
        ("since=1.5", "since"),
        ("since=253402300800", "since"),
        ("since=99999999999999999999", "since"),
        ("until=%D9%A3", "until"),  # an Arabic digit
        ("step=59", "step"),
        ("step=90", "step"),
        ("step=86460", "step"),
        ("tenant=", "tenant"),
        ("tenant=%00", "tenant"),
        ("gpu=a%20b", "gpu"),
        ("since=1&since=1", "since"),
        ("since", "query is malformed"),
        ("tenant=%ff", "query is malformed"),
    ],
)
def test_a_parameter_that_is_unknown_or_malformed_is_named(call: Call, query: str, named: str):
    status, document = call("GET", f"/v1/account?{query}")
    assert (status, document["code"]) == (400, "usage")
    assert named in document["message"]


def test_a_parameter_where_there_is_none_is_an_error_too(call: Call):
    status, document = call("GET", "/v1/tenants?gpu=0")
    assert status == 400
    assert "gpu" in document["message"]


@pytest.mark.parametrize("raw", [b"{", b"\xff", b"[" * 60000, b"nul"])
def test_what_is_not_json_is_refused(call: Call, raw: bytes):
    assert call("PUT", "/v1/tenants/x", raw=raw)[0] == 400


def test_a_request_that_is_too_large_is_refused(call: Call):
    assert call("PUT", "/v1/tenants/x", raw=b" " * (BODY_BYTES_MAX + 1))[0] == 413


def test_only_root_and_the_agents_own_user_may_change_anything(call: Call):
    for method, path, body in (
        ("PUT", "/v1/tenants/x", WISH),
        ("PATCH", "/v1/tenants/x", {"weight": 2}),
        ("DELETE", "/v1/tenants/x", None),
        ("PATCH", "/v1/gpus/0", {"policy": 2}),
    ):
        assert call(method, path, body, peer=STRANGER)[0] == 403
    assert call("GET", "/v1/tenants", peer=STRANGER) == (200, [])
    assert call("PUT", "/v1/tenants/x", WISH, peer=Peer(1, 0, 0))[0] == 201


def test_a_policy_is_chosen_and_given_back(call: Call):
    _, gpu = call("PATCH", "/v1/gpus/0", {"policy": 5, "overcommit": True})
    assert (gpu["policy"], gpu["policy_chosen"], gpu["compute_layer"], gpu["overcommit"]) == (5, 5, "none", True)
    _, gpu = call("PATCH", f"/v1/gpus/{GPU_UUIDS[0]}", {"policy": None})
    assert (gpu["policy"], gpu["policy_chosen"], gpu["overcommit"]) == (1, None, True)


def test_use_and_processes_are_shown(world: World, state: NodeState, call: Call):
    call("PUT", "/v1/tenants/t1", WISH)
    world.host.spawn(50)
    process = TenantProcess(state.region("t1"), 0, 50, 500)
    process.charge(GIB // 2)
    world.node.listed[GPU_UUIDS[0]] = [GpuProcess(50, GIB // 2 + 1000)]
    (share,) = call("GET", "/v1/tenants/t1")[1]["shares"]
    assert (share["used_bytes"], share["overhead_bytes"]) == (GIB // 2 + 1000, 1000)
    assert share["processes"] == [
        {"pid": 50, "host_pid": 50, "command": "python", "memory_bytes": GIB // 2 + 1000, "bypasses_shim": False}
    ]
    gpu = call("GET", "/v1/gpus/0")[1]
    assert (gpu["tenants"], gpu["quota_bytes"], gpu["foreign_bytes"]) == (1, GIB, world.node.reserved_bytes)
    process.close()


def test_a_caller_that_cannot_be_seen_is_told_so(call: Call):
    status, document = call("PUT", "/v1/tenants/x", {**WISH, "lifetime": "caller"})
    assert (status, document["code"]) == (409, "refused")


def test_a_callers_tenant_ends_with_it(world: World, state: NodeState, call: Call):
    world.host.spawn(50)
    assert call("PUT", "/v1/tenants/x", {**WISH, "lifetime": "caller"})[1]["lifetime"] == "caller"
    root = state.record("x").root
    assert root is not None
    assert root.host_pid == 50


def test_a_card_that_does_not_answer_is_said_to_be_so_and_takes_no_tenants(
    world: World, call: Call, monkeypatch: pytest.MonkeyPatch
):
    call("PUT", "/v1/tenants/t1", WISH)
    listed = world.node.processes

    def fail(card: Gpu) -> tuple[GpuProcess, ...]:
        if card.index == 0:
            raise DriverError("GPU is lost")
        return listed(card)

    monkeypatch.setattr(world.node, "processes", fail)
    status, gpus = call("GET", "/v1/gpus")
    assert (status, [gpu["fault"] for gpu in gpus]) == (200, ["GPU is lost", ""])
    assert call("GET", "/v1/tenants")[1][0]["fault"] == ""
    status, document = call("PUT", "/v1/tenants/t2", WISH | {"name": "other"})
    assert (status, document["code"], document["message"]) == (503, "driver", "GPU is lost")
    assert call("PUT", "/v1/tenants/t3", {"shares": [{"gpu": "1", "memory_bytes": GIB}]})[0] == 201


def test_a_mistake_of_ours_is_500_and_says_nothing_of_the_inside(
    call: Call, state: NodeState, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(state, "survey", lambda *_: 1 / 0)
    status, document = call("GET", "/v1/gpus")
    assert status == 500
    assert "ZeroDivision" not in json.dumps(document)
    assert "ZeroDivisionError" in caplog.text


def test_a_container_attaches_with_its_state_and_ends(world: World, call: Call):
    world.host.spawn(50)
    wish = {**WISH, "container": "c1", "lifetime": "caller", "require_layer": "shim"}
    _, made = call("PUT", "/v1/tenants/oci-c1", wish)
    assert (made["container"], made["require_layer"], made["cgroup"]) == ("c1", "shim", "")
    world.host.spawn(70, cgroup="/docker/c1")
    state = {"ociVersion": "1.2.0", "id": "c1", "pid": 70, "annotations": {"long": "x" * (2 * BODY_BYTES_MAX)}}
    for _ in range(2):
        status, attached = call("POST", "/v1/tenants/oci-c1/attach", state)
        assert (status, attached["cgroup"]) == (200, "/docker/c1")
    assert call("POST", "/v1/tenants/oci-c1/attach", {"pid": 71})[1]["code"] == "refused"
    for told, cause in (({"shim_problem": "it is musl"}, "it is musl"), ({}, "its C library or its architecture")):
        status, refused = call("POST", "/v1/tenants/oci-c1/attach", {"pid": 70, "loads_shim": False, **told})
        assert (status, refused["code"]) == (409, "layer")
        assert cause in refused["message"]
    assert call("POST", "/v1/tenants/oci-c1/ending", peer=STRANGER)[0] == 403
    del world.host.table[70]
    assert call("POST", "/v1/tenants/oci-c1/ending") == (204, None)
    assert call("POST", "/v1/tenants/oci-c1/ending")[0] == 404
