"""Messages as they are documented, and what log carriers and terminals do to them."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable
from typing import Final

HOOK: Final = (
    "Error: failed to create containerd task: failed to create shim task: OCI runtime create failed: runc "
    "create failed: "
    "unable to start container process: error during container init: error running prestart hook #0: exit status 2, "
    "stdout: , stderr: Auto-detected mode as 'legacy': unknown"
)
DOCUMENTED: Final = [
    ("container-os-hook", HOOK),
    ("modprobe", "modprobe: ERROR: could not insert 'cgpu_procfs': Operation not permitted"),
    ("modprobe", "modprobe: ERROR: could not insert 'km': Operation not permitted"),
    ("pod-limit", "Error occurs when creating cGPU instance: unknown"),
    ("nvml-init", "Failed to initialize NVML: GPU access blocked by operating system"),
]
"""Every text that the FAQ gives, with its entry."""

HUNG: Final = """\
[ 9124.101234] INFO: task python3:28113 blocked for more than 120 seconds.
[ 9124.101240]       Tainted: P           OE     5.10.134-16.3.al8.x86_64 #1
[ 9124.101243] "echo 0 > /proc/sys/kernel/hung_task_timeout_secs" disables this message.
[ 9124.101246] task:python3         state:D stack:    0 pid:28113 ppid: 28010 flags:0x00004004
[ 9124.101250] Call Trace:
[ 9124.101256]  __schedule+0x2c4/0x750
[ 9124.101262]  schedule_preempt_disabled+0xa/0x10
[ 9124.101266]  __mutex_lock.isra.0+0x1a1/0x4a0
[ 9124.101272]  km_inst_ioctl+0x1a3/0x2b0 [km]
[ 9124.101279]  __x64_sys_ioctl+0x84/0xc0
[ 9124.101283]  do_syscall_64+0x33/0x40
[ 9124.101290]  entry_SYSCALL_64_after_hwframe+0x44/0xa9
"""
OTHER_LINES: Final = [
    '{"level":"warn","ts":"2026-03-01T12:00:00Z","msg":"slow fdatasync","took":"1.2s"}',
    'time="2026-03-01T12:00:00Z" level=info msg="shim disconnected" id=0f3a',
    "    inet 10.0.0.3/24 brd 10.0.0.255 scope global eth0",
    "",
    "Back-off restarting failed container",
    "nvidia: module license 'NVIDIA' taints kernel.",
]

_STAMP: Final = "2026-03-01T12:00:00.123456789Z"


def _cri(message: str) -> str:
    """As the kubelet's log files have a line too long for one record."""
    half = len(message) // 2 + 1
    return f"{_STAMP} stderr P {message[:half]}\n{_STAMP} stderr F {message[half:]}"


def _docker(message: str) -> str:
    return json.dumps({"log": message + "\n", "stream": "stderr", "time": _STAMP})


def _docker_in_parts(message: str) -> str:
    third = len(message) // 3
    parts = [message[:third], message[third : 2 * third], message[2 * third :] + "\n"]
    return "\n".join(json.dumps({"log": part, "stream": "stderr", "time": _STAMP}) for part in parts)


def _wrapped(message: str, columns: int, indent: str = "", first: str = "") -> str:
    """As a terminal does it: in the middle of words."""
    text = first + message
    return ("\n" + indent).join(text[start : start + columns] for start in range(0, len(text), columns))


def _folded(message: str) -> str:
    """As ``kubectl get -o yaml`` does it: between words, in single quotes, those within doubled."""
    text = message.replace("'", "''")
    return textwrap.fill(f"    message: '{text}'", 80, subsequent_indent="      ", break_on_hyphens=False)


def _folded_escaped(message: str) -> str:
    """As YAML does it in double quotes: a backslash at the end, and one before a space that counts."""
    lines = textwrap.wrap(message, 72, break_on_hyphens=False)
    return '    message: "' + "\\\n      \\ ".join(lines) + '"'


def _coloured(message: str) -> str:
    return "".join(f"\x1b[1;3{n % 8}m{word}\x1b[0m " for n, word in enumerate(message.split(" "))).rstrip(" ")


def _stamped(message: str) -> str:
    """Folded, and each line with its own time stamp."""
    return "\n".join(f"{_STAMP} {line}" for line in textwrap.wrap(message, 44, break_on_hyphens=False))


NOISE: Final[dict[str, Callable[[str], str]]] = {
    "nothing": lambda message: message,
    "a time stamp": lambda message: f"{_STAMP} {message}",
    "journald": lambda message: f"Mar  1 12:00:00 node-1 kubelet[1234]: {message}",
    "rsyslog": lambda message: f"2026-03-01T12:00:00+08:00 node-1 containerd[77]: {message}",
    "klog": lambda message: f"E0301 12:00:00.123456    1234 pod_workers.go:190] {message}",
    "dmesg": lambda message: f"[ 9124.101234] {message}",
    "dmesg -T": lambda message: f"[Sun Mar  1 12:00:00 2026] {message}",
    "a printk caller": lambda message: f"[   56.831333][   C16] {message}",
    "kubectl logs --prefix": lambda message: f"[pod/train-0/cuda] {message}",
    "docker compose": lambda message: f"train-1  | {message}",
    "CRI": lambda message: f"{_STAMP} stdout F {message}",
    "CRI in two records": _cri,
    "Docker's JSON": _docker,
    "Docker's JSON in three records": _docker_in_parts,
    "structured JSON": lambda message: json.dumps({"level": "error", "ts": 1.5, "msg": message}),
    "JSON in JSON": lambda message: _docker(json.dumps({"level": "error", "msg": f'failed: "{message}"'})),
    "logfmt": lambda message: f'time="{_STAMP}" level=error msg={json.dumps("failed: " + json.dumps(message))}',
    "colours": _coloured,
    "colours in JSON": lambda message: json.dumps({"msg": _coloured(message)}),
    "colours as rsyslog writes them": lambda message: _coloured(message).replace("\x1b", "#033"),
    "carriage returns": lambda message: f"10%\r20%\r{message}\r",
    "a terminal of 80 columns": lambda message: _wrapped(message, 80),
    "a terminal of 40 columns": lambda message: _wrapped(message, 40),
    "a terminal of 37 columns and indentation": lambda message: _wrapped(message, 37, "   "),
    "kubectl describe": lambda message: _wrapped(message, 60, " " * 50, "  Warning  Failed  3s  kubelet  "),
    "YAML, folded": _folded,
    "YAML, folded with escapes": _folded_escaped,
    "a time stamp on each folded line": _stamped,
    "curly quotes": lambda message: message.replace("'", "\u2019").replace(" ", "\u00a0", 1),
    "capitals": lambda message: message.upper(),
    "blanks": lambda message: "\t  " + message.replace(" ", "  ") + "   ",
    "NULs": "\0".join,
}
"""What happens to a message on its way into a log."""
