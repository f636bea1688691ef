"""Every cell of the source's tables, on both sides of each bound. The tables stand here as the source prints them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise

import pytest

from cgpu.compat.alibaba import check
from cgpu.compat.dataset import shipped
from cgpu.compat.verdict import Verdict
from cgpu.compat.versions import parse_version

S, U, X, C = Verdict.SUPPORTED, Verdict.UNSUPPORTED, Verdict.UNKNOWN, Verdict.CONFLICT

# version range of cGPU: what is supported, what is not
DRIVERS = {
    "1.5.3 - 1.5.20": ("460, 470, 510, 515, 525, 535, 550, 560, 565, 570, 575", ""),
    "1.0.5 - 1.5.2": (
        "460; 470 <= 470.161.03; 510 <= 510.108.03; 515 <= 515.86.01; 525 <= 525.89.03",
        "535, 550, 560, 565, 570, 575",
    ),
    "0.8.13 - 1.0.3": ("460; 470 <= 470.161.03", "510, 515, 525, 535, 550, 560, 565, 570, 575"),
}
SIXTH = "gn6i/gn6e/gn6v/gn6t/ebmgn6i/ebmgn6t/ebmgn6e"
SEVENTH = "gn7i/gn7/gn7e/ebmgn7i/ebmgn7e"
EIGHTH_T, EIGHTH_IS, EIGHTH_IA = "gn8t/ebmgn8t", "gn8is/gn8v/ebmgn8is/ebmgn8v", "gn8ia/ebmgn8ia"
FAMILIES = (SIXTH, SEVENTH, EIGHTH_T, EIGHTH_IS, EIGHTH_IA, "ebmgn9t")
INSTANCES = {  # how many of FAMILIES are supported
    "1.5.19 - 1.5.20": 6,
    "1.5.9 - 1.5.18": 5,
    "1.5.7 - 1.5.8": 4,
    "1.5.5 - 1.5.6": 3,
    "1.0.3 - 1.5.3": 2,
    "0.8.13 - 0.8.17": 1,
}
KERNELS = {  # the last supported 5.x; none
    "1.5.9 - 1.5.20": 15,
    "1.5.3 - 1.5.8": 10,
    "1.0.3 - 1.5.2": 1,
    "0.8.17 - 0.8.17": 0,
    "0.8.10 - 0.8.13": None,
}


def ends(span: str) -> list[str]:
    return span.split(" - ")


def verdict(table: str, cgpu: str, value: str) -> Verdict:
    (found,) = [one for one in check(shipped(), {"cgpu": cgpu, table: value}) if one.name == table]
    assert found.rule
    assert found.source
    assert found.value == value
    return found.verdict


def driver_cells() -> Iterator[tuple[str, str, Verdict]]:
    for span, (supported, unsupported) in DRIVERS.items():
        for cgpu in ends(span):
            for entry in re.split(r"[;,] ", supported):
                series, _, limit = entry.partition(" <= ")
                if not limit:
                    yield cgpu, f"{series}.10.01", S
                    yield cgpu, f"{series}.999.99", S
                    continue
                patch = int(limit.split(".")[2])
                minor = int(limit.split(".")[1])
                yield cgpu, limit, S
                yield cgpu, f"{series}.{minor}.{patch - 1:02}", S
                yield cgpu, f"{series}.{minor - 1}.99", S
                yield cgpu, f"{series}.{minor}.{patch + 1:02}", U
                yield cgpu, f"{series}.{minor + 1}.00", U
            for series in filter(None, unsupported.split(", ")):
                yield cgpu, f"{series}.10.01", U


@pytest.mark.parametrize(("cgpu", "driver", "expected"), list(driver_cells()))
def test_each_driver_of_the_table(cgpu: str, driver: str, expected: Verdict):
    assert verdict("driver", cgpu, driver) is expected


@pytest.mark.parametrize("series", ["440", "450", "465", "495", "520", "530", "545", "555", "580", "590"])
def test_a_driver_series_that_no_row_names_is_unknown(series: str):
    assert verdict("driver", "1.5.10", f"{series}.10.01") is X


@pytest.mark.parametrize(("span", "count"), list(INSTANCES.items()))
def test_each_instance_family_of_the_table(span: str, count: int):
    for cgpu in ends(span):
        for index, group in enumerate(FAMILIES):
            for family in group.split("/"):
                expected = S if index < count else U
                assert verdict("instance", cgpu, family) is expected, (cgpu, family)
                assert verdict("instance", cgpu, f"ecs.{family}-c8g1.2xlarge") is expected


@pytest.mark.parametrize("family", ["gn5", "gn5i", "gn7s", "gn8", "ebmgn9", "ebmgn9te", "sgn7i", "vgn6i", "gn9t"])
def test_a_family_that_no_row_names_is_unknown(family: str):
    assert verdict("instance", "1.5.20", family) is X


@pytest.mark.parametrize(
    ("cgpu", "toolkit", "expected"),
    [
        ("1.5.20", "1.10.0", S), ("1.5.20", "1.0.0", S), ("1.5.20", "1.11.0", S), ("1.5.20", "1.17.8-1", S),
        ("1.5.20", "1.18.0", X), ("1.5.20", "2.0.0", X), ("1.0.11", "1.17.0", S), ("1.0.11", "1.18.0", X),
        ("1.0.9", "1.10.9", S), ("1.0.9", "1.11.0", U), ("1.0.9", "1.17.0", U), ("1.0.9", "1.18.0", U),
        ("0.8.13", "1.10.0", S), ("0.8.13", "1.11.0", U),
        # The table supports what the known issue says is broken.
        ("1.0.10", "1.10.0", S), ("1.0.10", "1.11.0", C), ("1.0.10", "1.17.9", C), ("1.0.10", "1.18.0", U),
        # No row, but the issue has no lower bound.
        ("0.8.12", "1.13.0", U), ("0.8.12", "1.10.0", X), ("1.5.21", "1.13.0", X),
    ],
)  # fmt: skip
def test_each_toolkit_of_the_table(cgpu: str, toolkit: str, expected: Verdict):
    assert verdict("toolkit", cgpu, toolkit) is expected


def kernel_cells() -> Iterator[tuple[str, str, Verdict]]:
    for span, last in KERNELS.items():
        for cgpu in ends(span):
            yield from ((cgpu, kernel, S) for kernel in ("3.10.0-1160.el7", "4.19.91-26.al7.x86_64"))
            if last is None:
                yield from ((cgpu, kernel, U) for kernel in ("5.0.1", "5.10.134"))
                continue
            yield cgpu, f"5.{last}.999", S
            yield cgpu, f"5.{last}", S
            yield cgpu, f"5.{last + 1}.0", U
            yield from ((cgpu, kernel, X) for kernel in ("2.6.32", "6.1.0", "6.6.30-5.al3"))


@pytest.mark.parametrize(("cgpu", "kernel", "expected"), list(kernel_cells()))
def test_each_kernel_of_the_table(cgpu: str, kernel: str, expected: Verdict):
    assert verdict("kernel", cgpu, kernel) is expected


@pytest.mark.parametrize(
    ("table", "value", "gaps"),
    [
        ("driver", "460.91.03", ["1.0.4", "0.8.12", "0.8.10", "1.5.21", "1.6.0", "2.0.0"]),
        ("instance", "gn6i", ["1.5.4", "0.8.18", "1.0.2", "0.8.12", "1.5.21"]),
        ("toolkit", "1.10.0", ["0.8.12", "1.5.21"]),
        ("kernel", "4.19.91", ["0.8.14", "0.8.15", "0.8.16", "0.8.18", "1.0.0", "1.0.2", "0.8.9", "1.5.21"]),
    ],
)
def test_a_version_that_no_row_names_is_unknown(table: str, value: str, gaps: list[str]):
    assert [verdict(table, cgpu, value) for cgpu in gaps] == [X] * len(gaps)


@pytest.mark.parametrize("table", ["driver", "instance", "toolkit", "kernel"])
def test_no_two_rows_of_a_table_overlap(table: str):
    rows = sorted(shipped().rows[table], key=lambda row: row.low)
    assert all(below.high < above.low for below, above in pairwise(rows))


def test_the_data_is_of_the_sources_date_and_names_the_labels():
    data = shipped()
    assert data.date.isoformat() == "2026-03-31"
    assert set(data.isolation_labels) == {"ack.node.gpu.schedule=cgpu", "ack.node.gpu.schedule=core_mem", "cgpu=true"}
    assert data.max_tenants_per_gpu == 20
    assert max(data.versions) == parse_version("cgpu", "1.5.20")
