"""Whether packets take the overlay's routes, on a table of machines made of real links, routes, rules and settings."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from ipaddress import IPv4Network

import pytest

from overlay.lab.namespace import call_inside
from overlay.linux.netlink import Netlink
from overlay.node import ways
from overlay.problem import Problem
from tests.support.machines import bridge, link, machine, tun
from tests.support.problems import shown

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

NETWORK, SUBNET = IPv4Network("10.0.0.0/16"), IPv4Network("10.0.58.0/24")
ETH0 = link("eth0", "172.31.0.1/24", extra="route add default via 172.31.0.100")
OURS = tun("flannel0", "10.0.58.0/32") + "route add 10.0.0.0/16 dev flannel0 scope link proto 241\n"
NODE = ETH0 + OURS + bridge("docker0", "10.0.58.1/24")
HOST_GW = (
    ETH0
    + "route add 10.0.39.0/24 via 172.31.0.2 proto 241 metric 7\n"
    + "route add 10.0.40.0/24 via 172.31.0.3 proto 241 metric 7\n"
    + bridge("docker0", "10.0.58.1/24")
)
AWAY = "route add default via 172.31.0.100 table 100\n"
FORWARD = ("net.ipv4.ip_forward=1",)


@dataclass(frozen=True)
class Row:
    """A machine, and the one thing that is said of it; nothing where that is empty."""

    machine: str
    says: str = ""
    settings: tuple[str, ...] = ()
    interface: str = "flannel0"


TABLE = {
    "nothing in the way": Row(NODE),
    "no containers yet": Row(ETH0 + OURS),
    "no device": Row(ETH0 + bridge("docker0", "10.0.58.1/24")),
    "all by another table": Row(
        NODE + AWAY + "rule add pref 100 lookup 100", "to 10.0.255.254 leave by eth0 instead of flannel0"
    ),
    "another table behind the main one": Row(NODE + AWAY + "rule add pref 40000 lookup 100"),
    "containers by a table of their own": Row(
        NODE + AWAY + "rule add pref 100 from 10.0.58.0/24 lookup 100",
        "packets of docker0's containers to 10.0.255.254 leave by eth0 instead of flannel0",
    ),
    "what comes in by the bridge": Row(
        NODE + AWAY + "rule add pref 100 iif docker0 lookup 100", "of docker0's containers to 10.0.255.254 leave by"
    ),
    "what comes out of the tunnel": Row(
        NODE + AWAY + "rule add pref 100 iif flannel0 lookup 100",
        "packets of other nodes to docker0's containers leave by eth0 instead of docker0",
    ),
    "others by a table of their own": Row(NODE + AWAY + "rule add pref 100 from 172.31.0.0/24 lookup 100"),
    "marked packets alone": Row(NODE + AWAY + "rule add pref 100 fwmark 0x5 lookup 100"),
    "a VPN as wg-quick makes it": Row(
        NODE
        + "route add default via 172.31.0.100 table 51820\n"
        + "rule add pref 200 not fwmark 0xca6c lookup 51820\n"
        + "rule add pref 100 lookup main suppress_prefixlength 0"
    ),
    "the remedy": Row(
        NODE + AWAY + "rule add pref 100 lookup 100\nrule add pref 1 to 10.0.0.0/16 lookup main"
    ),
    "a black hole": Row(NODE + "rule add pref 100 to 10.0.0.0/16 blackhole", "are dropped (Invalid argument)"),
    "unreachable": Row(NODE + "rule add pref 100 to 10.0.0.0/16 unreachable", "are dropped (Network is unreachable)"),
    "prohibited": Row(NODE + "rule add pref 100 to 10.0.0.0/16 prohibit", "are dropped (Permission denied)"),
    "a black hole in another table": Row(
        NODE + "route add blackhole 10.0.0.0/16 table 100\nrule add pref 100 lookup 100", "this node's packets to"
    ),
    "the bridge's own setting": Row(
        NODE, "net.ipv4.conf.docker0.forwarding: IP forwarding is off", ("net.ipv4.conf.docker0.forwarding=0",)
    ),
    "the tunnel's own setting is said elsewhere": Row(
        NODE, settings=("net.ipv4.conf.flannel0.forwarding=0",)
    ),
    "no forwarding at all is said elsewhere": Row(NODE, settings=("net.ipv4.ip_forward=0",)),
    "a strict filter that all pass": Row(NODE, settings=("net.ipv4.conf.flannel0.rp_filter=1",)),
    "several bridges": Row(
        ETH0 + OURS + bridge("br-a", "10.0.58.1/25") + bridge("br-b", "10.0.58.129/25"),
        "net.ipv4.conf.br-b.forwarding: IP forwarding is off",
        ("net.ipv4.conf.br-b.forwarding=0",),
    ),
    "a bridge of others": Row(NODE + bridge("br-x", "192.168.9.1/24"), settings=("net.ipv4.conf.br-x.forwarding=0",)),
    "a bridge that is down": Row(NODE + "link set docker0 down", "docker0 has 10.0.58.0/24 of this node and is down"),
    "a bridge of two addresses": Row(ETH0 + OURS + bridge("docker0", "10.0.58.1/31")),
    "an operator's route inside the Network": Row(
        NODE + bridge("br-x", "10.0.255.1/24") + "route add 10.0.0.0/30 dev br-x"
    ),
    "an operator's black hole for a part of the Network": Row(NODE + "route add unreachable 10.0.128.0/17\n"),
    "black holes for all of the Network": Row(
        NODE + "route add unreachable 10.0.0.0/17\nroute add unreachable 10.0.128.0/17\n", "No route to host"
    ),
    "host-gw": Row(HOST_GW, interface="eth0"),
    "host-gw, by another table": Row(
        HOST_GW + link("eth1", "172.30.0.1/24") + "route add default via 172.30.0.9 table 100\n"
        "rule add pref 100 from 10.0.58.0/24 lookup 100",
        "packets of docker0's containers to 10.0.39.254 leave by eth1 instead of eth0",
        interface="eth0",
    ),
}  # fmt: skip


@pytest.mark.parametrize("row", TABLE.values(), ids=TABLE)
def test_what_keeps_packets_from_our_routes_is_said(row: Row) -> None:
    def found() -> list[Problem]:
        with Netlink() as netlink:
            return list(ways.look(netlink, NETWORK, SUBNET, row.interface))

    with machine(row.machine) as name:
        for setting in (*FORWARD, *row.settings):
            subprocess.run(["nsenter", f"--net=/run/netns/{name}", "sysctl", "-qw", setting], check=True)
        problems = call_inside(name, found)
    assert len(problems) == bool(row.says), problems
    for problem in problems:
        assert row.says in problem.text
    if "is down" in row.says:
        assert shown(problems, "bridge-down")
    elif "net.ipv4" in row.says:
        assert shown(problems, "forwarding")
    elif row.says:
        assert shown(problems, "diverted")
