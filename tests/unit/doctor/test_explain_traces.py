"""A report of the kernel whose trace names cGPU's modules is recognised; names elsewhere are no evidence."""

from __future__ import annotations

import json
from functools import cache

import pytest

from cgpu.compat.dataset import shipped
from cgpu.doctor.explain import Confidence, recognise
from cgpu.doctor.failures import Catalogue, catalogue
from cgpu.doctor.kernel_report import REACH_LINES
from tests.unit.doctor.messages import HUNG

SOFT_LOCKUP = """\
[ 812.366465] watchdog: BUG: soft lockup - CPU#3 stuck for 23s! [python3:4711]
[ 812.366465] Modules linked in: km(POE) cgpu_procfs(POE) nvidia(POE) overlay
[ 812.366470] CPU: 3 PID: 4711 Comm: python3 Tainted: P           OEL    5.10.134 #1
[ 812.366475] RIP: 0010:native_queued_spin_lock_slowpath+0x1d6/0x220
[ 812.366480] Call Trace:
[ 812.366481]  <IRQ>
[ 812.366482]  _raw_spin_lock+0x1e/0x30
[ 812.366484]  ? cgpu_sched_tick+0x44/0x90 [cgpu_km]
[ 812.366486]  ioctl+0x10/0x20
"""
HARD_LOCKUP = """\
<0>[ 99.1] NMI watchdog: Watchdog detected hard LOCKUP on cpu 7
<4>[ 99.1] RIP: 0010:inst_lock+0x14/0x50 [km]
"""
STALL = """\
Mar  1 12:00:00 node-1 kernel: rcu: INFO: rcu_sched self-detected stall on CPU
Mar  1 12:00:00 node-1 kernel: rcu:     4-....: (5249 ticks this GP) idle=51e4/1/0x4000000000000000
Mar  1 12:00:00 node-1 kernel: Call Trace:
Mar  1 12:00:00 node-1 kernel:  <TASK>
Mar  1 12:00:00 node-1 kernel:  cgpu_procfs_write+0x58/0x220 [cgpu_procfs]
"""
OLD_STALL = """\
INFO: rcu_sched detected stalls on CPUs/tasks: { 4} (detected by 2, t=60002 jiffies, g=1, c=0, q=0)
 [<ffffffffc0a1b2c3>] km_wait+0x58/0x220 [km]
"""
PANIC = """\
Kernel panic - not syncing: softlockup: hung tasks
CPU: 1 PID: 77 Comm: python3 Tainted: P           OEL 4.19.91-26.al7.x86_64 #1
Call Trace:
 dump_stack+0x66/0x8b
 panic+0xfe/0x2b7
 km_inst_destroy+0x2f/0x70 [km]
---[ end Kernel panic - not syncing: softlockup: hung tasks ]---
"""
OOPS_THEN_PANIC = """\
BUG: unable to handle page fault for address: ffffc90000abcdef
#PF: supervisor write access in kernel mode
Oops: 0002 [#1] SMP NOPTI
RIP: 0010:km_inst_free+0x14/0x50 [km]
Call Trace:
 do_exit+0x10/0x20
---[ end trace 7f3d2a ]---
Kernel panic - not syncing: Fatal exception
"""
BUILD_ID = """\
INFO: task python3:77 blocked for more than 120 seconds.
 km_x+0x1/0x2 [km 8d7c5f0a1b2c3d4e5f60718293a4b5c6d7e8f901]
"""
WORKQUEUE = "BUG: soft lockup - CPU#0 stuck for 61s! [kworker/0:1:5593]\nWorkqueue: events km_reap [km]\n"
CRASH = """\
       PANIC: "Kernel panic - not syncing: softlockup: hung tasks"
 #8 [ffffb0c7c0e3fd50] _raw_spin_lock at ffffffff91a0c1ae
 #9 [ffffb0c7c0e3fd58] km_open at ffffffffc07d1a55 [km]
"""
REPORTS = {
    "hung": HUNG,
    "soft lockup": SOFT_LOCKUP,
    "hard lockup": HARD_LOCKUP,
    "stall": STALL,
    "old stall": OLD_STALL,
    "panic": PANIC,
    "oops then panic": OOPS_THEN_PANIC,
    "build id": BUILD_ID,
    "workqueue": WORKQUEUE,
    "crash": CRASH,
}


@cache
def known() -> Catalogue:
    return catalogue(shipped())


def found(text: str) -> list[tuple[str, Confidence, int, int]]:
    return [(finding.id, finding.confidence, finding.line, finding.count) for finding in recognise(text, known())]


def once(line: int) -> list[tuple[str, Confidence, int, int]]:
    return [("kernel-panic", Confidence.POSSIBLE, line, 1)]


@pytest.mark.parametrize("report", REPORTS)
def test_a_report_whose_trace_names_cgpu_is_possible(report: str):
    assert found(REPORTS[report]) == once(1)
    assert found(f"before\n\n{REPORTS[report]}after\n") == once(3)


@pytest.mark.parametrize("report", REPORTS)
def test_carriers_do_not_hide_it(report: str):
    lines = REPORTS[report].splitlines()
    docker = "\n".join(json.dumps({"log": f"{line}\n", "stream": "stdout", "time": "x"}) for line in lines)
    journal = "\n".join(json.dumps({"MESSAGE": line, "PRIORITY": "3"}) for line in lines)
    red = [line.replace("+0x", "\x1b[31m+0x") for line in lines]
    colours = "\n".join(f"\x1b[32m{line}\x1b[0m" for line in red)
    terminal = "\n".join(line[start : start + 50] for line in lines for start in range(0, len(line), 50))
    cri = "\r\n".join(f"2026-03-01T12:00:00.1Z stdout F {line}" for line in lines)
    for text in (docker, journal, colours, terminal, cri, REPORTS[report].upper().replace("0X", "0x")):
        assert found(text) == once(1)


def test_the_evidence_is_the_head_line_and_the_frame():
    (finding,) = recognise(HUNG, known())
    assert finding.text == (
        "INFO: task python3:28113 blocked for more than 120 seconds.\nkm_inst_ioctl+0x1a3/0x2b0 [km]"
    )


def test_each_report_counts():
    assert found(PANIC + HUNG + SOFT_LOCKUP + HUNG) == [("kernel-panic", Confidence.POSSIBLE, 1, 4)]


def test_a_panic_that_a_hung_task_ends_in_is_the_same_report():
    assert found(HUNG + "Kernel panic - not syncing: hung_task: blocked tasks\n") == once(1)


@pytest.mark.parametrize("report", REPORTS)
def test_modules_of_others_are_no_evidence(report: str):
    for other in ("kmod", "km_other", "xkm", "nvidia", "kvm", "cgpu"):
        text = REPORTS[report].replace("[km]", f"[{other}]").replace("[km ", f"[{other} ")
        text = text.replace("[cgpu_km]", f"[{other}]").replace("[cgpu_procfs]", f"[{other}]")
        assert found(text) == []


NOT_THE_SAME = {
    "loaded modules are in every report": "".join(
        line for line in SOFT_LOCKUP.splitlines(keepends=True) if "[cgpu_km]" not in line
    ),
    "the task's name is none of the kernel": "INFO: task km:77 blocked for more than 120 seconds.\n schedule+0x1/0x2\n",
    "a module's own message is no frame": "INFO: task a:77 blocked for more than 120 seconds.\n[km] instance 3 waits\n",
    "a trace without a head line": "Call Trace:\n km_inst_ioctl+0x1a3/0x2b0 [km]\n",
    "a warning is no panic": "---[ cut here ]---\nWARNING: CPU: 1 PID: 2 at km.c:3 km_x+0x1/0x2 [km]\n"
    " km_y+0x1/0x2 [km]\n---[ end trace 12 ]---\n",
    "a report that another one has ended": HUNG.replace("[km]", "")
    + "WARNING: CPU: 1 PID: 2 at x.c:3 km_x+0x1/0x2\n km_y+0x1/0x2 [km]\n",
    "a report before the boot": HUNG.replace("[km]", "") + "Linux version 5.10.134 (gcc)\n km_y+0x1/0x2 [km]\n",
    "an oops without a panic": OOPS_THEN_PANIC.rsplit("Kernel", 1)[0],
    "a panic of something else after a warning": "WARNING: CPU: 1 PID: 2 at x.c:3\n km_y+0x1/0x2 [km]\n"
    "---[ end trace 12 ]---\nKernel panic - not syncing: VFS: Unable to mount root fs\n",
    "too far apart": "INFO: task a:77 blocked for more than 120 seconds.\n"
    + "x\n" * (REACH_LINES + 1)
    + " km+0x1 [km]\n",
}


@pytest.mark.parametrize("case", NOT_THE_SAME)
def test_what_is_no_such_report(case: str):
    assert found(NOT_THE_SAME[case]) == []


def test_a_long_trace_is_still_one_report():
    frames = "".join(f"[ 1.{n:06}]  some_function_{n}+0x1a3/0x2b0 [nvidia]\n" for n in range(REACH_LINES - 10))
    assert found(
        f"[ 1.0] INFO: task a:77 blocked for more than 120 seconds.\n{frames}[ 2.0]  x+0x1/0x2 [km]\n"
    ) == once(1)
