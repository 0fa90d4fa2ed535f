"""Two agents on one host, of two networks: each keeps to its own, whatever the other does, restarts or removes.

n1 172.31.0.1 with flannel0 (10.0.0.0/16) and flannel1 (10.77.0.0/16) ── bridge ── etcd 172.31.0.100
"""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack
from pathlib import Path

import pytest

from overlay.lab.process import poll
from tests.netns.agents import OVERLAY, PATIENCE, agent
from tests.support.labs import MakeLab

pytestmark = [pytest.mark.root, pytest.mark.etcd, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

NETWORKS = {"flannel0": ("/one", "10.0.0.0/16", 8285), "flannel1": ("/two", "10.77.0.0/16", 8286)}


def test_networks_at_neighbouring_ports(make_lab: MakeLab, tmp_path: Path) -> None:
    """What the one's workers send from is not the other's port."""
    lab = make_lab(nodes=1, pods=0, agents=False)
    lab.start_etcd()
    for prefix, network, port in NETWORKS.values():
        config = f'{{"Network":"{network}","Backend":{{"Type":"udp","Port":{port}}}}}'
        lab.etcd.run("etcdctl", "put", f"{prefix}/config", config)
    with ExitStack() as stack:
        for device, (prefix, *_) in NETWORKS.items():
            flags = (f"--device={device}", f"--etcd-prefix={prefix}", "--healthz-port=0", "--workers=2")
            each = stack.enter_context(agent(lab.nodes[0], tmp_path / device, *flags, "--datapath=userspace"))
            each.says("ready: subnet")


def test_routes_rules_and_blackholes_of_the_other_stay(make_lab: MakeLab, tmp_path: Path) -> None:
    lab = make_lab(nodes=1, pods=0, agents=False)
    node = lab.nodes[0]
    lab.start_etcd()
    node.run("sysctl", "-qw", "net.ipv4.ip_forward=1")

    def ours(device: str) -> str:
        """All that the agent of a device has on this node."""
        network = NETWORKS[device][1].rpartition(".0.0")[0]
        shown = (*node.run("ip", "route").stdout.splitlines(), *node.run("iptables-save").stdout.splitlines())
        own = [line for line in shown if network in line or device in line]
        addresses = node.run("ip", "-br", "address", "show", device, check=False).stdout.split()[2:]
        return "\n".join([*own, *addresses])

    def flags(device: str) -> tuple[str, ...]:
        blackholes = ("--ip-masq", "--ip-blackhole-route", "--iptables-resync=1", "--healthz-port=0")
        return (f"--device={device}", f"--etcd-prefix={NETWORKS[device][0]}", *blackholes)

    for prefix, network, port in NETWORKS.values():
        config = f'{{"Network":"{network}","Backend":{{"Type":"udp","Port":{port}}}}}'
        lab.etcd.run("etcdctl", "put", f"{prefix}/config", config)
    with ExitStack() as stack:
        first = stack.enter_context(agent(node, tmp_path / "flannel0", *flags("flannel0")))
        first.says("ready: subnet")
        assert poll(lambda: "FLANNEL-POSTRTG" in ours("flannel0"), PATIENCE)
        alone = ours("flannel0")
        assert "blackhole 10.0." in alone
        second = stack.enter_context(agent(node, tmp_path / "flannel1", *flags("flannel1")))
        second.says("ready: subnet")
        assert poll(lambda: "FLANNEL-MASQ-flannel1" in ours("flannel1"), PATIENCE)
        both = ours("flannel1")
        assert "blackhole 10.77." in both
        assert ours("flannel0") == alone

        # What the one mends is its own, also after it was killed and came back.
        node.run("ip", "route", "flush", "type", "blackhole")
        assert poll(lambda: (ours("flannel0"), ours("flannel1")) == (alone, both), PATIENCE)
        first.process.send_signal(signal.SIGKILL)
        first.process.wait()
        with agent(node, tmp_path / "flannel0", *flags("flannel0")) as again:
            again.says("ready: subnet", times=2)
            assert poll(lambda: (ours("flannel0"), ours("flannel1")) == (alone, both), PATIENCE)
        places = (f"--state-dir={tmp_path}/flannel0", f"--subnet-file={tmp_path}/flannel0/subnet.env")
        node.run(OVERLAY, "cleanup", "--device=flannel0", *places)
        assert ours("flannel1") == both
        assert "10.0." not in ours("flannel0")
        node.run("iptables", "-t", "nat", "-F", "FLANNEL-MASQ-flannel1")
        assert poll(lambda: ours("flannel1") == both, PATIENCE), "and the other goes on mending what is its own"
