"""Unmodified programs of other people as tenants: each sees its share as the whole card, and nobody else.

A neighbour holds memory and keeps the card busy meanwhile; it must notice nothing. What the card
really holds comes from the simulated machine's own books.
"""

from __future__ import annotations

import csv
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cgpu.agent.locks import agent_has_ended
from cgpu.model.units import GIB, MIB
from cgpu.sim.profiles import load_profile
from tests.integration.conftest import CGPU, Node, told
from tests.native import debian_nvidia

CLIENTS = Path(__file__).with_name("clients")
QUOTA_BYTES = 2 * GIB
OVER_BYTES = 3 * GIB  # more than the quota, far less than the card has free
WITHIN_BYTES = GIB
NEIGHBOUR_BYTES = GIB
CUDA_13 = "580.95.05"  # the driver branch of CUDA 13, for which the clients' packages are made
SECONDS = 60.0  # numba compiles for several seconds on a busy machine
NOBODY = 65534


def profile(folder: Path, driver: str, name: str = "t4") -> Path:
    """The T4 with another driver version."""
    text = load_profile("t4").path.read_text()
    file = folder / f"{name}.toml"
    file.write_text(re.sub(r'(?m)^driver_version = ".*"$', f'driver_version = "{driver}"', text))
    return file


@dataclass
class Shared:
    """A card that a neighbour uses, too."""

    node: Node
    neighbour: subprocess.Popen[str]

    def tenant(self, *command: str | Path) -> Any:
        """Run a client as a tenant beside the neighbour to its end, and read the JSON that it prints."""
        process = self.node.start("run", "--memory", f"{QUOTA_BYTES}B", "--", sys.executable, *map(str, command))
        output, errors = process.communicate(timeout=SECONDS)
        assert process.returncode == 0, errors
        return json.loads(output)

    def beside_a_cuda_process(self, *command: str | Path) -> Any:
        """Run a program in a tenant one of whose processes uses the card; that one's pid is ``pid``."""
        told = self.tenant(CLIENTS / "beside.py", str(WITHIN_BYTES), *command)
        assert told["code"] == 0, told["output"] + told["errors"]
        return told

    def neighbour_is_unharmed(self) -> None:
        """It holds what it held, goes on working, and ends well."""
        (row,) = [row for row in self.node.machine.status().cards[0].processes if row.pid == self.neighbour.pid]
        assert row.memory_bytes >= NEIGHBOUR_BYTES
        assert self.neighbour.stdin
        assert self.neighbour.stdout
        self.neighbour.stdin.close()
        lines = [json.loads(line) for line in self.neighbour.stdout]
        assert lines[-1]["event"] == "done"
        assert lines[-1]["done_ns"] > row.busy_ns
        assert self.neighbour.wait(SECONDS) == 0


@pytest.fixture
def share(make_node: Callable[..., Node], tmp_path: Path) -> Iterator[Callable[[str], Shared]]:
    """Makes a card of a driver version with a neighbour on it, who must be unharmed in the end."""
    made: list[Shared] = []

    def make(driver: str = CUDA_13) -> Shared:
        node = make_node(str(profile(tmp_path, driver)))
        neighbour = node.start_client("spin", "--hold", str(NEIGHBOUR_BYTES), memory="4GiB")
        assert told(neighbour)["event"] == "ready"
        made.append(Shared(node, neighbour))
        return made[-1]

    yield make
    for shared in made:
        shared.neighbour_is_unharmed()


@pytest.mark.parametrize(
    ("client", "error"),
    [
        ("cuda_bindings", ("cuda.bindings.driver", "CUresult", "CUDA_ERROR_OUT_OF_MEMORY")),
        ("cuda_core", ("cuda.core._utils.cuda_utils", "CUDAError", "CUDA_ERROR_OUT_OF_MEMORY")),
        ("numba", ("numba.cuda.cudadrv.driver", "CudaAPIError", "CUDA_ERROR_OUT_OF_MEMORY")),
    ],
)
def test_a_cuda_client_gets_its_own_out_of_memory_error(
    share: Callable[..., Shared], client: str, error: tuple[str, str, str]
):
    result = share().tenant(CLIENTS / f"{client}_client.py", str(OVER_BYTES), str(WITHIN_BYTES))
    assert set(result["total_bytes"]) == {QUOTA_BYTES}
    module, kind, text = result["error"]
    assert (module, kind) == error[:2]
    assert error[2] in text
    assert result["allocated_bytes"] == WITHIN_BYTES


def test_cuda_core_sees_its_own_processes_only(share: Callable[..., Shared]):
    result = share().tenant(CLIENTS / "cuda_core_client.py", str(OVER_BYTES), str(WITHIN_BYTES))
    assert result["pids"] == [result["pid"]]


def test_numba_compiles_its_kernel_and_carries_data(share: Callable[..., Shared]):
    result = share().tenant(CLIENTS / "numba_client.py", str(OVER_BYTES), str(WITHIN_BYTES))
    assert ".entry" in result["code"]
    assert "add_one" in result["code"]
    assert result["copied"]


@pytest.mark.parametrize("client", ["nvml", "nvitop"])
def test_an_nvml_client_sees_the_quota_and_its_own_processes_only(share: Callable[..., Shared], client: str):
    told = share().beside_a_cuda_process(sys.executable, CLIENTS / f"{client}_client.py")
    seen = json.loads(told["output"])
    assert set(seen["total_bytes"]) == {QUOTA_BYTES}
    assert seen["pids"] == [told["pid"]]
    for used, free in zip(seen["used_bytes"], seen["free_bytes"], strict=True):
        assert WITHIN_BYTES < used < QUOTA_BYTES
        assert used + free == QUOTA_BYTES
    assert seen["process_bytes"] == seen["used_bytes"][:1]


def test_nvitops_report_shows_the_quota_and_its_own_processes_only(share: Callable[..., Shared]):
    shared = share()
    told = shared.beside_a_cuda_process(sys.executable, "-m", "nvitop", "--once", "--ascii")
    assert re.search(rf"[\d.]+MiB / {QUOTA_BYTES // MIB}MiB", told["output"])
    assert re.findall(r"^\|\s+0\s+(\d+) C\s", told["output"], re.MULTILINE) == [str(told["pid"])]


@dataclass
class NvidiaSmi:
    """One version of nvidia-smi in a tenant on a machine whose driver has the same version."""

    program: Path
    version: str
    shared: Shared

    def __call__(self, *arguments: str) -> tuple[str, int]:
        """What it prints, and the pid of the tenant's process that uses the card."""
        told = self.shared.beside_a_cuda_process(self.program, *arguments)
        assert told["errors"] == ""
        return told["output"], told["pid"]

    def table(self, query: str) -> tuple[list[list[str]], int]:
        """Rows of a --query option, without header."""
        text, pid = self(query, "--format=csv,noheader,nounits")
        return list(csv.reader(text.splitlines(), skipinitialspace=True)), pid


@pytest.fixture(params=debian_nvidia.SUITES)
def smi(request: pytest.FixtureRequest, share: Callable[..., Shared]) -> NvidiaSmi:
    root = debian_nvidia.fetch(request.param)
    if root is None:
        pytest.skip(f"nvidia-smi of Debian {request.param} is not to be had here (archive changed, or no network)")
    version = debian_nvidia.version(root)
    return NvidiaSmi(debian_nvidia.nvidia_smi(root), version, share(version))


def test_nvidia_smi_lists_the_tenants_processes_where_it_asks_the_public_functions(smi: NvidiaSmi):
    """Those of 2026 do not: they read a private table of the driver, which the shim leaves alone."""
    rows, pid = smi.table("--query-compute-apps=pid,used_memory")
    asks_in_public = b"nvmlDeviceGetComputeRunningProcesses" in smi.program.read_bytes()
    others = [] if asks_in_public else [smi.shared.neighbour.pid]
    assert sorted(int(row[0]) for row in rows) == sorted([pid, *others])
    assert WITHIN_BYTES // MIB < max(int(row[1]) for row in rows) < QUOTA_BYTES // MIB


def test_nvidia_smi_shows_the_quota_as_the_card(smi: NvidiaSmi):
    ((total, used, free),), _ = smi.table("--query-gpu=memory.total,memory.used,memory.free")
    assert int(total) == QUOTA_BYTES // MIB
    assert WITHIN_BYTES // MIB < int(used) < QUOTA_BYTES // MIB
    assert abs(int(used) + int(free) - int(total)) <= 1  # each is rounded by itself


def test_nvidia_smis_views_show_the_quota_as_the_card(smi: NvidiaSmi):
    total = QUOTA_BYTES // MIB
    assert re.search(rf"\d+MiB /\s+{total}MiB", smi()[0])
    memory = re.search(r"FB Memory Usage\n\s+Total\s+: (\d+) MiB", smi("-q")[0])
    assert memory
    assert int(memory[1]) == total


def test_nvidia_smi_names_the_card(smi: NvidiaSmi):
    uuid = smi.shared.node.machine.status().cards[0].uuid
    assert smi("-L")[0] == f"GPU 0: Tesla T4 (UUID: {uuid})\n"


@dataclass
class OrdinaryUser:
    """A user who is not root, with folders of its own: this one, or nobody when this one is root."""

    prefix: tuple[str, ...]
    environment: dict[str, str]
    profile: Path

    def cgpu(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """Run cgpu to its end."""
        command = (*self.prefix, *CGPU, *map(str, arguments))
        return subprocess.run(command, env=self.environment, text=True, capture_output=True, timeout=SECONDS)


def readable_by_all(path: Path) -> bool:
    """Whether nobody, too, can reach the file."""
    return all(folder.stat().st_mode & 1 for folder in path.resolve().parents)


@pytest.fixture
def ordinary_user(node: Node) -> Iterator[OrdinaryUser]:
    prefix: list[str] = []
    folder = Path(tempfile.mkdtemp(prefix="cgpu-test-"))
    name = f"test-{secrets.token_hex(4)}"  # this user may have a machine called t4 of its own
    toml = profile(folder, CUDA_13, name)
    if os.geteuid() == 0:
        prefix = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
        if not readable_by_all(Path(sys.executable)):  # an interpreter in root's home: to read it is all that is lent
            prefix += ["--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search"]
        os.chown(folder, NOBODY, NOBODY)
    own = {"HOME": str(folder), "XDG_RUNTIME_DIR": str(folder), "TMPDIR": str(folder)}
    inherited = {name: value for name, value in node.environment.items() if not name.startswith("CGPU_")}
    user = OrdinaryUser(tuple(prefix), {**inherited, **own}, toml)
    yield user
    assert all(agent_has_ended(lock, SECONDS) for lock in folder.rglob("agent.lock"))
    assert user.cgpu("sim", "remove", name).returncode == 0
    shutil.rmtree(folder)


def test_an_ordinary_user_runs_a_tenant_on_a_machine_of_its_own(ordinary_user: OrdinaryUser):
    client = (sys.executable, CLIENTS / "cuda_bindings_client.py", str(OVER_BYTES), str(WITHIN_BYTES))
    who = "import os; print(os.geteuid())"
    run = ("run", "--sim", ordinary_user.profile, "--memory", "2GiB", "--")
    result = ordinary_user.cgpu(*run, *client)
    assert result.returncode == 0, result.stderr
    told = json.loads(result.stdout)
    assert set(told["total_bytes"]) == {QUOTA_BYTES}
    assert told["error"][2] == "CUDA_ERROR_OUT_OF_MEMORY"
    assert told["allocated_bytes"] == WITHIN_BYTES
    assert int(ordinary_user.cgpu(*run, sys.executable, "-c", who).stdout) == (os.geteuid() or NOBODY)
