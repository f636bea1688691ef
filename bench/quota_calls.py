"""Creates claims in a namespace that gets a quota once it has many, and tells how long one more takes.

python -m bench.quota_calls --kubeconfig FILE --claims 1000 --more 50

Run on the control plane's host; ``bench.quota`` does it. Prints milliseconds as JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from cgpu.adapters.kube_objects import CLAIMS, NAMESPACES, ObjectClient, connect
from cgpu.k8s import names

_THREADS: Final = 8
_GIB_EACH: Final = 1
_SEEN_S: Final = 2.0  # until a webhook has seen a label of a namespace


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.quota_calls", description=__doc__.splitlines()[0])
    parser.add_argument("--kubeconfig", type=Path, required=True)
    parser.add_argument("--claims", type=int, required=True)
    parser.add_argument("--more", type=int, required=True)
    options = parser.parse_args()
    with connect(options.kubeconfig) as api:
        print(json.dumps(measure(api, options.claims, options.more)))


def measure(api: ObjectClient, claims: int, more: int) -> list[float]:
    """Of each claim that comes after the quota."""
    space = f"team-{claims}"
    api.create(NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": space}})
    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(lambda number: api.create(CLAIMS, _claim(space, number), space), range(claims)))
    limit = f"{(claims + more) * _GIB_EACH}Gi"
    api.merge(NAMESPACES, "", space, {"metadata": {"labels": {names.MEMORY_QUOTA: limit}}})
    time.sleep(_SEEN_S)
    took = []
    for number in range(claims, claims + more):
        began = time.monotonic()
        api.create(CLAIMS, _claim(space, number), space)
        took.append((time.monotonic() - began) * 1000)
    return took


def _claim(space: str, number: int) -> dict[str, Any]:
    capacity = {"requests": {names.MEMORY: f"{_GIB_EACH}Gi"}}
    request = {"name": "gpu", "exactly": {"deviceClassName": names.DEVICE_CLASS, "capacity": capacity}}
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaim",
        "metadata": {"name": f"claim-{number:05}", "namespace": space},
        "spec": {"devices": {"requests": [request]}},
    }


if __name__ == "__main__":
    main()
