"""A container sees its quota as the card and gets no more, whatever engine runs it."""

from __future__ import annotations

import pytest

from cgpu.model.units import GIB, MIB
from tests.e2e.engines import Engine, Runc
from tests.e2e.node import Node, told
from tests.e2e.wanted import Wanted

FILL = ("/client/quota", "fill")
OUT_OF_MEMORY = 2


def test_the_quota_is_what_the_driver_and_nvml_tell_and_what_a_program_gets(node: Node, engine: Engine):
    result = engine.run("quota", Wanted(FILL, {"CGPU_MEMORY": "2GiB"}))
    seen = told(result)
    assert seen["device_total"] == seen["total"] == seen["nvml_total"] == 2 * GIB
    assert GIB < seen["held"] < 2 * GIB
    assert seen["refusal"] == OUT_OF_MEMORY


def test_cgpus_variables_give_a_part_of_the_card(node: Node, engine: Engine):
    variables = {"ALIYUN_COM_GPU_MEM_CONTAINER": "3", "ALIYUN_COM_GPU_MEM_DEV": "14"}
    result = engine.run("aliyun", Wanted(FILL, variables))
    assert told(result)["total"] // MIB == 3231  # of a T4's 15079


def test_a_user_other_than_root_has_the_quota(node: Node, engine: Engine):
    result = engine.run("user", Wanted(FILL, {"CGPU_MEMORY": "1GiB"}, user=1000))
    assert told(result)["total"] == GIB


@pytest.mark.parametrize(
    ("name", "value"), [("CGPU_MEMORY", "lots"), ("ALIYUN_COM_GPU_MEM_CONTAINER", "x"), ("CGPU_COMPUTE", "101")]
)
def test_a_malformed_variable_is_named_and_nothing_starts(node: Node, engine: Engine, name: str, value: str):
    base = {} if "MEM" in name else {"CGPU_MEMORY": "1GiB"}
    result = engine.run("wrong", Wanted(("echo", "started"), {**base, name: value}))
    assert result.returncode != 0
    assert name in result.stderr
    assert "started" not in result.stdout
    engine.remove("wrong")


def test_the_helper_in_the_container_shows_the_slice(node: Node, engine: Engine):
    result = engine.run("smi", Wanted(("cgpu", "smi"), {"CGPU_MEMORY": "2GiB"}))
    assert result.returncode == 0, result.stderr
    assert "2048MiB" in result.stdout


def test_a_container_without_variables_is_not_touched(node: Node, engine: Engine):
    script = "ls -d /.cgpu /etc/ld.so.preload /usr/local/bin/cgpu; grep -c ' /[.]cgpu' /proc/self/mountinfo"
    result = engine.run("plain", Wanted(("sh", "-c", script), {"CGPU_DISABLE": "1", "CGPU_MEMORY": "1GiB"}))
    assert result.stdout.split() in (["0"], []), result.stdout + result.stderr
    bare = engine.run("bare", Wanted(("sh", "-c", "ls -d /.cgpu; echo ended")))
    assert bare.stdout == "ended\n", bare.stderr


def test_the_configuration_of_a_container_without_variables_stays_as_it_was(node: Node, runc: Runc):
    wanted = Wanted(("true",), {"PLAIN": "1"})
    written = (runc.bundle("same", wanted) / "config.json").read_bytes()
    assert runc.run("same", wanted).returncode == 0
    assert (node.host.folder / "bundles" / "same" / "config.json").read_bytes() == written
    assert not (node.host.folder / "bundles" / "same" / "cgpu").exists()
