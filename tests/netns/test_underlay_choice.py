"""Which interface becomes the underlay, on a table of machines made of real links, addresses, routes and rules.

machine: one network namespace for each row, no link but lo and what the row makes
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

import pytest

from overlay.errors import InterfaceError
from overlay.lab import namespace
from overlay.lab.namespace import call_inside
from overlay.linux.netlink import Netlink
from overlay.node.interfaces import NOTHING_OURS, Ours, Selection, Underlay, choose, fault
from tests.support.machines import batch, bridge, link, machine, tun

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

OURS = Ours(
    frozenset({"flannel0", "flannel0-grx"}), IPv4Network("10.0.0.0/16"), frozenset({IPv4Network("10.0.58.0/24")})
)


ETH0 = link("eth0", "172.31.0.1/24", extra="route add default via 172.31.0.100")
ETH1 = link("eth1", "10.1.0.9/24", mtu=9000)
DOCKER0 = bridge("docker0", "10.0.58.1/24")
FOREIGN_DOCKER0 = bridge("docker0", "172.17.0.1/16")
FLANNEL0 = tun("flannel0", "10.0.58.0/32")
LO = "addr add 10.255.0.1/32 dev lo\n"
BY_DEFAULT = Selection()
ON_ETH0, ON_ETH1 = "eth0 172.31.0.1 1500", "eth1 10.1.0.9 9000"


@dataclass(frozen=True)
class Row:
    """A machine, what was asked for, and the right choice: "interface address MTU", or a part of the complaint."""

    machine: str
    right: str
    selection: Selection = BY_DEFAULT
    ours: Ours = OURS
    before: str | None = None


def iface(*names: str, public_ip: str = "") -> Selection:
    return Selection(names=names, public_ip=IPv4Address(public_ip) if public_ip else None)


def regex(*patterns: str) -> Selection:
    return Selection(patterns=patterns)


def reach(address: str) -> Selection:
    return Selection(can_reach=IPv4Address(address))


def public(address: str) -> Selection:
    return Selection(public_ip=IPv4Address(address))


TABLE = {
    # --- by the default route ---
    "default": Row(ETH0, ON_ETH0),
    "default, docker0 beside it": Row(ETH0 + DOCKER0, ON_ETH0),
    "no default": Row(ETH1, "there is no default route .* name one with --iface; here are: .*eth1 \\(10.1.0.9\\)"),
    "no default, two links": Row(link("eth0", "172.31.0.1/24") + ETH1, "there is no default route"),
    "the lower metric": Row(ETH1 + "route add default via 10.1.0.1 metric 50\n" + link("eth0", "172.31.0.1/24")
                            + "route add default via 172.31.0.100 metric 100\n", ON_ETH1),
    "default without a gateway": Row(link("eth0", "172.31.0.1/24", extra="route add default dev eth0"), ON_ETH0),
    "default with a source": Row(link("eth0", "172.31.0.1/24", "172.31.0.77/24",
                                      extra="route add default via 172.31.0.100 src 172.31.0.77"),
                                 "eth0 172.31.0.77 1500"),
    "source by the gateway's subnet": Row(link("eth0", "192.168.7.7/24", "172.31.0.1/24",
                                               extra="route add default via 172.31.0.100"), ON_ETH0),
    "link-local address first": Row(link("eth0", "169.254.7.7/16", "172.31.0.1/24",
                                         extra="route add default via 172.31.0.100"), ON_ETH0),
    "default in another table by a rule": Row(link("eth0", "172.31.0.1/24")
                                              + "route add default via 172.31.0.100 table 100\n"
                                              "rule add pref 100 lookup 100\n", ON_ETH0),
    "a rule sends everything elsewhere": Row(ETH0 + ETH1 + "route add default via 10.1.0.1 table 100\n"
                                             "rule add pref 100 lookup 100\n", ON_ETH1),
    "a rule for another's packets": Row(ETH0 + ETH1 + "route add default via 10.1.0.1 table 100\n"
                                        "rule add pref 100 from 10.9.9.9 lookup 100\n", ON_ETH0),
    "both halves taken by a VPN": Row(ETH0 + tun("tun0", "10.8.0.2/24") + "route add 0.0.0.0/1 dev tun0\n"
                                      "route add 128.0.0.0/1 dev tun0\n", ON_ETH0),
    "bogons blackholed": Row(ETH0 + "route add blackhole 192.0.2.0/24\nroute add unreachable 198.51.100.0/24\n"
                             "route add 203.0.113.0/24 via 172.31.0.99\n", ON_ETH0),
    "unreachable default at the end": Row(ETH0 + "route add unreachable default metric 4278198272\n", ON_ETH0),
    "only an unreachable default": Row(link("eth0", "172.31.0.1/24") + "route add unreachable default\n",
                                       "there is no default route"),
    "source on lo": Row(LO + link("eth0", "172.31.0.1/24", extra="route add default via 172.31.0.100 src 10.255.0.1"),
                        "eth0 10.255.0.1 1500"),
    "two equal ways": Row(link("eth0", "172.31.0.1/24") + ETH1
                          + "route add default nexthop via 172.31.0.100 nexthop via 10.1.0.1\n",
                          "(eth0 172.31.0.1 1500|eth1 10.1.0.9 9000)"),
    # --- never the overlay itself ---
    "DHCP's default on flannel0": Row(ETH0 + FLANNEL0 + "route del default\nroute add default dev flannel0\n"
                                      "route add default via 172.31.0.100 metric 100\n", ON_ETH0),
    "only flannel0 has a default": Row(link("eth0", "172.31.0.1/24") + FLANNEL0 + "route add default dev flannel0\n",
                                       "the default route leads into the overlay itself; .* flannel0 "
                                       "\\(10.0.58.0, the overlay's own\\)"),
    "a default on docker0": Row(ETH0 + DOCKER0 + "route replace default via 10.0.58.9\n"
                                "route append default via 172.31.0.100 metric 100\n", ON_ETH0),
    "default's source is the overlay's": Row(DOCKER0 + link("eth0", "172.31.0.1/24",
                                             extra="route add default via 172.31.0.100 src 10.0.58.1"), ON_ETH0),
    "flannel0 by name": Row(ETH0 + FLANNEL0, "no interface with an IPv4 address fits", iface("flannel0")),
    "docker0 by name, with our subnet": Row(ETH0 + DOCKER0, "no interface .* fits", iface("docker0")),
    "docker0 by our address": Row(ETH0 + DOCKER0, "no interface .* fits", iface("10.0.58.1")),
    "our subnet's bridge by its other address": Row(ETH0 + bridge("docker0", "192.168.5.1/24", "10.0.58.1/24"),
                                                    "no interface .* fits", regex("^192\\.168")),
    "the same, the address itself": Row(ETH0 + bridge("docker0", "192.168.5.1/24", "10.0.58.1/24"),
                                        "no interface .* fits", iface("192.168.5.1")),
    "a loopback address": Row(ETH0, "no interface .* fits", iface("127.0.0.1")),
    "a bridge of a subnet leased before": Row(ETH0 + bridge("docker0", "10.7.3.1/24"), "no interface .* fits",
                                              regex("^10\\."),
                                              Ours(OURS.devices, None, frozenset({IPv4Network("10.7.3.0/24")}))),
    "an address inside the network": Row(link("eth0", "172.31.0.1/24", "10.0.9.9/32"), "no interface .* fits",
                                         iface("10.0.9.9")),
    "the LAN is inside the network": Row(link("eth0", "10.0.9.9/24", extra="route add default via 10.0.9.1"),
                                         "eth0 \\(10.0.9.9, the overlay's own\\)"),
    "eth0 has the overlay's address too": Row(link("eth0", "10.0.9.9/24", "172.31.0.1/24"), ON_ETH0, iface("eth0")),
    "reached through flannel0": Row(ETH0 + FLANNEL0 + "route add 10.0.0.0/16 dev flannel0\n", "no interface .* fits",
                                    reach("10.0.77.1")),
    "the GRO pair": Row(ETH0 + link("flannel0-grx", "10.3.3.3/24"), "no interface .* fits", regex("^10\\.3")),
    "eth0's address away, docker0 matches": Row(link("eth0") + DOCKER0, "no interface .* fits", regex("^10\\.")),
    "eth0's address away, flannel0 matches": Row(link("eth0") + FLANNEL0, "no interface .* fits", regex("^10\\.")),
    "eth0's address away, another Docker's bridge": Row(link("eth0") + FOREIGN_DOCKER0,
                                                        "docker0 \\(172.17.0.1, without a way out", regex("^172\\.")),
    "the same by name": Row(link("eth0") + FOREIGN_DOCKER0, "docker0 172.17.0.1 1500", iface("docker0")),
    "a bridge with container ports": Row(ETH0 + link("veth1") + tun("tap1") + bridge("br1", "172.20.0.1/16",
                                         ports=("veth1",)), ON_ETH0, regex("^172\\.")),
    # --- bridges that are underlays ---
    "a bridge with the default route": Row(link("port") + bridge("br0", "172.31.0.1/24", ports=("port",))
                                           + "route add default via 172.31.0.100\n", "br0 172.31.0.1 1500",
                                           regex("^172\\.")),
    "a bridge with another tunnel as its port": Row("link add vx0 type vxlan id 7 dstport 4789\n"
                                            + bridge("br0", "172.31.0.1/24", ports=("vx0",)), "br0 172.31.0.1 1500",
                                            regex("^172\\.")),
    # --- by name, pattern and reach, in flannel's order ---
    "by name": Row(ETH0 + ETH1, ON_ETH1, iface("eth1")),
    "by address": Row(ETH0 + ETH1, ON_ETH1, iface("10.1.0.9")),
    "by a second address": Row(link("eth0", "172.31.0.1/24", "172.31.0.77/24"), "eth0 172.31.0.77 1500",
                               iface("172.31.0.77")),
    "by name, link-local address first": Row(link("eth0", "169.254.7.7/16", "172.31.0.1/24"), ON_ETH0, iface("eth0")),
    "the first name that is there": Row(ETH0 + ETH1, ON_ETH1, iface("nope", "eth1", "eth0")),
    "by pattern of the address": Row(ETH0 + ETH1, ON_ETH1, regex("^10\\.1\\.")),
    "by pattern of the name": Row(ETH0 + ETH1, ON_ETH1, regex("eth1$")),
    "names before patterns": Row(ETH0 + ETH1, ON_ETH1, Selection(names=("nope",), patterns=("^eth1$",))),
    "by reach": Row(ETH0 + ETH1 + "route add 192.0.2.0/24 via 10.1.0.1\n", ON_ETH1, reach("192.0.2.1")),
    "no such interface": Row(ETH0, "--iface eth9: no interface .*; here are: .*eth0 \\(172.31.0.1\\)", iface("eth9")),
    "no address": Row(ETH0 + link("eth1"), "no interface with an IPv4 address fits", iface("eth1")),
    "a public IP that is here": Row(ETH0 + ETH1, ON_ETH1, public("10.1.0.9")),
    "a public IP that is here, no default": Row(ETH1, ON_ETH1, public("10.1.0.9")),
    "a public IP behind NAT": Row(ETH0, ON_ETH0, public("203.0.113.5")),
    "a name before the public IP": Row(ETH0 + ETH1, ON_ETH0, iface("eth0", public_ip="10.1.0.9")),
    # --- when in doubt, what was ---
    "two match, the first": Row(link("eth0", "10.1.0.1/24") + link("eth1", "10.2.0.1/24"), "eth0 10.1.0.1 1500",
                                regex("^10\\.")),
    "two match, the one from before": Row(link("eth0", "10.1.0.1/24") + link("eth1", "10.2.0.1/24"),
                                          "eth1 10.2.0.1 1500", regex("^10\\."), before="10.2.0.1"),
    "two match, what was is gone": Row(link("eth0", "10.1.0.1/24") + link("eth1", "10.2.0.1/24"), "eth0 10.1.0.1 1500",
                                       regex("^10\\."), before="10.3.0.1"),
    "an earlier name is back": Row(ETH0 + ETH1, ON_ETH0, iface("eth0", "eth1"), before="10.1.0.9"),
    # --- addresses on lo have the MTU of the way out ---
    "lo by its address": Row(ETH0 + LO, "eth0 10.255.0.1 1500", iface("10.255.0.1")),
    "lo by name": Row(ETH0 + LO, "eth0 10.255.0.1 1500", iface("lo")),
    "lo without other addresses": Row(ETH0, "no interface .* fits", iface("lo")),
    "lo, way out by a rule": Row(ETH0 + ETH1 + LO + "route add default via 10.1.0.1 table 100\n"
                                 "rule add pref 100 from 10.255.0.1 lookup 100\n", "eth1 10.255.0.1 9000",
                                 public("10.255.0.1")),
    "lo, no default, the smallest": Row(link("eth0", "172.31.0.1/24", mtu=1400) + ETH1 + LO, "eth0 10.255.0.1 1400",
                                        iface("10.255.0.1")),
    "lo, no default, one is down": Row(ETH0.replace("route add default via 172.31.0.100", "") + LO
                                       + link("eth1", "10.1.0.9/24", mtu=1300) + "link set eth1 down\n",
                                       "eth0 10.255.0.1 1500", iface("10.255.0.1")),
    "lo, no default, a bridge of containers": Row(link("eth0", "172.31.0.1/24") + FOREIGN_DOCKER0 + LO
                                                  + "link set docker0 mtu 1300\n", "eth0 10.255.0.1 1500",
                                                  iface("10.255.0.1")),
    "lo, a default on flannel0": Row(link("eth0", "172.31.0.1/24") + FLANNEL0 + LO + "route add default dev flannel0\n",
                                     "eth0 10.255.0.1 1500", iface("10.255.0.1")),
    "lo, inside the network": Row(ETH0 + "addr add 10.0.0.7/32 dev lo\n", "no interface .* fits", iface("10.0.0.7")),
    "nothing known of the overlay yet": Row(ETH0 + DOCKER0, "docker0 10.0.58.1 1500", iface("10.0.58.1"), NOTHING_OURS),
}  # fmt: skip


def look(row: Row) -> Underlay:
    before = None if row.before is None else Underlay("", 0, 0, IPv4Address(row.before), IPv4Address(row.before))

    def decide() -> Underlay:
        with Netlink() as netlink:
            return choose(row.selection, netlink, row.ours, before)

    with machine(row.machine) as name:
        return namespace.call_inside(name, decide)


@pytest.mark.parametrize("what", TABLE)
def test_the_right_underlay(what: str) -> None:
    row = TABLE[what]
    is_choice = row.right.lstrip("(").split()[0] in ("eth0", "eth1", "br0", "docker0") and "\\" not in row.right
    if not is_choice:
        with pytest.raises(InterfaceError, match=row.right):
            look(row)
        return
    chosen = look(row)
    shown = f"{chosen.interface} {chosen.address} {chosen.mtu}"
    assert shown == row.right or shown in row.right.strip("()").split("|")
    assert chosen.public_ip == (row.selection.public_ip or chosen.address)


def test_the_table_is_long_enough() -> None:
    assert len(TABLE) >= 40


def test_an_underlay_by_which_nothing_passes_is_known() -> None:
    def found() -> str:
        with Netlink() as netlink:
            underlay = choose(Selection(names=("eth0",)), netlink)
            return str(fault(underlay, netlink.links()) or "")

    with machine(link("eth0", "172.31.0.1/24")) as name:
        assert call_inside(name, found) == ""
        batch(name, "link set eth0p down\n")
        assert call_inside(name, found) == "interface eth0: has no carrier; see to what it is connected to"
        batch(name, "link set eth0 down\n")
        assert call_inside(name, found) == "interface eth0: is down; ip link set eth0 up"
        batch(name, "link set eth0p up\nlink set eth0 up\n")
        assert call_inside(name, found) == ""
