"""A rehearsal: three nodes of a site that runs flanneld change over to this agent, one after another.

Each begins as flanneld v0.20.2 (udp backend, ``-ip-masq``) leaves a node when it is stopped: its lease in etcd for
another day, its subnet.env, its rules in iptables, and Docker running on its subnet with containers in it. Texts and
addresses are recorded ones.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from tests.support.docker import Container, move_file, start_container, start_docker
from tests.support.site import Site, deploy, installer, site, subnet, wait_for_agent
from tests.support.systemd import Booted, wait_until

pytestmark = pytest.mark.root

SUBNETS = ("10.0.58.0", "10.0.39.0", "10.0.77.0")
"""Of n1, n2 and n3, which flanneld drew by lot."""

PREFIX = "/coreos.com/network/subnets"

DOCKERS_DROP_IN = {
    "/etc/systemd/system/docker.service.d/flannel.conf": (
        "[Service]\nEnvironmentFile=/run/flannel_docker_opts.env\nExecStart=\n"
        "ExecStart=dockerd -H fd:// --containerd=/run/containerd/containerd.sock $DOCKER_OPTS\n"
    )
}
"""How flannel's own documents have Docker take its options."""


def flannels_subnet_env(base: str) -> str:
    gateway = IPv4Address(base) + 1
    return f"FLANNEL_NETWORK=10.0.0.0/16\nFLANNEL_SUBNET={gateway}/24\nFLANNEL_MTU=1472\nFLANNEL_IPMASQ=true\n"


def flannels_docker_opts(base: str) -> str:
    return f'DOCKER_OPTS=" --bip={IPv4Address(base) + 1}/24 --ip-masq=false --mtu=1472"\n'


def flannels_rules(base: str) -> str:
    return f"""\
*filter
:FLANNEL-FWD - [0:0]
-A FORWARD -m comment --comment "flanneld forward" -j FLANNEL-FWD
-A FLANNEL-FWD -s 10.0.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT
-A FLANNEL-FWD -d 10.0.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT
COMMIT
*nat
:FLANNEL-POSTRTG - [0:0]
-A POSTROUTING -m comment --comment "flanneld masq" -j FLANNEL-POSTRTG
-A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG -s 10.0.0.0/16 -d 10.0.0.0/16 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG -s 10.0.0.0/16 ! -d 224.0.0.0/4 -m comment --comment "flanneld masq" -j MASQUERADE --random-fully
-A FLANNEL-POSTRTG ! -s 10.0.0.0/16 -d {base}/24 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG ! -s 10.0.0.0/16 -d 10.0.0.0/16 -m comment --comment "flanneld masq" -j MASQUERADE --random-fully
COMMIT
"""


@dataclass(frozen=True)
class Before:
    """A node of flanneld's, and what must not change."""

    node: Booted
    base: str
    container: Container
    address: IPv4Address
    docker: int

    def assert_unchanged(self) -> None:
        assert str(subnet(self.node).network.network_address) == self.base
        assert self.node.main_pid("docker") == self.docker
        assert self.container.running
        assert self.container.address == self.address


@pytest.fixture
def flannel_site() -> Iterator[tuple[Site, list[Before]]]:
    with site(None, nodes=3, files=DOCKERS_DROP_IN) as made:
        yield made, [as_flanneld_left_it(made, number) for number in range(3)]


def as_flanneld_left_it(site: Site, number: int) -> Before:
    node, base, public_ip = site.nodes[number], SUBNETS[number], f"172.31.0.{number + 1}"
    granted = site.etcdctl("lease", "grant", "86400").split()[1]
    value = f'{{"PublicIP":"{public_ip}","PublicIPv6":null}}'
    site.etcdctl("put", f"--lease={granted}", f"{PREFIX}/{base}-24", text=value)
    node.write("/run/flannel/subnet.env", flannels_subnet_env(base))
    node.write("/run/flannel_docker_opts.env", flannels_docker_opts(base))
    node.run("iptables-restore", "--noflush", text=flannels_rules(base))
    start_docker(node)
    container = start_container(node, f"c{number + 1}")
    return Before(node, base, container, container.address, node.main_pid("docker"))


def rules(node: Booted) -> str:
    return node.run("sh", "-c", "iptables-save -t filter; iptables-save -t nat").stdout


def test_node_by_node_and_back(flannel_site: tuple[Site, list[Before]], stage: Path, wheels: Path) -> None:
    site, nodes = flannel_site
    migrated: list[Before] = []
    for before in nodes:
        deploy(before.node, stage)
        before.assert_unchanged()
        before.node.systemctl("enable", "--now", "overlay")
        before.assert_unchanged()
        assert before.node.read("/run/flannel/subnet.env") == flannels_subnet_env(before.base)
        assert [lease["subnet"] for lease in site_leases(site, before.node)] == sorted(
            (f"{base}/24" for base in SUBNETS), key=lambda text: IPv4Address(text.partition("/")[0])
        )
        wait_until(lambda node=before.node: rules(node).count("flanneld masq") == 7, 20, "today's rules")  # type: ignore[misc]
        assert rules(before.node).count("-j FLANNEL-POSTRTG") == 1
        assert rules(before.node).count("-j FLANNEL-FWD") == 1
        migrated.append(before)
        for one, other in itertools.permutations(migrated, 2):
            wait_until(lambda a=one, b=other: a.container.reaches(b.address), 20, "ping")  # type: ignore[misc]
    move_file(nodes[0].container, nodes[2].container, 1_000_000)

    for before in nodes:
        before.node.systemctl("restart", "overlay")
        wait_for_agent(before.node)
        before.assert_unchanged()

    # And back: flanneld takes the lease whose PublicIP is its own, or the subnet in its file, if both are as it knows.
    first = nodes[0]
    first.node.systemctl("disable", "--now", "overlay")
    value = json.loads(site.etcdctl("get", "--print-value-only", f"{PREFIX}/{first.base}-24"))
    assert value["PublicIP"] == "172.31.0.1"
    assert value.get("BackendType", "udp") == "udp"
    installer(first.node, "uninstall", wheels)
    assert (first.container.address, first.node.main_pid("docker")) == (first.address, first.docker)
    assert "FLANNEL" not in rules(first.node)
    assert json.loads(site.etcdctl("get", "--print-value-only", f"{PREFIX}/{first.base}-24")) == value


def site_leases(site: Site, node: Booted) -> list[dict[str, object]]:
    text = node.run("overlay", "leases", "--json", "--etcd-endpoints", site.lab.spec.endpoint).stdout
    leases: list[dict[str, object]] = json.loads(text)
    return leases


def test_a_device_of_flannelds_is_named_with_the_remedy(stage: Path) -> None:
    """flanneld that still runs, or whose TUN was made to last: flannel0 is not shared, and not taken away unasked."""
    with site(stage, nodes=1) as made:
        (node,) = made.nodes
        node.run("ip", "tuntap", "add", "name", "flannel0", "mode", "tun")
        node.run("ip", "address", "add", "10.0.58.0/32", "dev", "flannel0")
        node.run("ip", "link", "set", "flannel0", "mtu", "1472", "up")
        node.run("ip", "route", "add", "10.0.0.0/16", "dev", "flannel0")
        node.systemctl("start", "--no-block", "overlay")
        wait_until(lambda: "remove it: ip link del flannel0" in node.journal("overlay"), 30, "the remedy in the log")
        assert node.show("overlay", "ActiveState") == "activating"
        node.run("ip", "link", "del", "flannel0")
        wait_for_agent(node)
        assert node.run("ip", "route").stdout.count("10.0.0.0/16 dev flannel0") == 1
