"""The host-gw backend on real parts: agents, etcd, pods; and what flanneld v0.20.2 leaves behind, as golden values.

etcd 172.31.0.100 ──┐
n1   172.31.0.1   ──┤
n2   172.31.0.2   ──┼── bridge        n1p1, n2p1, n3p1: pods behind docker0 of their node
n3   172.31.0.3   ──┘
"""

from __future__ import annotations

import asyncio
import json
import re
import signal
import time
from collections.abc import Iterator
from functools import partial
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from random import Random
from typing import Any

import pytest

from overlay.backends.base import Desired, Flags
from overlay.backends.host_gw import HostGwBackend
from overlay.control.schema.config import parse_config
from overlay.lab.cluster import Lab
from overlay.lab.machine import Machine, Node
from overlay.lab.process import poll
from overlay.lab.topology import LabSpec
from overlay.model import Peer, PeerTable
from overlay.node.interfaces import Underlay
from overlay.node.subnet_env import previous_subnet
from tests.netns.agents import OVERLAY, agent, elsewhere
from tests.support.limits import limit
from tests.support.namespaces import Namespace, namespace
from tests.support.problems import shown

pytestmark = [pytest.mark.root, pytest.mark.etcd]

SUBNETS = "/coreos.com/network/subnets/"

PATIENCE = 90.0
"""Seconds: to go over to the kernel datapath takes a probe, which a busy machine may have to try three times."""

UDP = '{"Network":"10.0.0.0/16","Backend":{"Type":"udp"}}'
HOST_GW = UDP.replace("udp", "host-gw")

# Of a node between two flannelds (v0.20.2, backend host-gw), with its own subnet 10.0.61.0/24.
LEASE = '{"PublicIP":"172.31.0.1","PublicIPv6":null,"BackendType":"host-gw"}'
ROUTE = "10.0.66.0/24 via 172.31.0.2 dev eth0"
SUBNET_ENV = "FLANNEL_NETWORK=10.0.0.0/16\nFLANNEL_SUBNET=10.0.61.1/24\nFLANNEL_MTU=1500\nFLANNEL_IPMASQ=true\n"
TTL = 62
"""Of a ping from pod to pod that began with 64: each node's IP stack takes one, and nothing else does."""


@pytest.fixture
def site(lab_name: str) -> Iterator[Lab]:
    """Three machines, etcd and a config; no agents yet."""
    with Lab.running(LabSpec(name=lab_name, nodes=3, pods=1, agents=False, backend="host-gw")) as lab:
        lab.start_etcd()
        lab.put_config()
        yield lab


def report(node: Machine) -> dict[str, Any]:
    """What the agent says of itself."""
    shown = node.run(OVERLAY, "status", "--json", f"--state-dir={node.files.directory}", check=False)
    found: dict[str, Any] = json.loads(shown.stdout)
    return found


def routes(node: Machine, *selection: str) -> list[str]:
    return [line.strip() for line in node.run("ip", "route", "show", *selection).stdout.splitlines()]


def subnet(node: Node) -> IPv4Network:
    found = previous_subnet(node.files.subnet_file)
    assert found is not None
    return found


def all_reach_all(nodes: tuple[Node, ...]) -> bool:
    pairs = [(one, two) for one in nodes for two in nodes if one is not two]
    return all(one.pods[0].ping(two.pods[0].address, count=2).complete for one, two in pairs)


def lease(site: Lab, node: Node) -> str:
    """The value of a node's lease, without what is ours alone."""
    key = f"{SUBNETS}{str(subnet(node)).replace('/', '-')}"
    value = site.etcd.run("etcdctl", "get", "--print-value-only", key).stdout.strip()
    return re.sub(r',"NodeID":"[^"]*"', "", value)


def has_nothing_of_ours(node: Machine) -> bool:
    links, rules = node.run("ip", "-br", "link").stdout, node.run("iptables-save").stdout
    filters = [node.run("tc", "filter", "show", "dev", "eth0", hook).stdout for hook in ("ingress", "egress")]
    return "flannel" not in links + rules + "".join(filters) and not routes(node, "proto", "241")


def test_three_nodes_are_as_flanneld_leaves_them_and_pods_reach_each_other(site: Lab) -> None:
    """Under the flags of the recording, and with what the recording cannot show: no TUN device is looked for."""
    nodes = one, two, _ = site.nodes
    for node, number in zip(nodes, (61, 66, 67), strict=True):
        node.overlay("reserve", f"10.0.{number}.0/24", "--public-ip", str(node.address))
        node.start_agent("--ip-masq")
    assert all_reach_all(nodes)
    shown = one.pods[0].run("ping", "-c1", str(two.pods[0].address)).stdout
    assert f"ttl={TTL}" in shown
    one.pods[0].run("ping", "-c2", "-M", "do", "-s1472", str(two.pods[0].address))  # 1500: the underlay's MTU

    assert lease(site, one) == LEASE
    assert one.files.subnet_file.read_text() == SUBNET_ENV
    ours = [line.replace(" proto 241", "") for line in routes(one, "proto", "241")]
    assert ours == [ROUTE, "10.0.67.0/24 via 172.31.0.3 dev eth0"]
    assert "flannel0" not in one.run("ip", "link").stdout
    told = report(one)
    assert (told["ready"], told["problems"], told["datapath"]["name"]) == (True, [], "host-gw")
    assert told["datapath"]["port"] is None
    assert told["datapath"]["detail"] == "2 routes by eth0"

    for node in nodes:
        node.stop_agent()
        assert len(routes(node, "proto", "241")) == 2, "the next start is to find them"
        places = [f"--subnet-file={node.files.subnet_file}", f"--state-dir={node.files.directory}"]
        done = node.run(OVERLAY, "cleanup", *places)
        assert "via 172.31.0." in done.stdout
        assert has_nothing_of_ours(node)


def test_a_restart_loses_no_packet_and_what_others_remove_is_put_back(site: Lab) -> None:
    nodes = one, two, _ = site.nodes
    for node in nodes:
        node.start_agent()
    pinging = one.pods[0].popen("ping", "-i", "0.02", str(two.pods[0].address))
    try:
        for end in (one.kill_agent, one.stop_agent):
            end()
            one.start_agent()
        pinging.send_signal(signal.SIGINT)
        out, _ = pinging.communicate(timeout=PATIENCE)
    finally:
        pinging.kill()
        pinging.wait()
    answered = {int(word) for word in re.findall(rb"icmp_seq=(\d+)", out)}
    assert answered == set(range(1, max(answered) + 1)), "all but what was on its way at the end"

    before = routes(one, "proto", "241")
    assert len(before) == 2
    one.run("ip", "route", "del", str(subnet(two)))
    assert poll(lambda: routes(one, "proto", "241") == before, PATIENCE)
    one.run("ip", "link", "set", "eth0", "down")
    one.run("ip", "link", "set", "eth0", "up")
    assert poll(lambda: routes(one, "proto", "241") == before, PATIENCE)
    assert poll(lambda: one.pods[0].ping(two.pods[0].address, count=1).complete, PATIENCE)


def test_a_peer_that_is_not_on_the_link_is_named_and_the_others_go_on(site: Lab) -> None:
    one, two, _ = site.nodes
    for node in (one, two):
        node.start_agent()
    far = '{"PublicIP":"192.0.2.9","PublicIPv6":null,"BackendType":"host-gw"}'
    site.etcd.run("etcdctl", "put", f"{SUBNETS}10.0.200.0-24", text=far)
    sentence = "no route to peer 10.0.200.0/24: its node 192.0.2.9 is not on the link of eth0; host-gw needs all nodes"
    assert poll(lambda: shown(report(one), "not-on-link", sentence), PATIENCE)
    told = report(one)
    assert (told["ready"], told["datapath"]["detail"]) == (True, "1 routes by eth0")
    assert one.pods[0].ping(two.pods[0].address, count=2).complete
    printed = one.run(OVERLAY, "status", f"--state-dir={one.files.directory}", check=False)
    assert (printed.returncode, sentence.split(":", maxsplit=1)[0] in printed.stdout) == (1, True)

    # The same for one whose place somebody else has: theirs stays.
    one.run("ip", "route", "add", "10.0.201.0/24", "via", "172.31.0.100")
    site.etcd.run("etcdctl", "put", f"{SUBNETS}10.0.201.0-24", text=far.replace("192.0.2.9", "172.31.0.9"))
    blocked = "route 10.0.201.0/24: is there already, and not ours"
    assert poll(lambda: shown(report(one), "route", blocked), PATIENCE)
    assert routes(one, "10.0.201.0/24") == ["10.0.201.0/24 via 172.31.0.100 dev eth0"]
    one.run("ip", "route", "del", "10.0.201.0/24")
    assert poll(lambda: routes(one, "10.0.201.0/24") == ["10.0.201.0/24 via 172.31.0.9 dev eth0 proto 241"], PATIENCE)
    for number in (200, 201):
        site.etcd.run("etcdctl", "del", f"{SUBNETS}10.0.{number}.0-24")
    assert poll(lambda: report(one)["problems"] == [], PATIENCE)


def test_a_backend_that_this_machine_has_no_means_for_is_told_and_the_one_before_goes_on(
    lab_name: str, tmp_path: Path
) -> None:
    with Lab.running(LabSpec(name=lab_name, nodes=1, pods=0, agents=False, backend="host-gw")) as lab:
        lab.start_etcd()
        lab.put_config(HOST_GW)
        machine = lab.nodes[0]
        with agent(machine, tmp_path, before=elsewhere("mount -t tmpfs none /dev/net")) as running:
            running.says("ready:")
            lab.put_config(UDP)
            status = ("status", "--json", f"--state-dir={tmp_path}")
            told: dict[str, Any] = {}

            def is_told() -> bool:
                told.update(json.loads(machine.run(OVERLAY, *status, check=False).stdout))
                return shown(told, "backend", "/dev/net/tun", "modprobe tun")

            assert poll(is_told, PATIENCE)
            assert (told["ready"], told["datapath"]["name"]) == (True, "host-gw")
            lab.put_config(HOST_GW)
            assert poll(lambda: not is_told(), PATIENCE)


def test_a_node_beside_a_flanneld(site: Lab) -> None:
    """n2 is a flanneld's node, of what it has recorded: its lease, its docker0, its route to us."""
    one, two, _ = site.nodes
    site.etcd.run("etcdctl", "put", f"{SUBNETS}10.0.66.0-24", text=LEASE.replace("172.31.0.1", "172.31.0.2"))
    one.overlay("reserve", "10.0.61.0/24", "--public-ip", "172.31.0.1")
    two.files.subnet_file.write_text(SUBNET_ENV.replace("10.0.61.1", "10.0.66.1"))
    two.connect_pods()
    two.run("ip", "route", "add", "10.0.61.0/24", "via", "172.31.0.1", "dev", "eth0")
    one.start_agent()
    assert ROUTE in [line.replace(" proto 241", "") for line in routes(one)]
    assert one.pods[0].ping(two.pods[0].address, count=3).complete
    assert two.pods[0].ping(one.pods[0].address, count=3).complete


def moved(node: Node, other: Node, kind: str) -> bool:
    """Whether a node has all that a backend of this type makes, and nothing that another made."""
    ours = sorted(line for line in routes(node, "proto", "241") if not line.startswith("blackhole"))
    links, env = node.run("ip", "-br", "link").stdout, node.subnet_file
    filters = node.run("tc", "filter", "show", "dev", "eth0", "ingress").stdout
    if kind == "udp":
        by_tunnel = ours == ["10.0.0.0/16 dev flannel0 scope link"]
        return by_tunnel and "flannel0" in links and env is not None and env.mtu == 1472
    by_peer = ours == [f"{subnet(other)} via {other.address} dev eth0"]
    return by_peer and "flannel" not in links + filters and env is not None and env.mtu == 1500


@pytest.mark.parametrize("datapath", ["userspace", "kernel"])
def test_another_backend_type_moves_the_nodes_over_and_back(site: Lab, datapath: str) -> None:
    """Nothing of the former is left; subnet and blackhole, which every backend has, stay."""
    nodes = one, two = site.nodes[:2]
    for node in nodes:
        node.start_agent(f"--datapath={datapath}", "--ip-blackhole-route")
    subnets = [subnet(node) for node in nodes]
    holes = [routes(node, "type", "blackhole") for node in nodes]
    for config, kind in ((UDP, "udp"), (HOST_GW, "host-gw"), (UDP, "udp")):
        site.put_config(config)
        for node, other in ((one, two), (two, one)):
            reached = poll(partial(moved, node, other, kind), PATIENCE)
            assert reached, f"{kind}: {routes(node)}\n{node.files.log('agent').read_text()}"
        for node in nodes:
            node.connect_pods()
        assert poll(lambda: all_reach_all(nodes), PATIENCE), kind
        assert [subnet(node) for node in nodes] == subnets
        assert [routes(node, "type", "blackhole") for node in nodes] == holes
        said = [json.loads(lease(site, node)).get("BackendType") for node in nodes]
        assert said == [None if kind == "udp" else kind] * 2
        assert poll(lambda: [report(node)["problems"] for node in nodes] == [[], []], PATIENCE)
        rules = one.run("iptables", "-S").stdout
        assert rules.count("FLANNEL-FWD") == 4, rules


def test_what_another_agents_time_left_goes_with_the_first_start(site: Lab) -> None:
    """The config was changed while the agent did not run."""
    one = site.nodes[0]
    site.put_config(UDP)
    one.start_agent()
    one.kill_agent()
    assert "flannel0" in one.run("ip", "link").stdout
    site.put_config(HOST_GW)
    one.start_agent()
    assert poll(lambda: "flannel" not in one.run("ip", "-br", "link").stdout, PATIENCE)
    assert routes(one, "proto", "241") == []


def test_two_agents_on_one_machine_leave_each_others_routes_alone(site: Lab, tmp_path: Path) -> None:
    """Of two networks; each has its own device's name, though neither has a device."""
    one = site.nodes[0]
    other = json.dumps({"Network": "10.9.0.0/16", "Backend": {"Type": "host-gw"}})
    site.etcd.run("etcdctl", "put", "/other/config", text=other)
    for prefix, net in (("/coreos.com/network", 0), ("/other", 9)):
        value = '{"PublicIP":"172.31.0.2","PublicIPv6":null,"BackendType":"host-gw"}'
        site.etcd.run("etcdctl", "put", f"{prefix}/subnets/10.{net}.66.0-24", text=value)
    theirs = "10.9.66.0/24 via 172.31.0.2 dev eth0 metric "
    with (
        agent(one, tmp_path / "first") as first,
        agent(one, tmp_path / "second", "--device=flannel1", "--etcd-prefix=/other") as second,
    ):
        for each in (first, second):
            each.says("ready:")
        assert [line.startswith(theirs) for line in routes(one, "proto", "241")] == [False, True]
        first.terminate()
        places = [f"--subnet-file={first.subnet_file}", f"--state-dir={tmp_path}/first"]
        one.run(OVERLAY, "cleanup", *places)
        assert [line.startswith(theirs) for line in routes(one, "proto", "241")] == [True]


@pytest.fixture
def machine() -> Iterator[Namespace]:
    with namespace("hgw") as made:
        made.batch("link add eth0 type veth peer name far\naddr add 172.31.0.1/16 dev eth0\n")
        made.batch("link set far up\nlink set eth0 up\n")
        yield made


def test_a_thousand_peers_are_routed_at_once_and_one_more_at_no_cost(machine: Namespace) -> None:
    """In seconds of this process's CPU: what else the machine does costs these nothing, whatever the clock says."""
    peers = [
        Peer(IPv4Network((0x0A000000 + (number << 8), 24)), IPv4Address(0xAC1F0100 + number)) for number in range(1001)
    ]
    index = int(machine.run("ip", "-o", "link", "show", "eth0").partition(":")[0])
    here = IPv4Address("172.31.0.1")
    config = parse_config(b'{"Network":"10.0.0.0/8","Backend":{"Type":"host-gw"}}')
    desired = Desired(config, IPv4Network("10.255.0.0/24"), Underlay("eth0", index, 1500, here, here))

    def count() -> int:
        return machine.run("ip", "route", "show", "proto", "241").count("\n")

    async def live() -> tuple[float, float, float]:
        backend = HostGwBackend(Flags())
        await backend.prepare(config, desired.underlay)
        backend.set_peers(PeerTable.of(None, peers[:1000]))
        began = time.process_time()
        assert len((await backend.apply(desired)).changes) == 9
        first = time.process_time() - began
        assert count() == 1000
        began = time.process_time()
        assert (await backend.apply(desired)).changes == ()
        again = time.process_time() - began
        watching = asyncio.create_task(backend.watch())
        took = []
        try:
            for number in range(10):
                backend.set_peers(PeerTable.of(None, peers[: 1001 - number % 2]))
                began = time.process_time()
                expected = 1001 - number % 2
                while not (await backend.status()).detail.startswith(f"{expected} "):
                    await asyncio.sleep(0.01)  # asking is paid here too
                took.append(time.process_time() - began)
                assert count() == expected
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
        await backend.close(given_back=True)
        assert count() == 0
        return first, again, min(took)

    first, again, change = machine.call(lambda: asyncio.run(live()))
    print(f"1,000 routes: {first * 1e3:.0f} ms, compared: {again * 1e3:.0f} ms, one change: {change * 1e3:.1f} ms")
    assert first < limit(1.0, 20.0)
    assert change < limit(0.010, again / 2), "one change must not cost a look at a thousand"


def test_whatever_table_follows_another_the_kernel_has_its_routes(machine: Namespace) -> None:
    """What is done of a table at once, by its difference to the last, is what a look at all routes would do."""
    index = int(machine.run("ip", "-o", "link", "show", "eth0").partition(":")[0])
    chance, here = Random(1), IPv4Address("172.31.0.1")
    config = parse_config(HOST_GW)
    desired = Desired(config, IPv4Network("10.0.255.0/24"), Underlay("eth0", index, 1500, here, here))

    def table() -> PeerTable:
        """Of up to twelve peers: on the link or not, each with one of a few addresses."""
        numbers = chance.sample(range(12), chance.randint(0, 12))
        where = [IPv4Address("172.31.0.2"), IPv4Address("172.31.0.3"), IPv4Address("192.0.2.9")]
        return PeerTable.of(None, [Peer(IPv4Network(f"10.0.{n}.0/24"), chance.choice(where)) for n in numbers])

    def expected(peers: PeerTable) -> list[str]:
        on_link = [peer for _, peer in sorted(peers.peers.items()) if peer.public_ip in IPv4Network("172.31.0.0/16")]
        return [f"{peer.subnet} via {peer.public_ip} dev eth0" for peer in on_link]

    def there() -> list[str]:
        return [line.strip() for line in machine.run("ip", "route", "show", "proto", "241").splitlines()]

    async def live() -> None:
        backend = HostGwBackend(Flags())
        await backend.prepare(config, desired.underlay)
        await backend.apply(desired)
        watching = asyncio.create_task(backend.watch())
        try:
            for _ in range(40):
                peers = table()
                backend.set_peers(peers)
                async with asyncio.timeout(PATIENCE):
                    while there() != expected(peers):
                        await asyncio.sleep(0.01)
                assert len((await backend.status()).problems) == len(peers) - len(expected(peers))
                assert (await backend.apply(desired)).changes == ()
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
        await backend.close()

    machine.call(lambda: asyncio.run(live()))
