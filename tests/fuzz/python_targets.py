"""What is fuzzed of the Python side: everything that reads what somebody else has written.

Each target says by its own errors what it does not take. Any other exception is a finding, and so is an answer that
does not hold: a value that is read again as another one, a log in which pieces find what the whole does not.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Final

from cgpu.adapters.checkpoint import CheckpointStore
from cgpu.adapters.host.unit import parse_environment
from cgpu.agent.adoption import checkpointed
from cgpu.agent.documents import encode
from cgpu.compat.dataset import shipped
from cgpu.doctor.explain import Recogniser, recognise
from cgpu.doctor.facts_file import as_json, parse_facts
from cgpu.doctor.failures import Catalogue, catalogue
from cgpu.errors import AmountError, BundleError, CgpuError, FactError, RegionError, StateError, UsageError
from cgpu.k8s.quantity import parse_quantity, quantity_value
from cgpu.model.region_files import GRANTS, USAGE
from cgpu.model.tenant import Policy, Share, Tenant
from cgpu.model.units import GIB, format_memory, parse_memory, parse_percent, parse_weight
from cgpu.oci.bundle import Bundle
from cgpu.oci.conf import Conf
from cgpu.oci.environment import request_of
from cgpu.region.reader import RegionReader
from cgpu.region.writer import Owner, Row, create_region
from cgpu.sim.profiles import load_profile
from cgpu.testing.fakes import gpu
from tests.fuzz.python_fuzzer import Target

_EXABYTE: Final = 10**18


@cache
def scratch() -> Path:
    """A folder for the files of the targets; it goes with the process."""
    folder = Path(tempfile.mkdtemp(prefix="cgpu-fuzz-"))
    owner = os.getpid()

    def remove() -> None:
        if os.getpid() == owner:
            shutil.rmtree(folder, ignore_errors=True)

    import atexit

    atexit.register(remove)
    return folder


def _written(name: str, data: bytes) -> Path:
    path = scratch() / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    return path


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


# ---- amounts ----


def units(data: bytes) -> None:
    text = _text(data)
    with contextlib.suppress(AmountError):
        amount = parse_memory(text)
        assert amount > 0
        assert parse_memory(format_memory(amount)) == amount or amount > 10**20
    with contextlib.suppress(AmountError):
        assert 1 <= parse_percent(text) <= 100
    with contextlib.suppress(AmountError):
        assert 1 <= parse_weight(text) <= 1000
    with contextlib.suppress(AmountError):
        assert parse_quantity(text) == quantity_value(text) >= 0


# ---- the region: the input is the patches that native/fuzz/fuzz_region.c takes ----


@cache
def _pristine() -> dict[str, bytes]:
    folder, share = scratch() / "pristine", Share(gpu().uuid, GIB)
    create_region(folder, Tenant("t1", "training", (share,)), (Row(gpu(), share, Policy.NATIVE, 0),), Owner())
    return {name: (folder / name).read_bytes() for name in (GRANTS, USAGE)}


def _patched(data: bytes) -> dict[str, bytes]:
    files = {name: bytearray(content) for name, content in _pristine().items()}
    at = 0
    while at < len(data):
        word, length = int.from_bytes(data[at : at + 4], "little"), int.from_bytes(data[at + 4 : at + 5]) % 129
        patch = data[at + 5 : at + 5 + length]
        at += 5 + length
        content = files[USAGE if word >> 31 else GRANTS]
        offset = (word & 0x3FFFFFFF) % max(len(content), 1)
        if word >> 30 & 1:
            del content[offset:]
        else:
            content[offset : offset + len(patch)] = patch[: max(len(content) - offset, 0)]
    return {name: bytes(content) for name, content in files.items()}


def region(data: bytes) -> None:
    folder = scratch() / "region"
    for name, content in _patched(data).items():
        _written(f"region/{name}", content)
    (folder / "locks").touch()
    try:
        reader = RegionReader(folder)
    except RegionError:
        return
    try:
        grants = reader.grants()
        usage = reader.usage(len(grants.gpus))
        assert all(slot.index < 1023 and all(row.charge_bytes >= 0 for row in slot.gpus) for slot in usage.slots)
        assert all(row.used_bytes >= 0 for row in usage.gpus)
    except RegionError:
        pass
    finally:
        reader.close()


# ---- logs ----


@cache
def _known() -> Catalogue:
    return catalogue(shipped())


def log(data: bytes) -> None:
    whole = recognise(data, _known())
    recogniser, cut = Recogniser(_known()), len(data) // 3
    for piece in (data[:cut], data[cut : 2 * cut], data[2 * cut :]):
        recogniser.feed(piece)
    recogniser.finish()
    assert recogniser.findings == whole
    assert all(finding.text.replace("\n", "").isprintable() for finding in whole)


# ---- files ----


def facts(data: bytes) -> None:
    with contextlib.suppress(FactError):
        found = parse_facts(_text(data), "facts.yaml")
        assert as_json(parse_facts(json.dumps(as_json(found)), "facts.yaml")) == as_json(found)


def profile(data: bytes) -> None:
    with contextlib.suppress(UsageError):
        load_profile(str(_written("profile.toml", data)))


def checkpoint(data: bytes) -> None:
    path = _written("checkpoint/state.json", data)
    store = CheckpointStore(path)
    try:
        document = checkpointed(store)
    except StateError:
        assert not path.exists(), "what cannot be read is set aside"
        for aside in path.parent.iterdir():
            assert aside.read_bytes() == data
            aside.unlink()
        return
    assert document is not None
    store.save(encode(document))
    assert checkpointed(store) == document


def conf(data: bytes) -> None:
    with contextlib.suppress(BundleError):
        Conf.read(_written("cgpu-runtime.conf", data))
    with contextlib.suppress(UnicodeDecodeError):
        parse_environment(data.decode())


def bundle(data: bytes) -> None:
    """A container's config.json, up to what it asks for."""
    folder = _written("bundle/config.json", data).parent
    with contextlib.suppress(CgpuError):
        opened = Bundle(folder)
        opened.check_no_device()
        request_of(opened.environment, opened.annotations)


def _target(run: Callable[[bytes], None], *words: str) -> Target:
    return Target(run.__name__, run, [word.encode() for word in words])


TARGETS: Final = (
    _target(units, "GiB", "MiB", "KB", "Ki", "E", "e9", "%", ".", "+", "-", "0" * 30, "9" * 20),
    _target(region, "\x01\x00\x00\x00", "\x7f" * 8),
    _target(
        log, "NVRM: Xid (PCI:0000:00:06): ", "79, ", "kernel panic", "BUG: soft lockup",
        "INFO: task x:1 blocked for more than", "cgpu_km", "\n",
        "CUDA_ERROR_OUT_OF_MEMORY", "[CGPU-SHIM-OPEN]", "\x1b[31m", "\\n", "+0x1a3/0x2b0 [cgpu_km]",
        "---[ end trace", "Oops: 0002 [#1]", "rcu_sched self-detected stall on CPU",
    ),
    _target(
        facts, "driver: ", "labels", "{", "}", "[", "]", ": ", "\n- ", "&a ", "*a", "!!int ", "---\n", "<<: ",
        "'", "null", "facts", "value", "how", "1e999", "pods_per_gpu", "? ", "|\n", "\\ud800",
    ),
    _target(profile, "name = ", "total_bytes = ", "cards = ", "1_000", '"""', "[", "inf", "nan", "driver_version = "),
    _target(
        checkpoint, '"tenants": ', '"policies": ', '"contexts": ', '"limits": ', '"leaves": ', '"version": 1', "{}",
        "[]", "null", "Infinity", "1e400", '"members": ', '"root": ', "[", '{"a":',
    ),
    _target(conf, "runtime = /", "python = /", "socket = /", "tenants = /", "sim_state = /", "\n", "#", "="),
    _target(
        bundle, '"process": ', '"env": ', '"annotations": ', '"mounts": ', '"CGPU_MEMORY=6GiB"', '"CGPU_COMPUTE=30"',
        '"ALIYUN_COM_GPU_MEM_CONTAINER=3"', '"ALIYUN_COM_GPU_MEM_DEV=15"', '"destination": ', '"cgpu.dev/memory": ',
        "null", '"NVIDIA_VISIBLE_DEVICES=all"', '"hooks": ', "[", '{"a":', '"user": ', '"uid": ', "Infinity",
    ),
)  # fmt: skip
