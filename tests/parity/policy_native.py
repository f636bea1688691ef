"""native/arbiter's policy core and turns through ctypes, by the same names as policy_model.py."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cgpu.adapters.arbiter import _Settings, _Share
from cgpu.adapters.native import ARBITER, native_library
from tests.parity.policy_model import PLACES, Settings, Share

NEVER = 2**64 - 1


class _PolicyTenant(ctypes.Structure):
    _fields_ = (
        ("virtual_time", ctypes.c_uint64),
        ("charged_ns", ctypes.c_uint64),
        ("turn", ctypes.c_uint64),
        ("budget", ctypes.c_int64),
        ("share", _Share),
        ("present", ctypes.c_bool),
        ("backlogged", ctypes.c_bool),
        ("throttled", ctypes.c_bool),
    )


class _Policy(ctypes.Structure):
    _fields_ = (
        ("settings", _Settings),
        ("clock", ctypes.c_uint64 * 2),
        ("turns", ctypes.c_uint64),
        ("priority_budget", ctypes.c_int64),
        ("priority_throttled", ctypes.c_bool),
        ("tenant", _PolicyTenant * PLACES),
    )


class _Sight(ctypes.Structure):
    _fields_ = (
        ("want", ctypes.c_bool),
        ("busy", ctypes.c_bool),
        ("elsewhere", ctypes.c_bool),
        ("long_ns", ctypes.c_uint64),
        ("worked_ns", ctypes.c_uint64),
    )


class _TurnsTenant(ctypes.Structure):
    _fields_ = (
        ("sight", _Sight),
        ("guest", ctypes.c_bool),
        ("measured", ctypes.c_bool),
        ("measuring", ctypes.c_bool),
        ("work_ppm", ctypes.c_uint32),
        ("opened_ns", ctypes.c_uint64),
        ("opened_worked_ns", ctypes.c_uint64),
        ("rescues", ctypes.c_uint16),
        ("stuck_ns", ctypes.c_uint64),
        ("waited_ns", ctypes.c_uint64),
        ("turns", ctypes.c_uint64),
        ("preempted", ctypes.c_uint64),
        ("preempting", ctypes.c_uint64),
    )


class _Turns(ctypes.Structure):
    _fields_ = (
        ("policy", _Policy),
        ("phase", ctypes.c_uint32),
        ("holder", ctypes.c_int32),
        ("ousted", ctypes.c_int32),
        ("now_ns", ctypes.c_uint64),
        ("start_ns", ctypes.c_uint64),
        ("end_ns", ctypes.c_uint64),
        ("budget_ns", ctypes.c_uint64),
        ("woken_ns", ctypes.c_uint64),
        ("closed_ns", ctypes.c_uint64),
        ("unseen", ctypes.c_uint32),
        ("rescue_ns", ctypes.c_uint64),
        ("overruns", ctypes.c_uint64),
        ("tenant", _TurnsTenant * PLACES),
    )


class _Grant(ctypes.Structure):
    _fields_ = (("state", ctypes.c_uint32), ("contenders", ctypes.c_uint32), ("deadline_ns", ctypes.c_uint64))


_POINTER, _INT, _TIME, _YES = ctypes.c_void_p, ctypes.c_int, ctypes.c_uint64, ctypes.c_bool
_POLICY_FUNCTIONS: Mapping[str, tuple[Any, tuple[Any, ...]]] = {
    "init": (None, (_POINTER,)),
    "set": (None, (_POINTER,)),
    "join": (_INT, (_POINTER,)),
    "share": (None, (_INT, _POINTER)),
    "leave": (None, (_INT,)),
    "wake": (None, (_INT,)),
    "sleep": (None, (_INT,)),
    "begin": (None, (_INT,)),
    "charge": (None, (_INT, _TIME)),
    "pass": (None, (_TIME,)),
    "eligible": (_YES, (_INT,)),
    "preempts": (_YES, (_INT, _INT)),
    "next": (_INT, ()),
    "next_after": (_INT, (_INT, _TIME)),
    "allowance": (_TIME, (_INT,)),
    "pause": (_TIME, ()),
    "share_ppm": (ctypes.c_uint32, (_INT,)),
}
_TURNS_FUNCTIONS: Mapping[str, tuple[Any, tuple[Any, ...]]] = {
    "init": (None, (_POINTER, _TIME)),
    "set": (None, (_POINTER,)),
    "join": (_INT, (_POINTER,)),
    "share": (None, (_INT, _POINTER)),
    "leave": (None, (_INT,)),
    "advance": (None, (_TIME,)),
    "skip": (None, (_TIME,)),
    "observe": (None, (_INT, _POINTER)),
    "decide": (_TIME, ()),
    "grant": (_Grant, (_INT,)),
    "expected": (_INT, (ctypes.POINTER(ctypes.c_uint64),)),
}


@functools.cache
def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(str(native_library(ARBITER)))
    library.cgpu_arbiter_policy_known.restype, library.cgpu_arbiter_policy_known.argtypes = _YES, (ctypes.c_uint32,)
    for part, functions in (("policy", _POLICY_FUNCTIONS), ("turns", _TURNS_FUNCTIONS)):
        for name, (result, arguments) in functions.items():
            function = library[f"cgpu_arbiter_{part}_{name}"]
            function.restype, function.argtypes = result, (_POINTER, *arguments)
            setattr(library, f"cgpu_arbiter_{part}_{name}", function)
    return library


def known(kind: int) -> bool:
    """Whether the arbiter divides time by that policy."""
    return bool(_library().cgpu_arbiter_policy_known(kind))


def _settings(settings: Settings) -> Any:
    return ctypes.byref(
        _Settings(settings.kind, settings.max_inst, settings.prio_ratio, int(settings.share_slots), settings.quantum_ns)
    )


def _share(share: Share) -> Any:
    return ctypes.byref(_Share(share.weight, share.compute_percent, share.compute_limit_percent, share.priority))


class _Native:
    """What both parts are told in the same words."""

    _part: str

    def __init__(self, state: ctypes.Structure) -> None:
        self._address = ctypes.addressof(state)

    def _call(self, name: str, *arguments: Any) -> Any:
        return getattr(_library(), f"cgpu_arbiter_{self._part}_{name}")(self._address, *arguments)

    def set(self, settings: Settings) -> None:
        self._call("set", _settings(settings))

    def join(self, share: Share) -> int:
        return int(self._call("join", _share(share)))

    def share(self, place: int, share: Share) -> None:
        self._call("share", place, _share(share))

    def leave(self, place: int) -> None:
        self._call("leave", place)


class NativePolicy(_Native):
    """policy.c; ``state`` is its struct."""

    _part = "policy"

    def __init__(self, settings: Settings, state: _Policy | None = None) -> None:
        self.state = _Policy() if state is None else state
        super().__init__(self.state)
        if state is None:
            self._call("init", _settings(settings))

    def wake(self, place: int) -> None:
        self._call("wake", place)

    def sleep(self, place: int) -> None:
        self._call("sleep", place)

    def begin(self, place: int) -> None:
        self._call("begin", place)

    def charge(self, place: int, time_ns: int) -> None:
        self._call("charge", place, time_ns)

    def pass_time(self, time_ns: int) -> None:
        self._call("pass", time_ns)

    def eligible(self, place: int) -> bool:
        return bool(self._call("eligible", place))

    def preempts(self, rival: int, holder: int) -> bool:
        return bool(self._call("preempts", rival, holder))

    def next(self) -> int:
        return int(self._call("next"))

    def next_after(self, holder: int, time_ns: int) -> int:
        return int(self._call("next_after", holder, time_ns))

    def allowance(self, place: int) -> int:
        return int(self._call("allowance", place))

    def pause(self) -> int:
        return int(self._call("pause"))

    def share_ppm(self, place: int) -> int:
        return int(self._call("share_ppm", place))


@dataclass(frozen=True)
class Grant:
    """A tenant's grant; state 0 closed, 1 open until the deadline, 2 free."""

    state: int
    contenders: int
    deadline_ns: int


class NativeTurns(_Native):
    """turns.c; ``state`` is its struct."""

    _part = "turns"

    def __init__(self, settings: Settings, now_ns: int = 0) -> None:
        self.state = _Turns()
        super().__init__(self.state)
        self._call("init", _settings(settings), now_ns)
        self.policy = NativePolicy(settings, self.state.policy)

    def advance(self, now_ns: int) -> None:
        self._call("advance", now_ns)

    def observe(self, place: int, want: bool, busy: bool, elsewhere: bool = False, long_ns: int = 0) -> None:
        self._call("observe", place, ctypes.byref(_Sight(want, busy, elsewhere, long_ns)))

    def expected(self) -> tuple[int, int] | None:
        """Who will have the card after the present turn, and when that ends; None: not known."""
        at_ns = ctypes.c_uint64()
        place = int(self._call("expected", ctypes.byref(at_ns)))
        return None if place < 0 else (place, at_ns.value)

    def decide(self) -> int:
        """When to call again. A holder whose turn was closed is observed as it was before."""
        moment_ns = int(self._call("decide"))
        while self.state.unseen:
            place = self.state.unseen.bit_length() - 1
            self._call("observe", place, ctypes.byref(self.state.tenant[place].sight))
            moment_ns = int(self._call("decide"))
        return moment_ns

    def grant(self, place: int) -> Grant:
        grant = self._call("grant", place)
        return Grant(grant.state, grant.contenders, grant.deadline_ns)
