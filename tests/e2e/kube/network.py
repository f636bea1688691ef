"""The wires between the hosts of a cluster: a bridge on the first, and a cable from every other to it."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from typing import Final

from tests.e2e.host import Host

PREFIX: Final = 24
_BRIDGE: Final = "br-nodes"


def node_address(number: int) -> str:
    """The address of the node with this number, from 0."""
    return f"10.77.0.{number + 1}"


def pod_network(number: int) -> str:
    """The network of the pods of the node with this number."""
    return f"10.88.{number}.0/24"


def connect(hosts: Sequence[Host]) -> None:
    """Give every host its address, and a way to the pods of the others."""
    first = hosts[0]
    first.run("ip", "link", "add", _BRIDGE, "type", "bridge", check=True)
    first.run("ip", "address", "add", f"{node_address(0)}/{PREFIX}", "dev", _BRIDGE, check=True)
    first.run("ip", "link", "set", _BRIDGE, "up", check=True)
    _cable(first, "spare0", first, "spare1")  # a bridge whose cables all end is down, and with it the route
    # The kubelet chooses its address by the default route.
    first.run("ip", "route", "add", "default", "dev", _BRIDGE, check=True)
    for number, host in enumerate(hosts[1:], start=1):
        _cable(first, f"node{number}", host, "eth0")
        host.run("ip", "address", "add", f"{node_address(number)}/{PREFIX}", "dev", "eth0", check=True)
        host.run("ip", "route", "add", "default", "via", node_address(0), check=True)
    for host in hosts:
        host.run("sysctl", "-q", "-w", "net.ipv4.ip_forward=1", check=True)
        for number, other in enumerate(hosts):
            if other is not host:
                host.run("ip", "route", "add", pod_network(number), "via", node_address(number), check=True)


def _cable(first: Host, port: str, host: Host, end: str) -> None:
    """Made from outside: each end is put into the namespace of a process."""
    ends = [port, "netns", str(first.first), "type", "veth", "peer", end, "netns", str(host.first)]
    subprocess.run(["ip", "link", "add", *ends], check=True)
    first.run("ip", "link", "set", port, "master", _BRIDGE, "up", check=True)
    host.run("ip", "link", "set", end, "up", check=True)
