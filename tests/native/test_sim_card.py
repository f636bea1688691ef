"""The simulated machine as Python sees it: profiles, creation, status, faults, limits, refusals."""

from __future__ import annotations

import concurrent.futures
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from cgpu.errors import StateError, UsageError
from cgpu.sim.control import Fault
from cgpu.sim.machine import SimMachine
from cgpu.sim.profiles import load_profile, profile_names
from tests.native.sim_machine import Machine, build_holder

MIB = 1 << 20
GRANULE_BYTES = 2 * MIB


@pytest.fixture(scope="module")
def holder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_holder(tmp_path_factory.mktemp("holder"))


@pytest.fixture
def machine(native: Path, tmp_path: Path) -> SimMachine:
    del native  # says what is missing when it is not built
    return SimMachine.create(tmp_path / "machine", "t4", cards=2)


@pytest.fixture
def clients(holder: Path, machine: SimMachine, native: Path) -> Machine:
    """What runs the holder on the machine."""
    return Machine(native / "sim", holder, machine.folder, load_profile("t4").path)


@pytest.mark.parametrize("name", profile_names())
def test_both_readers_of_a_profile_agree(name: str, tmp_path: Path) -> None:
    profile = load_profile(name)
    values = tomllib.loads(profile.path.read_text())
    status = SimMachine.create(tmp_path / name, name).status()
    (card,) = status.cards
    assert status.driver_version == values["driver_version"] == profile.driver_version
    assert (
        (card.name, card.total_bytes) == (values["name"], values["total_bytes"]) == (profile.card, profile.total_bytes)
    )
    assert card.reserved_bytes == values["reserved_bytes"]
    assert card.used_bytes == 0
    assert card.free_bytes == (card.total_bytes - card.reserved_bytes) // GRANULE_BYTES * GRANULE_BYTES


@pytest.mark.parametrize(
    ("driver", "cuda"),
    [("460.32.03", 11020), ("535.309.01", 12020), ("550.163.01", 12040), ("615.71.09", 13040), ("620.06", 13050)],
)
def test_the_driver_version_decides_the_cuda_version(driver: str, cuda: int, tmp_path: Path) -> None:
    status = SimMachine.create(tmp_path / "machine", driver=driver, cards=3).status()
    assert (status.driver_version, status.cuda_version, len(status.cards)) == (driver, cuda, 3)


@pytest.mark.parametrize(
    ("driver", "cards"), [("459.9", None), ("630.1", None), ("550", None), ("new", None), (None, 17)]
)
def test_a_machine_that_cannot_be_is_refused(driver: str | None, cards: int | None, tmp_path: Path) -> None:
    with pytest.raises(StateError, match="is wanted"):
        SimMachine.create(tmp_path / "machine", driver=driver, cards=cards)


def replace(key: str, line: str) -> Callable[[str], str]:
    """Put another line in the place of a key's."""
    return lambda text: "\n".join(line if row.startswith(f"{key} =") else row for row in text.splitlines()) + "\n"


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (lambda text: text + "colour = 3\n", r"bad.toml:28: unknown key"),
        (lambda text: text + "sm_count = 3\n", r"bad.toml:28: the key is repeated"),
        (lambda text: text + "words\n", r"bad.toml:28: `key = value` is wanted"),
        (replace("sm_count", "sm_count = 0"), r"bad.toml:9: the number is bad or out of range"),
        (replace("sm_count", "sm_count = 4_"), r"bad.toml:9: the number"),
        (replace("sm_count", "sm_count = 0x20"), r"bad.toml:9: the number"),
        (replace("sm_count", 'sm_count = "40"'), r"bad.toml:9: the number"),
        (replace("sm_count", "sm_count = 99999999999999999999999"), r"bad.toml:9: the number"),
        (replace("name", "name = Tesla"), r"bad.toml:3: a string in quotes is wanted"),
        (replace("name", f'name = "{"x" * 200}"'), r"bad.toml:3: a string in quotes is wanted"),
        (replace("sm_count", ""), r"bad.toml: the key sm_count is missing"),
        (replace("reserved_bytes", "reserved_bytes = 15_811_477_504"), r"bad.toml: reserved_bytes leaves nothing"),
    ],
)
def test_a_bad_profile_is_refused_with_file_and_line(change: Callable[[str], str], cause: str, tmp_path: Path) -> None:
    bad = tmp_path / "bad.toml"
    bad.write_text(change(load_profile("t4").path.read_text()))
    with pytest.raises((StateError, UsageError)) as problem:
        SimMachine.create(tmp_path / "machine", str(bad))
    if isinstance(problem.value, StateError):  # what is not even TOML is refused before
        problem.match(cause)
    assert not (tmp_path / "machine" / "state").exists()


def test_an_unknown_profile_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"a100-80.*t4"):
        SimMachine.create(tmp_path / "machine", "gtx")


def test_creators_at_the_same_time_make_one_machine(tmp_path: Path) -> None:
    script = f"""
import sys
from pathlib import Path
from cgpu.sim.machine import SimMachine
print(SimMachine.create(Path({str(tmp_path / "machine")!r})).status().cards[0].uuid)
"""
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        uuids = set(pool.map(lambda _: subprocess.check_output([sys.executable, "-c", script], text=True), range(4)))
    assert len(uuids) == 1


def test_every_card_of_every_machine_has_a_uuid_of_its_own(tmp_path: Path) -> None:
    machines = [SimMachine.create(tmp_path / name, cards=16) for name in "ab"]
    uuids = [card.uuid for machine in machines for card in machine.status().cards]
    assert len(set(uuids)) == 32
    assert [card.uuid for card in SimMachine.open(tmp_path / "a").status().cards] == uuids[:16]


def test_the_environment_puts_the_libraries_before_others(machine: SimMachine, native: Path) -> None:
    environment = machine.environment({"LD_LIBRARY_PATH": f"/opt/lib:{native}/sim"})
    assert environment == {"CGPU_SIM_STATE": str(machine.folder), "LD_LIBRARY_PATH": f"{native}/sim:/opt/lib"}


def test_status_tells_what_processes_hold_and_held(clients: Machine, machine: SimMachine) -> None:
    with clients.hold(300 * MIB, card=1, environment={"CGPU_SIM_CGROUP": "/tenants/red"}) as red:
        red.order("kernel 20")
        idle, card = machine.status().cards
        (process,) = card.processes
        assert (process.pid, process.own_pid, process.comm) == (red.pid, red.pid, "sim_holder")
        assert process.memory_bytes == card.used_bytes == 300 * MIB + 106 * MIB  # 105 MiB of context, rounded up
        assert process.busy_ns == card.busy_ns == 20_000_000
        assert (process.kernels, process.live_contexts, process.cgroup) == (1, 1, "/tenants/red")
        assert idle.processes == idle.finished == ()
    card = machine.status().cards[1]
    assert (card.used_bytes, card.processes) == (0, ())
    assert [(row.own_pid, row.busy_ns, row.memory_bytes) for row in card.finished] == [(red.pid, 20_000_000, 0)]
    (cgroup,) = card.cgroups
    assert (cgroup.cgroup, cgroup.busy_ns, cgroup.live_processes) == ("/tenants/red", 20_000_000, 0)


def test_a_first_process_makes_the_machine_that_its_environment_describes(
    holder: Path, native: Path, tmp_path: Path
) -> None:
    first = Machine(native / "sim", holder, tmp_path / "deep" / "machine", load_profile("a10").path)
    with first.hold(environment={"CGPU_SIM_CARDS": "3", "CGPU_SIM_DRIVER": "470.256.02"}):
        status = SimMachine.open(first.state).status()
    assert (status.driver_version, status.cuda_version) == ("470.256.02", 11040)
    assert [card.name for card in status.cards] == ["NVIDIA A10"] * 3


@pytest.mark.parametrize(
    ("environment", "cause"),
    [
        ({"CGPU_SIM_STATE": ""}, "CGPU_SIM_STATE is not set"),
        ({"CGPU_SIM_CARDS": "many"}, "CGPU_SIM_CARDS=many: a number from 1 to 16 is wanted"),
        ({"CGPU_SIM_PROFILE": "/nowhere"}, "/nowhere: No such file or directory"),
    ],
)
def test_a_wrong_environment_is_named_on_stderr(
    environment: dict[str, str], cause: str, holder: Path, native: Path, tmp_path: Path
) -> None:
    machine = Machine(native / "sim", holder, tmp_path / "machine", load_profile("t4").path)
    refused = machine.run(holder, "0", "0", **environment)
    assert refused.stderr.startswith(f"cgpu simulated GPU: {cause}")
    assert "sg_join: error -5" in refused.stderr


def test_a_process_of_another_pid_namespace_is_shown_by_the_pid_it_has_here(
    clients: Machine, machine: SimMachine
) -> None:
    apart = ["unshare", "--user", "--map-root-user", "--pid", "--fork"]
    if subprocess.run([*apart, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("this machine lets nobody make a PID namespace")
    process = subprocess.Popen(
        [*apart, clients.holder, "0", "0"], env=clients.environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with process:
        assert process.stdin
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        (row,) = machine.status().cards[0].processes
        assert row.own_pid == 1
        parent = Path(f"/proc/{row.pid}/stat").read_text().rpartition(")")[2].split()[1]
        assert int(parent) == process.pid
        process.stdin.close()


def test_looking_at_a_machine_leaves_no_trace(machine: SimMachine) -> None:
    for _ in range(3):
        status = machine.status()
    assert not any(card.processes or card.finished or card.cgroups for card in status.cards)
    assert status.recoveries == 0


def test_a_cgroup_limit_refuses_what_goes_beyond(clients: Machine, machine: SimMachine) -> None:
    machine.set_memory_limit(0, "/sys/fs/cgroup/tenants/red", 200 * MIB, 100 * MIB)
    red = {"CGPU_SIM_CGROUP": "/tenants/red/job"}
    with clients.hold(90 * MIB, environment=red):
        rows = {row.cgroup: row for row in machine.status().cards[0].cgroups}
        assert (rows["/tenants/red"].hard_bytes, rows["/tenants/red"].soft_bytes) == (200 * MIB, 100 * MIB)
        assert rows["/tenants/red/job"].memory_bytes == 196 * MIB
        refused = subprocess.run(
            [clients.holder, "0", "1"], env=clients.environment(**red), capture_output=True, text=True
        )
        assert "sg_context_create: error -1" in refused.stderr
    with clients.hold(90 * MIB), clients.hold(200 * MIB, environment={"CGPU_SIM_CGROUP": "/tenants/redder"}):
        pass


def test_faults_come_and_go(clients: Machine, machine: SimMachine) -> None:
    def refusal() -> str:
        return subprocess.run(
            [clients.holder, "0", "1"],
            env=clients.environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        ).stderr  # fmt: skip

    machine.fault(0, Fault.OOM, 1)
    assert "error -1" in refusal()
    assert refusal() == ""
    machine.fault(0, Fault.LOST, 1)
    assert "error -2" in refusal()
    card = machine.status().cards[0]
    assert (card.lost, card.xid_count, card.last_xid) == (True, 1, 79)
    machine.fault(0, Fault.LOST, 0)
    machine.fault(0, Fault.XID, 31)
    card = machine.status().cards[0]
    assert (card.lost, card.xid_count, card.last_xid) == (False, 2, 31)


@pytest.mark.parametrize(
    ("card", "fault", "value"), [(2, Fault.OOM, 1), (-1, Fault.OOM, 1), (0, Fault.XID, 0), (0, 9, 1)]
)
def test_a_fault_that_cannot_be_is_refused(machine: SimMachine, card: int, fault: Fault, value: int) -> None:
    with pytest.raises(StateError, match="no such card"):
        machine.fault(card, fault, value)
    with pytest.raises(UsageError, match="not negative"):
        machine.fault(0, Fault.OOM, -1)


@pytest.mark.parametrize(
    ("damage", "cause"),
    [
        (lambda data: b"", "cannot be mapped"),
        (lambda data: data[:79], "is not the state"),
        (lambda data: b"x" + data[1:], "is not the state"),
        (lambda data: data[:8] + b"\x63" + data[9:], "another version"),
        (lambda data: data[: len(data) // 2], "is truncated"),
        (lambda data: data[:24] + b"y" + data[25:], "before the last boot"),
    ],
)
def test_a_damaged_state_is_refused(machine: SimMachine, damage: Callable[[bytes], bytes], cause: str) -> None:
    state = machine.folder / "state"
    size = state.stat().st_size
    with state.open("rb") as file:
        header = file.read(4096)
    damaged = damage(header + bytes(1) * 4096)
    kept = size if len(damaged) == 8192 else size // 2 if len(damaged) == 4096 else len(damaged)
    state.write_bytes(damaged)
    os.truncate(state, kept)
    with pytest.raises(StateError, match=cause):
        machine.status()


def test_a_folder_without_a_machine_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="holds no simulated machine"):
        SimMachine.open(tmp_path)
    with pytest.raises(StateError, match="holds no machine"):
        SimMachine(tmp_path).status()
    with pytest.raises(StateError, match="No such file"):
        SimMachine(tmp_path / "nowhere").status()


def test_a_removed_machine_is_gone(machine: SimMachine) -> None:
    machine.remove()
    assert not machine.folder.exists()
    with pytest.raises(StateError):
        machine.status()
