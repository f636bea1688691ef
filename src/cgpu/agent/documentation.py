"""What the HTTP API takes and gives, as JSON Schema, and the OpenAPI document made of it."""

from __future__ import annotations

import json
from typing import Any, Final

from cgpu import __version__
from cgpu.agent.schema import Schema
from cgpu.model.account import MINUTE_S, MOMENT_S_MAX, STEP_S_MAX
from cgpu.model.tenant import MAX_TENANTS_PER_GPU, PRIO_RATIO_MAX, PRIO_RATIO_MIN, QUANTUM_MS_MAX, MemoryLayer
from cgpu.model.units import COMPUTE_PERCENT_MAX, WEIGHT_MAX

BYTES_MAX: Final = (1 << 44) - 256  # what the region's account can count
TENANT_ID: Final = "^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$"
TENANT_NAME: Final = "^[A-Za-z0-9]([A-Za-z0-9._/@:-]{0,61}[A-Za-z0-9])?$"
GPU_NAME: Final = "^[A-Za-z0-9-]{1,64}$"
CONTAINER_ID: Final = "^[A-Za-z0-9][A-Za-z0-9._+-]{0,1023}$"  # as runc takes them
PID_MAX: Final = 1 << 22  # Linux's own limit
REQUIRED_LAYERS: Final = (MemoryLayer.DRIVER, MemoryLayer.SHIM)


def _object(properties: dict[str, Any], required: list[str] | None = None) -> Schema:
    names = list(properties) if required is None else required
    return {"type": "object", "properties": properties, "required": names, "additionalProperties": False}


def _integer(low: int = 0, high: int | None = None, description: str = "") -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "integer", "minimum": low}
    if high is not None:
        schema["maximum"] = high
    if description:
        schema["description"] = description
    return schema


def _nullable(schema: dict[str, Any]) -> dict[str, Any]:
    return {**schema, "type": [schema["type"], "null"]}


def _string(description: str = "", pattern: str = "") -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    if description:
        schema["description"] = description
    if pattern:
        schema["pattern"] = pattern
    return schema


_BOOLEAN: Final[dict[str, Any]] = {"type": "boolean"}
_LAYERS: Final[dict[str, Any]] = {
    "type": "array",
    "items": {"type": "string", "enum": [str(layer) for layer in MemoryLayer]},
    "description": "what can enforce quotas of memory here, strongest first",
}
_GPU: Final = _string("index of the GPU as NVML counts, or its UUID", GPU_NAME)
_MEMORY: Final = _integer(1, BYTES_MAX, "bytes that the tenant may hold, contexts included")
_COMPUTE: Final = _integer(
    1, COMPUTE_PERCENT_MAX, "percent of the card's time; enforced under policies 3 and 4, else recorded"
)
_COMPUTE_LIMIT: Final = _integer(
    1, COMPUTE_PERCENT_MAX, "percent of the card's time that it never exceeds, whoever else is idle; not under policy 5"
)
_WEIGHT: Final = _integer(1, WEIGHT_MAX, "share of time relative to the others'; above 1 turns the default policy to 2")
_PRIORITY: Final = _integer(0, 1, "0 normal, 1 high")

_AMOUNTS: Final = {
    "memory_bytes": _MEMORY,
    "compute_percent": _COMPUTE,
    "compute_limit_percent": _COMPUTE_LIMIT,
    "weight": _WEIGHT,
    "priority": _PRIORITY,
}

SHARE_REQUEST: Final = _object({"gpu": _GPU, **_AMOUNTS}, ["gpu", "memory_bytes"])
TENANT_REQUEST: Final = _object(
    {
        "name": _string("what people call it; the id where none is given", TENANT_NAME),
        "shares": {"type": "array", "items": SHARE_REQUEST, "minItems": 1, "maxItems": 16},
        "refuse_managed": {**_BOOLEAN, "description": "cuMemAllocManaged answers CUDA_ERROR_NOT_SUPPORTED"},
        "lifetime": {
            "type": "string",
            "enum": ["explicit", "caller"],
            "description": "caller: the tenant is the calling process and its descendants, and ends with them",
        },
        "cgroup": _string("path of the tenant's cgroup, where it has one of its own", "^(/[^/\\u0000]{1,255}){1,16}$"),
        "container": _string("id of the container that is the tenant; its processes may have any user", CONTAINER_ID),
        "require_layer": {
            "type": "string",
            "enum": [str(layer) for layer in REQUIRED_LAYERS],
            "description": "refuse rather than enforce the quota of memory with anything weaker",
        },
    },
    ["shares"],
)
ATTACH: Final[Schema] = {
    "type": "object",
    "properties": {
        "pid": _integer(1, PID_MAX, "the container's first process, in the agent's PID namespace"),
        "loads_shim": {
            **_BOOLEAN,
            "description": "false: refused unless the driver holds it; true where it is missing",
        },
        "shim_problem": {"type": "string", "description": "where loads_shim is false, why; a part of the refusal"},
    },
    "required": ["pid"],
    "additionalProperties": True,
    "description": "the state of a container as the OCI runtime specification has it",
}
SHARE_CHANGE: Final = _object(
    {
        "gpu": _GPU,
        **_AMOUNTS,
        "compute_percent": _nullable({**_COMPUTE, "description": f"{_COMPUTE['description']}; null: none any more"}),
        "compute_limit_percent": _nullable(
            {**_COMPUTE_LIMIT, "description": f"{_COMPUTE_LIMIT['description']}; null: no cap any more"}
        ),
    },
    [],
)
_POLICY_SETTINGS: Final = {
    "max_inst": _integer(1, MAX_TENANTS_PER_GPU, "most tenants; policy 0 cuts the card's time into so many slices"),
    "overcommit": {**_BOOLEAN, "description": "quotas may add up to more than the card"},
    "prio_ratio": _integer(
        PRIO_RATIO_MIN, PRIO_RATIO_MAX, "percent of the card's time that high priority may take from the others"
    ),
    "quantum_ms": _integer(1, QUANTUM_MS_MAX, "length of a slot in milliseconds"),
    "share_slots": {
        **_BOOLEAN,
        "description": "tenants that leave the card idle in their slots have them together",
    },
}
POLICY_CHANGE: Final = _object(
    {
        "policy": _nullable(_integer(0, 5, "null: 1, or 2 once a weight is above 1")),
        **_POLICY_SETTINGS,
    },
    [],
)
PROCESS: Final = _object(
    {
        "pid": _integer(0, None, "in the process's own PID namespace"),
        "host_pid": _nullable(_integer(0)),
        "command": _string(),
        "memory_bytes": _integer(),
        "bypasses_shim": {
            **_BOOLEAN,
            "description": "on the card without a slot: its quota is not enforced by the shim",
        },
    }
)
SHARE: Final = _object(
    {
        "gpu_index": _nullable(_integer(0)),
        "gpu_uuid": _string(),
        "memory_bytes": _integer(),
        "memory_layer": {"type": "string", "enum": ["shim", "driver", "broker"]},
        "compute_percent": _nullable(_integer(1, COMPUTE_PERCENT_MAX)),
        "compute_limit_percent": _nullable(_integer(1, COMPUTE_PERCENT_MAX)),
        "compute_enforced": {
            **_BOOLEAN,
            "description": "whether compute_percent is enforced under the policy in force",
        },
        "compute_layer": {"type": "string", "enum": ["slots", "none"]},
        "weight": _integer(1, WEIGHT_MAX),
        "priority": _integer(0, 1),
        "policy": _integer(0, 5),
        "used_bytes": _integer(0, None, "charged, and what the card holds beyond it"),
        "overhead_bytes": _integer(0, None, "what the card holds beyond the charges, by NVML"),
        "peak_bytes": _integer(),
        "asked_percent": {
            "type": "number",
            "minimum": 0,
            "maximum": 100,
            "description": "of the card's time, if every tenant on it had work",
        },
        "waiting": {**_BOOLEAN, "description": "it wants the card and does not hold it"},
        "utilisation_percent": _integer(0, 100, "of the card's time that it got in the last second or so"),
        "busy_ns": _integer(0, None, "the card's time charged to the tenant so far"),
        "waited_ns": _integer(0, None, "time in which it wanted the card and did not hold it"),
        "turns": _integer(0, None, "slots that it got"),
        "preempted": _integer(0, None, "slots that ended by time while it had work"),
        "preempting": _integer(0, None, "slots of others that ended so and were followed by its own"),
        "launches": _integer(0, None, "work submitted by its living processes"),
        "oom_count": _integer(0, None, "allocations refused for the quota"),
        "denied_count": _integer(0, None, "calls refused for another reason"),
        "processes": {"type": "array", "items": PROCESS},
    }
)
TENANT: Final = _object(
    {
        "id": _string(),
        "name": _string(),
        "region": _string("folder of the tenant's region"),
        "cgroup": _string("empty: its processes are known by the region that they were started with"),
        "container": _string("the container's id; empty: it is none"),
        "require_layer": {"type": ["string", "null"], "enum": [*map(str, REQUIRED_LAYERS), None]},
        "refuse_managed": _BOOLEAN,
        "lifetime": {"type": "string", "enum": ["explicit", "caller"]},
        "simulated": _BOOLEAN,
        "fault": _string("what is wrong with its region, or contradicts what the card says; empty when nothing is"),
        "shares": {"type": "array", "items": SHARE},
    }
)
GPU: Final = _object(
    {
        "index": _integer(),
        "uuid": _string(),
        "name": _string(),
        "driver_version": _string(),
        "simulated": _BOOLEAN,
        "mig": _BOOLEAN,
        "pci_bus_id": _string(),
        "total_bytes": _integer(),
        "fault": _string("why the card does not answer, such as a lost GPU; what it uses is then told as 0"),
        "used_bytes": _integer(),
        "foreign_bytes": _integer(0, None, "held by processes of no tenant and by the driver itself"),
        "quota_bytes": _integer(0, None, "sum of the tenants' quotas"),
        "context_bytes": _integer(0, None, "charged for a context before its real size is seen"),
        "utilisation_percent": _integer(0, 100),
        "policy": _integer(0, 5, "in force"),
        "policy_chosen": _nullable(_integer(0, 5)),
        "memory_layers": _LAYERS,
        "compute_layer": {"type": "string", "enum": ["slots", "none"]},
        **_POLICY_SETTINGS,
        "tenants": _integer(),
        "arbiter": {
            "type": "object",
            "additionalProperties": {"type": "integer"},
            "description": "counters since its start",
        },
    }
)
ACCOUNT_QUERY: Final = _object(
    {
        "since": _integer(0, MOMENT_S_MAX, "Unix seconds; the beginning of the ledger where it is not given"),
        "until": _integer(0, MOMENT_S_MAX, "Unix seconds; now where it is not given"),
        "tenant": _string("id or name, of a tenant that has ended too", TENANT_NAME),
        "gpu": _GPU,
        "step": {
            **_integer(MINUTE_S, STEP_S_MAX, "seconds: a row per step, which begin at multiples of it"),
            "multipleOf": MINUTE_S,
        },
    },
    [],
)
ACCOUNT: Final = _object(
    {
        "tenant_id": _string(),
        "name": _string(),
        "gpu_uuid": _string(),
        "gpu_index": _integer(0, None, "at the time"),
        "from": _integer(0, None, "Unix seconds: what was asked, widened to whole minutes, within what is known"),
        "to": _integer(0, None, "Unix seconds, not included"),
        "got_ns": _integer(0, None, "the card's time charged to the tenant; none is under policy 5"),
        "waited_ns": _integer(0, None, "time in which it wanted the card and did not hold it"),
        "turns": _integer(0, None, "slots that it got"),
        "preempted": _integer(0, None, "slots that ended by time while it had work"),
        "preempting": _integer(0, None, "slots of others that ended so and were followed by its own"),
        "simulated": _BOOLEAN,
    }
)
INFO: Final = _object(
    {
        "version": _string(),
        "pid": _integer(),
        "private": {**_BOOLEAN, "description": "ends with its last tenant"},
        "driver_version": _string(),
        "simulated": _BOOLEAN,
        "runtime_dir": _string(),
        "gpus": _integer(),
        "tenants": _integer(),
        "memory_layers": _LAYERS,
    }
)
ERROR: Final = _object(
    {
        "code": _string("stable name of the kind of error"),
        "message": _string("the cause"),
        "remedy": _string("the way out; empty where none is known"),
    }
)

_COMPONENTS: Final[dict[str, Schema]] = {
    "Info": INFO,
    "Gpu": GPU,
    "Tenant": TENANT,
    "Account": ACCOUNT,
    "TenantRequest": TENANT_REQUEST,
    "ShareChange": SHARE_CHANGE,
    "Attach": ATTACH,
    "PolicyChange": POLICY_CHANGE,
    "Error": ERROR,
}


def _content(name: str, *, many: bool = False) -> dict[str, Any]:
    schema: dict[str, Any] = {"$ref": f"#/components/schemas/{name}"}
    return {"application/json": {"schema": {"type": "array", "items": schema} if many else schema}}


def _operation(
    name: str,
    summary: str,
    answer: str = "",
    *,
    many: bool = False,
    body: str = "",
    statuses: tuple[int, ...] = (),
    success: int = 200,
) -> dict[str, Any]:
    answers: dict[str, Any] = {
        str(status): {"description": text, "content": _content("Error")}
        for status, text in _ERRORS.items()
        if status in (*statuses, 400, 500, 503)
    }
    answers[str(success)] = {"description": "done", **({"content": _content(answer, many=many)} if answer else {})}
    operation: dict[str, Any] = {"operationId": name, "summary": summary, "responses": dict(sorted(answers.items()))}
    if body:
        operation["requestBody"] = {"required": True, "content": _content(body)}
    return operation


_ERRORS: Final = {
    400: "the request is malformed; an unknown parameter is, too",
    403: "only root, or the user of a private agent, may change anything",
    404: "there is no such thing",
    409: "the node cannot grant it",
    413: "the request is too large",
    500: "the agent's own fault: region or checkpoint",
    503: "the driver does not answer, or the agent is ending",
}
_WRITE: Final = (400, 403, 404, 409, 413)


def _parameter(name: str, pattern: str, description: str) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "in": "path",
            "required": True,
            "description": description,
            "schema": {"type": "string", "pattern": pattern},
        }
    ]


def _query(schema: Schema) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "query", "required": False, "schema": dict(value)}
        for name, value in schema["properties"].items()
    ]


def openapi() -> dict[str, Any]:
    """The OpenAPI 3.1 document of the agent."""
    created = _operation(
        "createTenant", "Make a tenant; repeating it is no error", "Tenant", body="TenantRequest", statuses=_WRITE
    )
    created["responses"]["201"] = {"description": "made", "content": _content("Tenant")}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "cgpu agent",
            "version": __version__,
            "description": "Tenants, shares and policies of the GPUs of one node. Served on a Unix socket only.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": {
            "/v1/info": {"get": _operation("info", "The agent and its node", "Info")},
            "/v1/gpus": {"get": _operation("listGpus", "All GPUs", "Gpu", many=True)},
            "/v1/gpus/{gpu}": {
                "parameters": _parameter("gpu", GPU_NAME, "index as NVML counts, or UUID"),
                "get": _operation("getGpu", "One GPU", "Gpu", statuses=(404,)),
                "patch": _operation(
                    "setPolicy", "How the GPU's time is divided", "Gpu", body="PolicyChange", statuses=_WRITE
                ),
            },
            "/v1/account": {
                "parameters": _query(ACCOUNT_QUERY),
                "get": _operation(
                    "account",
                    "Time got and waited for, of all tenants that there were",
                    "Account",
                    many=True,
                    statuses=(404,),
                ),
            },
            "/v1/tenants": {"get": _operation("listTenants", "All tenants", "Tenant", many=True)},
            "/v1/tenants/{tenant}": {
                "parameters": _parameter("tenant", TENANT_ID, "id; names are accepted too, except for making one"),
                "get": _operation("getTenant", "One tenant", "Tenant", statuses=(404,)),
                "put": created,
                "patch": _operation(
                    "setShare", "Change a running tenant", "Tenant", body="ShareChange", statuses=_WRITE
                ),
                "delete": _operation("removeTenant", "End a tenant", statuses=(403, 404), success=204),
            },
            "/v1/tenants/{tenant}/attach": {
                "parameters": _parameter("tenant", TENANT_ID, "id"),
                "post": _operation(
                    "attachTenant",
                    "The container's first process exists and has not yet begun; repeating it is no error",
                    "Tenant",
                    body="Attach",
                    statuses=_WRITE,
                ),
            },
            "/v1/tenants/{tenant}/ending": {
                "parameters": _parameter("tenant", TENANT_ID, "id"),
                "post": _operation(
                    "endingTenant",
                    "The container and its cgroup are about to be deleted: what the driver reserves for it is given"
                    " back, and once its first process has ended the tenant is removed",
                    statuses=(403, 404),
                    success=204,
                ),
            },
        },
        "components": {"schemas": {name: dict(schema) for name, schema in _COMPONENTS.items()}},
    }


if __name__ == "__main__":
    print(json.dumps(openapi(), indent=2))
