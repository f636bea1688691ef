"""A program for tests: ask a noting driver for every function in every version, call it, print who was called.

    ask_abi.py LIBCUDA < questions

A question is: name, version, flags, and the mask of each parameter's width. An answer is the question's number,
what the call returned, and each noted call as name:arguments in hexadecimal, less the address of the first. What is
given for several questions is called once.
"""

from __future__ import annotations

import ctypes
import mmap
import sys

from tests.native.abi_driver import NOTED, STEP

MAP_32BIT = 0x40
SIZE = 1 << 20
ALIGNMENT = 1 << 16  # what a narrow parameter keeps of an address is then what was added to it


class Call(ctypes.Structure):
    """As the driver notes it."""

    _fields_ = (("name", ctypes.c_char_p), ("arguments", ctypes.c_uint64 * NOTED))


def low_memory() -> int:
    """The address of zeroed memory that 31 bits can name, so that it fits parameters of any width."""
    libc = ctypes.CDLL(None)
    libc.mmap.restype = ctypes.c_void_p
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_32BIT
    address = libc.mmap(
        None, ctypes.c_size_t(SIZE + ALIGNMENT), mmap.PROT_READ | mmap.PROT_WRITE, flags, -1, ctypes.c_long(0)
    )
    assert 0 < address < 1 << 31
    return -(-int(address) // ALIGNMENT) * ALIGNMENT


def told(call: Call, base: int, masks: list[str]) -> str:
    """A noted call as a word."""
    arguments = zip(call.arguments, masks, strict=False)
    return ":".join([call.name.decode(), *(f"{value - base & int(mask):x}" for value, mask in arguments)])


def main() -> None:
    """Answer each question by both forms of cuGetProcAddress."""
    driver = ctypes.CDLL(sys.argv[1])
    calls, made = (Call * 64).in_dll(driver, "calls"), ctypes.c_uint.in_dll(driver, "made")
    base = low_memory()
    prototype = ctypes.CFUNCTYPE(ctypes.c_int, *[ctypes.c_uint64] * NOTED)
    known: dict[int, str] = {}
    for number, line in enumerate(sys.stdin):
        name, version, flags, *masks = line.split()
        for form in ("cuGetProcAddress", "cuGetProcAddress_v2"):
            found = ctypes.c_void_p()
            more = () if form == "cuGetProcAddress" else (None,)
            driver[form](name.encode(), ctypes.byref(found), int(version), ctypes.c_uint64(int(flags)), *more)
            if found.value and found.value not in known:
                ctypes.memset(base, 0, SIZE)
                made.value = 0
                result = prototype(found.value)(*(base + STEP * i for i in range(NOTED)))
                noted = [told(calls[i], base, masks) for i in range(made.value)]
                known[found.value] = " ".join([str(result), *noted])
            print(number, form, known[found.value] if found.value else "none")


if __name__ == "__main__":
    main()
