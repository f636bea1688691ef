"""A CUDA process of a tenant that runs another program beside itself, and tells what that printed.

python beside.py BYTES COMMAND...    holds BYTES of device memory meanwhile
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

from cgpu.sim.demo_client import Cuda


def main() -> None:
    cuda = Cuda()
    assert cuda.allocate(int(sys.argv[1])) == 0
    done = subprocess.run(sys.argv[2:], capture_output=True, text=True)
    print(json.dumps({"pid": os.getpid(), "code": done.returncode, "output": done.stdout, "errors": done.stderr}))


if __name__ == "__main__":
    main()
