"""Which Networks are refused, on a table of machines made of real links, addresses and routes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from overlay.lab import namespace
from overlay.lab.process import poll
from overlay.linux.netlink import Netlink
from overlay.node.collision import collision, survey
from overlay.node.interfaces import Ours, Selection, Underlay, choose
from tests.netns.agents import OVERLAY, PATIENCE, agent
from tests.support.labs import MakeLab
from tests.support.machines import bridge, link, machine, tun

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

DEVICES = frozenset({"flannel0"})
ETH0 = link("eth0", "172.31.0.1/24", extra="route add default via 172.31.0.100")
DOCKER0 = bridge("docker0", "10.0.58.1/24")


@dataclass(frozen=True)
class Row:
    """A machine, a Network, and a part of why it is refused; empty where it is none of others' business."""

    machine: str
    network: str
    why: str = ""
    etcd: tuple[str, ...] = ()
    subnets: tuple[str, ...] = ()
    public_ip: str = ""


TABLE = {
    "nothing in the way": Row(ETH0, "10.0.0.0/16"),
    "equal to the LAN": Row(ETH0, "172.31.0.0/24", "this node's address 172.31.0.1 is inside it"),
    "contains the LAN": Row(ETH0, "172.16.0.0/12", "this node's address 172.31.0.1 is inside it"),
    "part of the LAN, without this node": Row(ETH0, "172.31.0.128/25"),
    "a second LAN, the same": Row(
        ETH0 + link("eth1", "10.5.0.9/16"), "10.5.0.0/16", "route 10.5.0.0/16 dev eth1 is the same"
    ),
    "a second LAN, inside": Row(
        ETH0 + link("eth1", "10.5.3.9/24"), "10.5.0.0/16", "route 10.5.3.0/24 dev eth1 is inside it"
    ),
    "a second LAN of another metric": Row(
        ETH0
        + link("eth1")
        + "addr add 10.5.0.9/16 dev eth1 noprefixroute\nroute add 10.5.0.0/16 dev eth1 metric 100\n",
        "10.5.0.0/16",
        "route 10.5.0.0/16 dev eth1 is the same",
    ),
    "a site's route, the same": Row(
        ETH0 + "route add 10.5.0.0/16 via 172.31.0.9\n",
        "10.5.0.0/16",
        "route 10.5.0.0/16 via 172.31.0.9 dev eth0 is the same.*ip route del 10.5.0.0/16",
    ),
    "a site's route, inside": Row(
        ETH0 + "route add 10.5.7.0/24 via 172.31.0.9\n",
        "10.5.0.0/16",
        "route 10.5.7.0/24 via 172.31.0.9 dev eth0 is inside it",
    ),
    "a site's wider route": Row(ETH0 + "route add 10.0.0.0/8 via 172.31.0.9\n", "10.5.0.0/16"),
    "a site's route by two ways": Row(
        ETH0 + "route add 10.5.0.0/16 nexthop via 172.31.0.9 nexthop via 172.31.0.8\n",
        "10.5.0.0/16",
        "route 10.5.0.0/16 is the same",
    ),
    "a VPN inside": Row(ETH0 + tun("tun0", "10.5.8.2/24"), "10.5.0.0/16", "route 10.5.8.0/24 dev tun0 is inside it"),
    "the default's gateway": Row(
        link("eth0", "172.31.0.1/24", extra="route add default via 10.5.0.1 dev eth0 onlink"),
        "10.5.0.0/16",
        "route 0.0.0.0/0 via 10.5.0.1 dev eth0 has its gateway inside it",
    ),
    "a blackhole of the same": Row(
        ETH0 + "route add blackhole 10.5.0.0/16\n", "10.5.0.0/16", "blackhole 10.5.0.0/16 is the same"
    ),
    "a blackhole behind ours": Row(ETH0 + "route add blackhole 10.5.0.0/16 metric 4000\n", "10.5.0.0/16"),
    "blackholes for what is unused": Row(
        ETH0 + "route add blackhole 10.0.0.0/8\nroute add unreachable 10.5.9.0/24\n", "10.5.0.0/16"
    ),
    "a blackhole of another class of service": Row(ETH0 + "route add blackhole 10.5.0.0/16 tos 0x10\n", "10.5.0.0/16"),
    "etcd behind a router": Row(ETH0, "10.5.0.0/16", "etcd at 10.5.0.3 is inside it", etcd=("10.4.0.1", "10.5.0.3")),
    "this node's public IP": Row(
        ETH0, "10.5.0.0/16", "this node's public IP 10.5.0.7 is inside it", public_ip="10.5.0.7"
    ),
    "docker0 with our subnet": Row(ETH0 + DOCKER0, "10.0.0.0/16"),
    "docker0 with an earlier subnet": Row(ETH0 + bridge("docker0", "10.0.77.1/24"), "10.0.0.0/16"),
    "docker0 with all of it": Row(
        ETH0 + bridge("docker0", "10.0.0.1/16"), "10.0.0.0/16", "route 10.0.0.0/16 dev docker0 is the same"
    ),
    "a user-defined network in our subnet": Row(ETH0 + DOCKER0 + bridge("br-77", "10.0.58.129/25"), "10.0.0.0/16"),
    "containers by routed veths": Row(ETH0 + link("cali1", extra="route add 10.0.58.7 dev cali1"), "10.0.0.0/16"),
    "our subnet on another kind of bridge": Row(
        ETH0 + tun("ovsbr", "10.0.58.1/24"), "10.0.0.0/16", subnets=("10.0.58.0/24",)
    ),
    "a LAN on a bridge with an uplink": Row(
        link("eth0") + bridge("br0", "10.5.3.9/24", ports=("eth0",)) + "route add default via 10.5.3.1\n",
        "10.5.0.0/16",
        "is inside it",
    ),
    "a LAN on a bridge of veths with a default route": Row(
        ETH0
        + link("veth1")
        + bridge("br0", "10.5.3.9/24", ports=("veth1",))
        + "route append default via 10.5.3.1 metric 9\n",
        "10.5.0.0/16",
        "route 10.5.3.0/24 dev br0 is inside it",
    ),
    "a LAN on a bridge of veths that is the underlay": Row(
        link("veth1") + bridge("br0", "172.20.0.1/16", "10.5.3.9/24", ports=("veth1",)),
        "10.5.0.0/16",
        "route 10.5.3.0/24 dev br0 is inside it",
        public_ip="172.20.0.1",
    ),
    "a site behind a container": Row(
        ETH0 + DOCKER0 + "route add 10.0.99.0/24 via 10.0.58.9\n",
        "10.0.0.0/16",
        "route 10.0.99.0/24 via 10.0.58.9 dev docker0 is inside it",
    ),
    "flannel0 of before": Row(
        ETH0 + tun("flannel0", "10.0.58.0/32") + "route add 10.0.0.0/16 dev flannel0\n", "10.0.0.0/16"
    ),
    "an agent's own, whatever the device": Row(
        ETH0 + "route add 10.0.7.0/24 via 172.31.0.2 proto 241\n", "10.0.0.0/16"
    ),
    "vxlan's routes of before": Row(
        ETH0 + "link add flannel.1 type vxlan id 1 dstport 8472 dev eth0\nlink set flannel.1 up\n"
        "route add 10.0.7.0/24 via 10.0.7.0 dev flannel.1 onlink\n",
        "10.0.0.0/16",
        "dev flannel.1 is inside it.*ip route del 10.0.7.0/24",
    ),
}


@pytest.mark.parametrize("what", TABLE)
def test_what_is_anothers_is_refused(what: str) -> None:
    row = TABLE[what]
    ours = Ours(DEVICES, None, frozenset(map(IPv4Network, row.subnets)))
    public_ip = IPv4Address(row.public_ip) if row.public_ip else None

    def judge() -> str:
        with Netlink() as netlink:
            underlay: Underlay = choose(Selection(public_ip=public_ip), netlink, ours)
            around = survey(netlink, ours, underlay, map(IPv4Address, row.etcd))
        return str(collision(IPv4Network(row.network), around) or "")

    with machine(row.machine) as name:
        refused = namespace.call_inside(name, judge)
    if not row.why:
        assert refused == ""
        return
    assert f"network {row.network} collides".lower() in refused.lower()
    first, _, then = row.why.partition(".*")
    assert first in refused
    assert then in refused
    assert "choose a Network" in refused


@pytest.mark.etcd
def test_who_writes_a_config_is_warned(make_lab: MakeLab) -> None:
    """Of what the machine, etcd and the nodes have; and it is written all the same: that machine need not be a node."""
    lab = make_lab(nodes=1, pods=0, agents=False)
    node = lab.nodes[0]
    lab.start_etcd()
    endpoint = f"--etcd-endpoints={lab.spec.endpoint}"
    lab.etcd.run("etcdctl", "put", "/coreos.com/network/subnets/10.0.5.0-24", '{"PublicIP":"10.9.0.5"}')
    for network, warning in (
        ("172.31.0.0/16", "etcd at 172.31.0.100 is inside it"),
        ("10.9.0.0/16", "the node at 10.9.0.5 is inside Network 10.9.0.0/16"),
        ("10.8.0.0/16", ""),
    ):
        done = node.run(OVERLAY, "config", "set", endpoint, f'{{"Network":"{network}"}}')
        assert warning in done.stderr
        assert bool(warning) == bool(done.stderr), done.stderr
    checked = node.run(OVERLAY, "config", "check", '{"Network":"172.31.0.0/24"}')
    assert "route 172.31.0.0/24 dev eth0 is the same" in checked.stderr
    assert '"Network": "172.31.0.0/24"' in checked.stdout


@pytest.mark.etcd
@pytest.mark.parametrize("network", ["172.31.0.0/24", "172.16.0.0/12", "10.0.0.0/16"])
def test_a_network_that_takes_the_lan_changes_nothing(make_lab: MakeLab, tmp_path: Path, network: str) -> None:
    """No lease, no device, no route; and a good config, written later, is taken without a restart."""
    lab = make_lab(nodes=1, pods=0, agents=False)
    node = lab.nodes[0]
    lab.start_etcd()
    node.run("ip", "link", "delete", "docker0", check=False)
    node.run("ip", "route", "add", "10.0.0.0/16", "via", "172.31.0.100")
    lab.etcd.run("etcdctl", "put", "/coreos.com/network/config", f'{{"Network":"{network}"}}')
    before = node.run("ip", "route").stdout
    with agent(node, tmp_path) as running:
        running.says(f"Network {network} collides with this machine's own network")
        status = node.run(OVERLAY, "status", f"--state-dir={tmp_path}", check=False)
        assert status.returncode == 1
        assert "collides with this machine's own network" in " ".join(status.stdout.split())
        assert node.run("ip", "route").stdout == before
        assert lab.etcd.run("etcdctl", "get", "--prefix", "/coreos.com/network/subnets/").stdout == ""
        if network == "10.0.0.0/16":
            node.run("ip", "route", "del", network)  # what stood in the way goes: nothing else has to be done
        else:
            lab.etcd.run("etcdctl", "put", "/coreos.com/network/config", '{"Network":"10.7.0.0/16"}')
        running.says("ready: subnet")
        # An operator adds such a route while all works: the overlay goes on, and it is said.
        if network == "10.0.0.0/16":
            node.run("ip", "route", "add", "10.0.99.0/24", "via", "172.31.0.100")
            running.says("route 10.0.99.0/24 via 172.31.0.100 dev eth0 is inside it")
            assert poll(lambda: "10.0.99.0/24 via 172.31.0.100" in node.run("ip", "route").stdout, PATIENCE)
            assert "10.0.0.0/16 dev flannel0" in node.run("ip", "route").stdout
