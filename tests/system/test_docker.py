"""Containers of two nodes reach each other with Docker's own bridge and the agent, and with no rule made by hand."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from ipaddress import IPv4Address
from typing import Any

import pytest

from tests.support.docker import (
    IMAGE,
    Container,
    bridge,
    bridge_mtu,
    file_taken_by,
    move_file,
    start_container,
    start_docker,
)
from tests.support.problems import shown
from tests.support.site import RESYNC_SECONDS, Site, overlay, subnet, wait_for_agent
from tests.support.systemd import Booted, wait_until

pytestmark = pytest.mark.root

MakeSite = Callable[..., Site]

Pair = tuple[Container, Container]


@pytest.fixture
def containers(make_site: MakeSite) -> Pair:
    """Two nodes on which nothing was done but to start Docker, and a container on each."""
    nodes = make_site(nodes=2).nodes
    for node in nodes:
        start_docker(node)
    first, second = (start_container(node, f"c{number}", restart="always") for number, node in enumerate(nodes, 1))
    return first, second


def assert_they_talk(containers: Pair, within: float = 2 * RESYNC_SECONDS + 5) -> None:
    """Ping both ways, and a file of a megabyte across."""
    first, second = containers
    wait_until(lambda: first.reaches(second.address), within, "ping from first to second")
    wait_until(lambda: second.reaches(first.address), within, "ping from second to first")
    move_file(first, second, 1_000_000)


def rules(node: Booted) -> str:
    return node.run("sh", "-c", "iptables-save -t filter; iptables-save -t nat").stdout


def test_docker_gets_its_addresses_from_the_lease(containers: Pair) -> None:
    for container in containers:
        node = container.node
        assert bridge(node) == subnet(node)
        assert container.address in subnet(node).network
        assert bridge_mtu(container) == 1472
        assert "--ip-masq=false" in node.read("/run/flannel/docker")


def test_containers_talk_although_docker_drops_what_is_forwarded(containers: Pair) -> None:
    assert ":FORWARD DROP" in rules(containers[0].node)
    assert_they_talk(containers)


def report(node: Booted) -> dict[str, Any]:
    """What the agent says of itself; of nothing wrong while there is none."""
    said: dict[str, Any] = json.loads(overlay(node, "status", "--json", check=False) or '{"problem_details": []}')
    return said


def problems(node: Booted) -> tuple[int, str]:
    """Exit status of ``overlay status``, and what it names."""
    done = node.run("overlay", "status", "--json", check=False)
    return done.returncode, " ".join(json.loads(done.stdout or '{"problems": []}')["problems"])


def test_a_default_deny_of_the_operators_denies(containers: Pair) -> None:
    """And before that nothing is wrong with this Docker, whatever version it is."""
    first, second = containers
    assert_they_talk(containers)
    for container in containers:
        wait_until(lambda node=container.node: problems(node) == (0, ""), 60, "a status without a problem")  # type: ignore[misc]
    second.node.run("iptables", "-I", "DOCKER-USER", "1", "-j", "DROP")
    for _ in range(3):
        assert not first.reaches(second.address)
        second.node.systemctl("restart", "overlay")
    second.node.run("iptables", "-D", "DOCKER-USER", "-j", "DROP")
    assert_they_talk(containers)


def test_a_docker_that_runs_without_our_options_is_told_of(make_site: MakeSite) -> None:
    (node,) = make_site(nodes=1).nodes
    start = "dockerd -H fd:// --containerd=/run/containerd/containerd.sock"
    drop_in = "/etc/systemd/system/docker.service.d/zz-test.conf"
    node.write(drop_in, f"[Service]\nExecStart=\nExecStart={start}\n")
    node.systemctl("daemon-reload")
    start_docker(node)
    wait_until(lambda: shown(report(node), "docker-subnet", "systemctl restart docker"), 60, "the problem")
    assert problems(node)[0] == 1
    wait_until(lambda: "docker-subnet: " in node.journal("overlay"), 20, "the problem in the log")
    node.run("rm", drop_in)
    node.systemctl("daemon-reload")
    node.systemctl("restart", "docker")
    wait_until(lambda: problems(node) == (0, ""), 60, "a status without a problem")

    # With its options, and without the address that they gave its bridge: Docker itself does not notice.
    node.run("ip", "address", "flush", "dev", "docker0")
    wait_until(lambda: shown(report(node), "bridge-address", "docker0", "systemctl restart docker"), 60, "the problem")
    node.systemctl("restart", "docker")
    assert bridge(node) == subnet(node)
    wait_until(lambda: problems(node) == (0, ""), 60, "a status without a problem")


def test_an_agent_that_is_killed_restarts_nothing_of_dockers(containers: Pair) -> None:
    node = containers[0].node
    docker, agent = node.main_pid("docker"), node.main_pid("overlay")
    node.kill(agent, signal.SIGKILL)
    wait_until(lambda: node.main_pid("overlay") not in (0, agent), 30, "another agent")
    wait_for_agent(node)
    assert node.main_pid("docker") == docker
    assert containers[0].running
    assert_they_talk(containers)


def test_restarted_agents_keep_subnets_and_containers(containers: Pair) -> None:
    before = [(container.address, subnet(container.node)) for container in containers]
    for container in containers:
        container.node.systemctl("restart", "overlay")
    assert [(container.address, subnet(container.node)) for container in containers] == before
    assert_they_talk(containers)


def test_a_restarted_docker_has_the_same_options_once(containers: Pair) -> None:
    node = containers[0].node
    before = node.read("/run/flannel/docker")
    node.systemctl("restart", "docker")
    wait_until(lambda: containers[0].running, 30, "the container, which Docker starts again")
    assert node.read("/run/flannel/docker") == before
    assert before.count("--bip") == 1
    assert_they_talk(containers)


def test_flushed_rules_come_back_by_themselves(containers: Pair) -> None:
    node = containers[1].node
    assert_they_talk(containers)
    node.run("iptables", "-F", "FORWARD")
    node.run("iptables", "-F", "FLANNEL-FWD")
    node.run("iptables", "-t", "nat", "-F")
    wait_until(lambda: "-A FORWARD" in rules(node) and "-A POSTROUTING" in rules(node), 2 * RESYNC_SECONDS + 5, "rules")
    assert rules(node).count("-j FLANNEL-FWD") == 1
    assert rules(node).count("-j FLANNEL-POSTRTG") == 1
    assert_they_talk(containers)


def test_containers_see_each_others_own_addresses(containers: Pair) -> None:
    """Masquerading is for what leaves the overlay, not for what stays in it."""
    first, second = containers
    assert_they_talk(containers)
    assert file_taken_by(first) == {second.address}


def test_another_subnet_readdresses_docker(make_site: MakeSite) -> None:
    """An operator reserves another subnet for the node: Docker follows, and only Docker of that node."""
    site = make_site(nodes=2)
    for node in site.nodes:
        start_docker(node)
    moved, kept = site.nodes
    docker_that_stays = kept.main_pid("docker")
    site.etcdctl("del", "--prefix", f"/coreos.com/network/subnets/{subnet(moved).network.network_address}-")
    overlay(kept, "reserve", "10.0.200.0/24", "--public-ip", "172.31.0.1")
    moved.systemctl("restart", "overlay")
    wait_until(lambda: str(subnet(moved)) == "10.0.200.1/24", 30, "the reserved subnet")
    wait_until(lambda: bridge(moved) == subnet(moved), 60, "docker0 in the new subnet")
    wait_until(lambda: moved.active("docker"), 30, "an active Docker")
    assert kept.main_pid("docker") == docker_that_stays
    containers = start_container(moved, "c1"), start_container(kept, "c2")
    assert str(containers[0].address).startswith("10.0.200.")
    assert_they_talk(containers)


def test_a_docker_that_keeps_its_containers_gets_the_subnet_once_none_is_left(make_site: MakeSite) -> None:
    """With live-restore the old subnet stays as long as a container runs: that is said, and then mended."""
    site = make_site(nodes=1, files={"/etc/docker/daemon.json": '{"live-restore": true}'})
    (node,) = site.nodes
    start_docker(node)
    container = start_container(node, "c1", restart="always")
    old = subnet(node)
    site.etcdctl("del", "--prefix", f"/coreos.com/network/subnets/{old.network.network_address}-")
    overlay(node, "reserve", "10.0.200.0/24", "--public-ip", "172.31.0.1")
    node.systemctl("restart", "overlay")
    wait_until(lambda: "10.0.200.1/24" in node.read("/run/flannel/docker"), 60, "Docker, told of the new subnet")
    wait_until(lambda: "stop all of them" in problems(node)[1], 60, "the remedy in the status")
    assert bridge(node) == old
    assert container.running
    docker = node.main_pid("docker")
    node.systemctl("restart", "overlay")
    wait_until(lambda: "stop all of them" in problems(node)[1], 60, "the remedy, from the next agent too")
    assert node.main_pid("docker") == docker, "a restart that changes nothing"
    node.run("docker", "stop", "--time=0", "c1")
    wait_until(lambda: str(bridge(node)) == "10.0.200.1/24", 90, "docker0 in the new subnet")
    wait_until(lambda: problems(node) == (0, ""), 60, "a status without a problem")
    wait_until(lambda: container.running, 30, "the container, which Docker starts again")
    assert container.address in subnet(node).network
    assert node.run("test", "-e", "/run/overlay/docker-stale", check=False).returncode != 0


def test_a_subnet_that_changes_often_does_not_end_docker(make_site: MakeSite) -> None:
    """Debian's unit starts Docker three times a minute, and then no more."""
    site = make_site(nodes=1)
    (node,) = site.nodes
    start_docker(node)
    assert node.show("docker", "StartLimitBurst") == "3"
    for number in range(201, 205):
        site.etcdctl("del", "--prefix", f"/coreos.com/network/subnets/{subnet(node).network.network_address}-")
        overlay(node, "reserve", f"10.0.{number}.0/24", "--public-ip", "172.31.0.1")
        node.systemctl("restart", "overlay")
        wait_until(lambda: str(bridge(node)) == f"10.0.{number}.1/24", 60, f"docker0 in 10.0.{number}.0/24")  # noqa: B023
        wait_until(lambda: node.active("docker"), 30, "an active Docker")


def test_networks_of_the_operators_own_instead_of_dockers_bridge(make_site: MakeSite) -> None:
    """With "bridge": "none" Docker is not told of a subnet, which it would refuse; a network made in it is reached."""
    first, second = make_site(nodes=2, files={"/etc/docker/daemon.json": '{"bridge": "none"}'}).nodes
    for node in (first, second):
        start_docker(node)
        assert "--bip" not in node.read("/run/flannel/docker")
        assert "--mtu=1472" in node.read("/run/flannel/docker")
        make = ("docker", "network", "create", f"--subnet={subnet(node).network}", f"--gateway={subnet(node).ip}")
        node.run(*make, "--opt=com.docker.network.driver.mtu=1472", "own")
        node.run("docker", "run", "--detach", "--init", "--network=own", "--name=c1", IMAGE, "sleep", "86400")
    form = "{{.NetworkSettings.Networks.own.IPAddress}}"
    target = IPv4Address(second.run("docker", "inspect", "--format", form, "c1").stdout.strip())
    assert target in subnet(second).network
    wait_until(lambda: Container(first, "c1").reaches(target), 60, "ping from network to network")
    assert Container(first, "c1").run("cat", "/sys/class/net/eth0/mtu").strip() == "1472"
    for node in (first, second):
        wait_until(lambda node=node: problems(node) == (0, ""), 60, "a status without a problem")  # type: ignore[misc]


def test_a_docker_that_is_told_in_its_file_too_starts(make_site: MakeSite) -> None:
    """Docker ends at once with an option that it is given twice: what its file has it is not told again."""
    file = '{"mtu": 1400, "ip-masq": false, "bip": "172.19.0.1/16"}'
    (node,) = make_site(nodes=1, files={"/etc/docker/daemon.json": file}).nodes
    start_docker(node)
    told = node.read("/run/flannel/docker")
    assert not any(option in told for option in ("--mtu", "--ip-masq", "--bip"))
    wait_until(lambda: "take bip out of Docker's daemon.json" in problems(node)[1], 60, "a problem")
    node.run("sh", "-c", "echo '{\"mtu\": 1400}' > /etc/docker/daemon.json; systemctl restart docker")
    wait_until(lambda: problems(node) == (0, ""), 60, "a status without a problem")
    assert bridge(node) == subnet(node)
