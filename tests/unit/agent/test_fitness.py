"""Drivers and kernels outside of what is known: refused or named."""

from __future__ import annotations

import pytest

from cgpu.agent.fitness import check_node
from cgpu.errors import DriverError, RefusedError


@pytest.mark.parametrize("driver", ["450.51.06", "460.91.03", "550.163.01", "620.06"])
@pytest.mark.parametrize("kernel", ["5.3.0", "5.10.134-16.3.al8.x86_64", "6.18.44"])
def test_nothing_is_said_of_what_is_known(driver: str, kernel: str) -> None:
    assert check_node(driver, kernel, "") == ()


@pytest.mark.parametrize("driver", ["390.157", "418.226.00", "440.33.01"])
def test_a_driver_that_is_too_old_is_refused(driver: str) -> None:
    with pytest.raises(DriverError, match=rf"driver {driver}: this cgpu needs driver 450-620") as refused:
        check_node(driver, "6.18.44", "")
    assert refused.value.remedy == "install a newer driver"


@pytest.mark.parametrize(
    ("driver", "kernel", "said"),
    [
        ("999.1", "6.18.44", "driver 999.1 is not known to this cgpu: known are driver 450-620"),
        ("630.10.01", "6.18.44", "driver 630.10.01 is not known to this cgpu: known are driver 450-620"),
        ("", "6.18.44", "the driver says that its version is '', which is no version"),
        ("N/A", "6.18.44", "the driver says that its version is 'N/A', which is no version"),
        ("550", "6.18.44", "the driver says that its version is '550', which is no version"),
        ("550.163.01", "7.1.2-generic", "kernel 7.1.2-generic is not known to this cgpu: known are kernel 5.3-6"),
        ("550.163.01", "linux", "the kernel says that its version is 'linux', which is no version"),
        ("550.163.01", "4.18.0-553.el8", "kernel 4.18.0-553.el8: this cgpu needs kernel 5.3-6"),  # which has pidfds
    ],
)
def test_what_is_not_known_is_named(driver: str, kernel: str, said: str) -> None:
    assert check_node(driver, kernel, "") == (said,)


@pytest.mark.parametrize("kernel", ["4.14.336", "6.18.44"])
def test_without_pidfds_no_agent(kernel: str) -> None:
    with pytest.raises(RefusedError, match=rf"on kernel {kernel}: pidfd_open: Function not implemented"):
        check_node("550.163.01", kernel, "Function not implemented")
