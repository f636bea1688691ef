"""A process of a tenant that does what it is told, one line of JSON at a time; run by memory_tenant.py.

Orders are Python expressions or statements; they see `cu` (the driver's functions, looked up by the
route named in the argument), `out` (a new 64-bit variable) and whatever earlier orders have set.
The answer is the value of the expression.
"""

from __future__ import annotations

import ctypes
import json
import re
import sys
from typing import Any

CUDA_VERSION = 13000


class Driver:
    """The functions of libcuda.so.1, found as programs find them."""

    def __init__(self, route: str) -> None:
        self._library = ctypes.CDLL("libcuda.so.1", ctypes.RTLD_GLOBAL)
        self._find = {"dlsym": self._dlsym, "default": self._default, "proc": self._proc}[route]

    def __getattr__(self, name: str) -> Any:
        return self._find(name)

    def _dlsym(self, name: str) -> Any:
        return self._library[name]

    def _default(self, name: str) -> Any:
        return ctypes.CDLL(None)[name]

    def _proc(self, name: str) -> Any:
        """As libcudart does: by the plain name, and in the highest version."""
        flags, plain = 1, name
        for suffix in ("_ptsz", "_ptds"):
            if name.endswith(suffix):
                flags, plain = 2, name.removesuffix(suffix)
        plain = re.sub(r"_v\d$", "", plain)
        found, status = ctypes.c_void_p(), ctypes.c_int()
        result = self._library.cuGetProcAddress_v2(
            plain.encode(), ctypes.byref(found), CUDA_VERSION, ctypes.c_uint64(flags), ctypes.byref(status)
        )
        if result or not found.value:
            raise AttributeError(f"{name}: {result}, {status.value}")
        return ctypes.CFUNCTYPE(ctypes.c_int)(found.value)


def out() -> Any:
    """A 64-bit variable for the driver to fill."""
    return ctypes.c_uint64()


def main() -> None:
    """Answer orders until there are no more."""
    names: dict[str, Any] = {
        "cu": Driver(sys.argv[1]),
        "out": out,
        "ctypes": ctypes,
        "Q": ctypes.c_uint64,
        "R": ctypes.byref,
    }
    for line in sys.stdin:
        order = json.loads(line)
        try:
            code = compile(order, "order", "eval")
        except SyntaxError:
            exec(compile(order, "order", "exec"), names)
            answer = None
        else:
            answer = eval(code, names)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
