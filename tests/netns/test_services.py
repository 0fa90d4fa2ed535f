"""Services' addresses, from everywhere, in every proxy mode, against the table's oracle.

See :mod:`tests.support.services_lab` for the machines.
"""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import Any

import pytest

from overlay.lab.cluster import Lab
from overlay.lab.machine import Node
from overlay.lab.process import poll
from overlay.lab.shell import overlay_command
from overlay.lab.topology import LabSpec
from overlay.services.proxy.ipvs.mode import DEVICE
from overlay.services.proxy.nftables.ledger import LINGER
from overlay.services.table import Answer
from tests.support.foreign_rules import DOCKER_26, DOCKER_28
from tests.support.ipvs import needs_ipvs
from tests.support.limits import limit
from tests.support.namespaces import namespace
from tests.support.problems import shown
from tests.support.services_lab import (
    BALANCER,
    BRIDGES,
    ECHO_PORT,
    EXTERNAL,
    LIMIT,
    PORT,
    Client,
    Held,
    ServicesLab,
    Steadily,
    services_lab,
)

pytestmark = [pytest.mark.root, pytest.mark.etcd]

MODES = ("ebpf", "nftables", "iptables", "ipvs", "userspace")

OUTAGE_SECONDS = float(os.environ.get("OVERLAY_OUTAGE_SECONDS", "4"))

VIP, NODE_PORT = "10.96.7.1", 30080
EVERYWHERE: dict[str, Any] = {
    "type": "LoadBalancer",
    "externalIPs": [EXTERNAL],
    "ports": [
        {"name": "tcp", "port": 80, "targetPort": 8080, "nodePort": NODE_PORT},
        {"name": "udp", "port": 80, "targetPort": 8080, "nodePort": NODE_PORT, "protocol": "UDP"},
    ],
}
INGRESS = {"ingress": [{"ip": BALANCER}]}
SOURCES = {"a pod": "n1p1", "the node": "n1", "outside": "etcd"}


@pytest.fixture(scope="module", params=MODES)
def lab(request: pytest.FixtureRequest) -> Iterator[ServicesLab]:
    """One for all tests of a mode; each leaves pods and Services as they were."""
    if request.param == "ipvs":
        needs_ipvs()
    with (
        Lab.running(LabSpec(name=f"s{os.getpid()}", nodes=2, pods=2)) as made,
        services_lab(made, request.param) as lab,
    ):
        yield lab


@pytest.fixture
def services(lab: ServicesLab) -> Iterator[ServicesLab]:
    yield lab
    for name in list(lab.services):
        lab.delete_service(name)


def places(lab: ServicesLab) -> list[tuple[str, int]]:
    """Every address of the Service, and two that are none."""
    own = str(lab.lab.node("n1").address)
    return [(VIP, 80), (VIP, 81), ("10.96.99.99", 80), (EXTERNAL, 80), (BALANCER, 80), (own, NODE_PORT)]


def check(lab: ServicesLab, source: str, node: str, address: str, port: int, protocol: str = "TCP") -> None:
    """One cell: many connections, and what each met, against the oracle."""
    expected = lab.meets(source, node, address, port, protocol)
    what = f"{source} → {address}:{port}/{protocol}"
    if expected.answer is not Answer.BALANCE:
        patience = 0.5 if expected.answer is Answer.DROP else 10.0
        (answer,) = lab.client(source).ask(protocol, address, port, patience=patience)
        assert answer == ("refused" if expected.answer is Answer.REJECT else "silence"), what
        return
    names = {lab.pod_named(each.address): each in expected.masqueraded for each in expected.backends}
    met: dict[str, str] = {}
    for _ in range(10):
        for each in lab.client(source).ask(protocol, address, port, count=3 * len(names)):
            assert isinstance(each, dict), f"{what}: {each}"
            met[each["name"]] = each["client"]
        if met.keys() >= names.keys():
            break
    assert met.keys() == names.keys(), what
    if not sees_clients(lab, source):
        return
    hidden = {name: client != str(lab.source(source)) for name, client in met.items()}
    assert hidden == names, f"{what}: saw {met}"


def skip_for(lab: ServicesLab, **reasons: str) -> None:
    """Modes, and why what is asked is not theirs."""
    if lab.mode in reasons:
        pytest.skip(reasons[lab.mode])


def sees_clients(lab: ServicesLab, source: str) -> bool:
    """Whether what a backend sees is the oracle's: at the socket nobody is hidden, nor by whom it is chosen for; and a
    worker connects from the node."""
    return lab.mode != "userspace" and (lab.mode != "ebpf" or lab.node_of(source) is None)


@pytest.mark.parametrize("policies", list(itertools.product(("Cluster", "Local"), repeat=2)), ids="-".join)
@pytest.mark.parametrize("local", ["here-and-there", "there", "nowhere"])
def test_every_source_meets_what_the_table_says_at_every_address(
    services: ServicesLab, policies: tuple[str, str], local: str
) -> None:
    if services.mode in ("iptables", "userspace") and len({*policies}) > 1 and "OVERLAY_SERVICES" not in os.environ:
        pytest.skip("OVERLAY_SERVICES=all asks for the whole matrix of this mode")
    selector = {"here-and-there": {"app": "web"}, "there": {"name": "n2p1"}, "nowhere": {"app": "none"}}[local]
    internal, external = policies
    services.put_service(
        "web", INGRESS, **EVERYWHERE, clusterIP=VIP, selector=selector,
        internalTrafficPolicy=internal, externalTrafficPolicy=external,
        loadBalancerSourceRanges=["10.0.0.0/16", "172.31.0.1/32"],
    )  # fmt: skip

    services.table("n1")  # before the threads: msgspec looks at a type when it is first decoded, and in one thread only

    def from_one(source: str) -> None:
        for address, port in places(services):
            check(services, source, "n1", address, port)
            if (address in (VIP, BALANCER) and port == 80) or port == NODE_PORT:
                check(services, source, "n1", address, port, "UDP")

    with ThreadPoolExecutor() as pool:
        list(pool.map(from_one, SOURCES.values()))


def test_a_client_keeps_its_pod_for_as_long_as_the_service_says(services: ServicesLab) -> None:
    seconds = 3
    # IPVS knows a client for as long as it knows one of its connections, which is two minutes after their end.
    pause = 200.0 if services.mode == "ipvs" else 0.5
    spec = {**EVERYWHERE, "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": seconds}}}
    services.put_service("web", **spec, clusterIP=VIP, sessionAffinity="ClientIP")
    own = str(services.lab.node("n1").address)
    for source, address, port in (("n1p2", VIP, 80), ("etcd", own, NODE_PORT)):
        for protocol in ("TCP", "UDP"):
            names = {each["name"] for each in services.client(source).ask(protocol, address, port, count=12)}
            assert len(names) == 1, f"{source} → {address}:{port}/{protocol}"

    def all_met() -> bool:
        time.sleep(seconds + pause)
        met.update(each["name"] for each in services.client("n1p2").ask("TCP", VIP, 80))
        return len(met) > 1

    met: set[str] = set()
    assert poll(all_met, LIMIT + 4 * pause), "another pod, once the time has passed"


@pytest.mark.parametrize("affinity", ["None", "ClientIP"])
def test_a_pod_that_goes_takes_no_new_connection_and_no_flow_along(services: ServicesLab, affinity: str) -> None:
    """A client of UDP that never changes its port is a resolver, or statsd."""
    skip_for(services, ebpf="a flow is a socket, and these clients open one a question: see test_services_ebpf.py")
    services.put_service("web", **EVERYWHERE, clusterIP=VIP, sessionAffinity=affinity)
    client = services.client("n1p2")
    answers: list[Any] = []

    def answered() -> bool:
        """Not by what a flow of this port was told before, which may be late."""
        answers[:] = client.ask("UDP", VIP, 80, source_port=12345)
        return isinstance(answers[0], dict)

    assert poll(answered, LIMIT), answers
    first = answers[0]["name"]
    again = client.ask("UDP", VIP, 80, source_port=12345, count=5)
    assert {each["name"] for each in again} == {first}, "a flow stays where it is"
    services.put_pod(first, ready=False)
    services.wait_for_pods()
    names = {each["name"] for each in client.ask("TCP", VIP, 80, count=20)}
    assert first not in names

    def moved() -> bool:
        (answer,) = client.ask("UDP", VIP, 80, source_port=12345, patience=2.0)
        return isinstance(answer, dict) and answer["name"] != first

    assert poll(moved, LIMIT), "the flow is given another pod"
    for name in services.pods:
        services.put_pod(name, ready=False)
    services.wait_for_pods()
    assert client.ask("TCP", VIP, 80) == ["refused"]
    assert poll(lambda: client.ask("UDP", VIP, 80, source_port=12345, patience=2.0) == ["refused"], LIMIT)
    for name in services.pods:
        services.put_pod(name)
    services.wait_for_pods()
    assert isinstance(client.ask("UDP", VIP, 80, source_port=12345)[0], dict), "a Service that has endpoints again"


def test_pods_that_terminate_serve_where_no_other_does(services: ServicesLab) -> None:
    services.put_service("web", clusterIP=VIP)
    client = services.client("n1p2")
    services.put_pod("n2p1", terminating=True)
    services.wait_for_pods()
    assert "n2p1" not in {each["name"] for each in client.ask("TCP", VIP, 80, count=30)}
    for name in ("n1p1", "n1p2", "n2p2"):
        services.put_pod(name, ready=False)
    services.wait_for_pods()
    assert {each["name"] for each in client.ask("TCP", VIP, 80, count=4)} == {"n2p1"}
    for name in services.pods:
        services.put_pod(name)
    services.wait_for_pods()


def test_nothing_stops_when_the_daemon_is_killed_and_started_again_it_takes_over(services: ServicesLab) -> None:
    skip_for(
        services,
        userspace="without the daemon nothing answers",
        iptables="its rules are compared in test_services_iptables.py",
    )
    lab, node = services, services.lab.node("n1")
    lab.put_service("web", **EVERYWHERE, clusterIP=VIP)
    time.sleep(LINGER + 1.0)  # what Services of other tests left goes only then
    before = rules(lab)
    lab.daemons["n1"].kill()
    answers = lab.client("n1p1").ask("TCP", VIP, 80, count=50)
    assert all(isinstance(each, dict) for each in answers)
    # Meanwhile a Service goes and another comes.
    del lab.daemons["n1"]
    lab.put_service("new", clusterIP="10.96.7.7")
    with Steadily(lab, "n1p1", VIP, 80) as steadily:
        lab.start_daemon(node)
        lab.delete_service("new")
        assert poll(lambda: lab.report("n1")["proxy"].get("ports") == 2, LIMIT), lab.report("n1")
    assert steadily.faults == []
    assert steadily.asked > 0
    assert poll(lambda: rules(lab) == before, LIMIT), "what it does not need any more goes a little later"


def rules(lab: ServicesLab) -> list[str]:
    """All that n1 has in nftables; elements are listed in no order."""
    listed = lab.lab.node("n1").run("nft", "list", "table", "ip", "overlay-services").stdout
    for mark in (",", "elements = {", "}"):
        listed = listed.replace(mark, "\n")
    return sorted(line.strip() for line in listed.splitlines())


def test_what_somebody_flushes_is_made_again(services: ServicesLab) -> None:
    services.put_service("web", clusterIP=VIP)
    node = services.lab.node("n1")
    node.run("nft", "flush", "ruleset")
    assert services.client("n1p1").ask("TCP", VIP, 80, patience=1.0) != [{}]
    # Any change makes it look; else it looks every half a minute.
    assert poll(lambda: _answers(services), 2 * LIMIT), services.report("n1")


def _answers(services: ServicesLab) -> bool:
    return isinstance(services.client("n1p1").ask("TCP", VIP, 80, patience=1.0)[0], dict)


def test_a_node_port_that_a_process_has_is_told(services: ServicesLab) -> None:
    process = services.serve("n1", NODE_PORT)
    services.put_service("web", **EVERYWHERE, clusterIP=VIP)
    try:
        told = f"node port {NODE_PORT}/TCP of Service default/web:tcp"
        assert poll(lambda: shown(services.report("n1"), "node-port", told), LIMIT), services.report("n1")
        check(services, "etcd", "n1", str(services.lab.node("n1").address), NODE_PORT)
    finally:
        process.kill()


def test_an_unknown_scheduler_is_told_and_a_known_one_is_followed(services: ServicesLab) -> None:
    skip_for(services, ebpf="it has no other than random")
    services.put_service("web", clusterIP=VIP, scheduler="rr")
    counted = Counter(each["name"] for each in services.client("n1p2").ask("TCP", VIP, 80, count=40))
    assert set(counted.values()) == {10}, "round robin"
    services.put_service("odd", clusterIP="10.96.7.3", scheduler="magic")
    assert poll(lambda: shown(services.report("n1"), "proxy-mode", "magic"), LIMIT)
    check(services, "n1p1", "n1", "10.96.7.3", 80)


def test_where_netfilter_sees_bridges_a_pod_is_given_its_neighbours_and_itself(services: ServicesLab) -> None:
    node = services.lab.node("n1")
    if node.run("test", "-e", BRIDGES, check=False).returncode:
        pytest.skip("this kernel has no br_netfilter")
    services.put_service("web", clusterIP=VIP)

    def all_agree() -> bool:
        """The daemon looks at the machine once it is told that something has changed."""
        try:
            for protocol in ("TCP", "UDP"):
                check(services, "n1p1", "n1", VIP, 80, protocol)
        except AssertionError:
            return False
        return True

    try:
        services.set_bridges(node, seen=True)
        node.run("ip", "address", "add", "192.0.2.1/32", "dev", "lo")
        assert poll(all_agree, LIMIT)
    finally:
        services.set_bridges(node, seen=False)
        node.run("ip", "address", "del", "192.0.2.1/32", "dev", "lo")
    assert poll(all_agree, LIMIT), "and back"


def test_a_pod_that_is_killed_costs_new_connections_a_second_at_most(services: ServicesLab) -> None:
    services.put_service("web", clusterIP=VIP)
    grace = limit(1.0, 10.0)
    try:
        with ExitStack() as stack:
            clients = [stack.enter_context(Steadily(services, each, VIP, 80)) for each in ("n1p1", "n1", "n2", "n2p1")]
            assert poll(lambda: all(each.asked > 20 for each in clients), LIMIT)
            died = time.monotonic()
            services.servers["n1p2"].kill()
            services.remove_pod("n1p2")
            lasting(grace)
            go_on(clients)
        for each in clients:
            assert each.later_than(died + grace) == []
            assert all(fault.at > died - 2.0 for fault in each.faults), "none before; one may have begun shortly before"
    finally:
        services.serve("n1p2")
        services.put_pod("n1p2")
        services.wait_for_pods()


def test_a_node_that_dies_costs_new_connections_until_its_lease_ends(services: ServicesLab) -> None:
    if services.mode in ("iptables", "userspace") and "OVERLAY_SERVICES" not in os.environ:
        pytest.skip("OVERLAY_SERVICES=all asks for it in this mode")
    ttl, dead = 5, services.lab.node("n2")
    services.put_service("web", clusterIP=VIP)
    services.daemons.pop("n2").kill()
    services.start_daemon(dead, "--services-lease-ttl", str(ttl))
    services.put_service("another", clusterIP="10.96.7.9")  # it is done once both nodes do it
    there = services.report("n1")["proxy"]["backends"]
    with ExitStack() as stack:
        clients = [stack.enter_context(Steadily(services, each, VIP, 80)) for each in ("n1p1", "n1")]
        died = time.monotonic()
        services.daemons.pop("n2").kill()
        dead.run("ip", "link", "set", "eth0", "down")
        try:
            assert poll(lambda: services.report("n1")["proxy"].get("backends") == there // 2, LIMIT)
            noticed = time.monotonic()
            assert noticed - died <= ttl + limit(2.0, 30.0)
            go_on(clients)
        finally:
            dead.run("ip", "link", "set", "eth0", "up")
            services.start_daemon(dead)
    if services.mode != "userspace":  # a dial that fails moves on
        assert any(each.later_than(died) for each in clients), "half of the endpoints were out of reach"
    for each in clients:
        assert each.later_than(noticed) == []
    services.wait_for_pods()


def test_nothing_fails_while_etcd_is_away_and_the_daemon_is_killed(services: ServicesLab) -> None:
    ports = [{"name": "tcp", "port": 80, "targetPort": PORT}, {"name": "echo", "port": 81, "targetPort": ECHO_PORT}]
    # An address of its own: pods and nodes remember for minutes the connections that a node's death has left half open,
    # and what comes from the same port to the same address is taken for one of them.
    address = "10.96.8.1"
    services.put_service("web", clusterIP=address, ports=ports)
    with ExitStack() as stack:
        patience, sources = limit(2.0, 10.0), ("n1p1", "n1", "n2p1")
        clients = [stack.enter_context(Steadily(services, each, address, 80, patience)) for each in sources]
        held = [stack.enter_context(Held(services, each, address, 81)) for each in sources]
        services.lab.stop_etcd()
        lasting(OUTAGE_SECONDS / 2)
        if services.mode != "userspace":  # without the daemon nothing answers there
            services.daemons.pop("n1").kill()
            services.start_daemon(services.lab.node("n1"))
        lasting(OUTAGE_SECONDS / 2)
        services.lab.start_etcd()
        services.put_service("new", clusterIP="10.96.7.9")
        services.wait_for_pods()
        go_on(clients)
    assert [each.faults for each in clients] == [[]] * 3
    assert [each.outcome["fault"] for each in held] == [""] * 3
    assert all(each.outcome["answered"] > 10 for each in held)
    check(services, "n1p1", "n1", "10.96.7.9", 80)


def go_on(clients: list[Steadily]) -> None:
    """Until each has asked so and so often from now on."""
    asked = [each.asked for each in clients]
    assert poll(lambda: all(each.asked > was + 20 for each, was in zip(clients, asked, strict=True)), LIMIT)


def lasting(seconds: float) -> None:
    """How long something lasts is what is tested, so here time itself is waited for."""
    time.sleep(seconds)


OWN_NETWORK = ("172.30.0.1", "172.30.0.2")
"""Of a bridge of n1, and of the container on it."""


@pytest.fixture(params=[DOCKER_26, DOCKER_28], ids=["docker-26", "docker-28"])
def own_network(request: pytest.FixtureRequest, services: ServicesLab) -> Iterator[Client]:
    """A container on a Docker network of its own, on n1, which has Docker's rules."""
    node = services.lab.node("n1")
    rules = re.sub(r"\bd1\b", "docker0", re.sub(r"br-\w+", "br-own", request.param))
    before = node.run("iptables-save").stdout
    gateway, address = OWN_NETWORK
    with namespace("own") as own:
        try:
            for words in (
                "link add br-own type bridge", "link set br-own up", f"address add {gateway}/24 dev br-own",
                f"link add to-own type veth peer name eth0 netns {own.name}", "link set to-own master br-own up",
            ):  # fmt: skip
                node.run("ip", *words.split())
            own.batch(f"address add {address}/24 dev eth0\nlink set eth0 up\nroute add default via {gateway}")
            restore(node, "*filter" + rules.partition("*filter")[2], "--noflush")
            yield services.client_in(own.name, "n1")
        finally:
            restore(node, before)
            for link in ("to-own", "br-own"):
                node.run("ip", "link", "del", link)


def restore(node: Node, rules: str, *flags: str) -> None:
    entering = ("nsenter", f"--net=/run/netns/{node.namespace}")
    subprocess.run([*entering, "iptables-restore", *flags], input=rules, text=True, check=True)


def test_a_container_on_a_network_of_its_own_reaches_services_and_no_pod_directly(
    services: ServicesLab, own_network: Client
) -> None:
    node, pods = services.lab.node("n1"), {"n1p1", "n1p2"}
    if services.mode in ("iptables", "userspace") and "OVERLAY_SERVICES" not in os.environ:
        pytest.skip("OVERLAY_SERVICES=all asks for it in this mode")
    services.put_service("web", INGRESS, **EVERYWHERE, clusterIP=VIP)
    vip, port = (VIP, 80), (str(node.address), NODE_PORT)

    def met(address: str, port: int, protocol: str = "TCP") -> set[str]:
        answers = own_network.ask(protocol, address, port, count=12, patience=0.4)
        return {each["name"] if isinstance(each, dict) else each for each in answers}

    def reaches(address: str, port: int, protocol: str) -> bool:
        return met(address, port, protocol) >= pods

    def directly() -> list[str]:
        at = [services.pods[name]["status"]["podIP"] for name in pods]
        return [each for address in at for each in own_network.ask("TCP", address, PORT, patience=0.5)]

    assert poll(lambda: directly() == ["silence"] * 2, LIMIT), "the agent's own rules stand behind Docker's isolation"
    for where in (vip, port, (EXTERNAL, 80)):
        for protocol in ("TCP", "UDP"):
            assert poll(partial(reaches, *where, protocol), LIMIT), (where, protocol)
    assert met(*vip) <= services.pods.keys(), "each is answered"

    denial = ("DOCKER-USER", "-s", OWN_NETWORK[1], "-j", "DROP")
    node.run("iptables", "-I", *denial)
    if services.mode not in ("ipvs", "userspace"):  # there they come to the node itself, and DOCKER-USER is not asked
        assert not met(*vip) & services.pods.keys(), "what operators deny is denied"
    node.run("iptables", "-D", *denial)
    for chain in reversed(dockers_jumps(node)):  # as Docker does when it makes a network
        node.run("iptables", "-D", "FORWARD", "-j", chain)
        node.run("iptables", "-I", "FORWARD", "-j", chain)
    node.run("ip", "address", "add", "192.0.2.1/32", "dev", "br-own")
    assert poll(lambda: pods <= met(*vip) <= services.pods.keys(), LIMIT)
    assert directly() == ["silence"] * 2


def dockers_jumps(node: Node) -> list[str]:
    listed = node.run("iptables", "-S", "FORWARD").stdout
    return re.findall(r"^-A FORWARD -j (DOCKER-\S+)$", listed, re.MULTILINE)


def test_cleanup_leaves_nothing(services: ServicesLab) -> None:
    skip_for(services, iptables="its chains are looked for in test_services_iptables.py")
    services.put_service("web", **EVERYWHERE, clusterIP=VIP)
    node = services.lab.node("n2")
    services.daemons.pop("n2").kill()
    assert "overlay-services" in node.run("nft", "list", "tables").stdout
    flags = ("--subnet-file", "/nonexistent/subnet.env", "--state-dir", str(node.files.directory / "none"))
    node.run(overlay_command(), "cleanup", *flags)
    assert "overlay-services" not in node.run("nft", "list", "tables").stdout
    assert DEVICE not in node.run("ip", "link").stdout
    if services.mode == "ipvs":
        assert "->" not in node.run("sed", "1,3d", "/proc/net/ip_vs").stdout, "no virtual service has a server"
