"""Creates objects at the same time, each from a thread of its own.

Standard input has them as a JSON list; standard output tells for each "" or why it was refused. Standard error has a
line as soon as the first is there.
"""

from __future__ import annotations

import json
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from cgpu.adapters.kube_objects import CLAIMS, PODS, connect
from cgpu.errors import ClusterError

_KINDS = {"ResourceClaim": CLAIMS, "Pod": PODS}


def main() -> None:
    """All of them."""
    documents: list[dict[str, Any]] = json.load(sys.stdin)
    together = threading.Barrier(len(documents))
    firsts = iter(["the first is created\n"])

    def create(document: dict[str, Any]) -> str:
        together.wait()
        try:
            api.create(_KINDS[document["kind"]], document, document["metadata"]["namespace"])
        except ClusterError as error:
            return str(error)
        sys.stderr.write(next(firsts, ""))
        sys.stderr.flush()
        return ""

    with connect() as api, ThreadPoolExecutor(len(documents)) as pool:
        print(json.dumps(list(pool.map(create, documents))))


if __name__ == "__main__":
    main()
