"""README's page alone: what it says to type is typed, on machines that have nothing of ours; then containers talk.

n1 172.31.0.1      n2 172.31.0.2          etcd 172.31.0.100       each with a systemd of its own
     │                  │                      │
     └──────────────────┴── bridge ────────────┘

On this Debian, and with ``OVERLAY_DOCKER_ROOTS="trixie forky"`` on those of roots, with their Python, systemd, etcd,
iptables and Docker (28 in forky). There is no way out of there: instead of installing packages it is asked whether they
are there, and ``make install`` gets what the index has as wheels.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from overlay.lab.cluster import Lab
from overlay.lab.topology import LabSpec
from tests.support import roots
from tests.support.docker import Container, bridge, file_taken_by, move_file, start_container, start_docker
from tests.support.site import SOURCE, own_folder, subnet
from tests.support.systemd import Booted, booted, wait_until

pytestmark = pytest.mark.root

HERE = "this Debian"

SUITES = (HERE, *os.environ.get("OVERLAY_DOCKER_ROOTS", "").split())

CLONE, WHEELS = "/root/overlay", "/root/wheels"

PATIENCE = 120


def pages() -> list[list[str]]:
    """The commands of each example in README's section on a cluster from nothing."""
    section = (SOURCE / "README.md").read_text().split("## From nothing to containers")[1].split("\n## ")[0]
    examples = re.findall(r"```console\n(.*?)```", section, re.DOTALL)
    return [[line[2:] for line in example.splitlines() if line.startswith("# ")] for example in examples]


@dataclass(frozen=True)
class Cluster:
    """Machines on which README's page was typed, and a container on each node."""

    etcd: Booted
    nodes: tuple[Booted, ...]
    containers: tuple[Container, ...]


def type_in(machine: Booted, commands: list[str]) -> None:
    for command in commands:
        if command.startswith("apt-get install"):
            packages = [word for word in command.split()[2:] if not word.startswith("-")]
            machine.run("dpkg", "--status", *packages)
            continue
        variables = f"export WHEELS={WHEELS}; " if command.startswith("make install") else ""
        last = command.startswith("overlay status")  # its exit status is for later, when all is at rest
        machine.run("sh", "-ec", f"cd {CLONE}; {variables}{command}", check=not last, timeout=300)


@pytest.fixture(scope="module", params=SUITES)
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    root = Path("/") if request.param == HERE else roots.build(request.param)
    with ExitStack() as stack:
        folder = stack.enter_context(own_folder())
        bring(root, folder / "clone")
        lab = stack.enter_context(Lab.running(LabSpec(name=f"rm{os.getpid()}", nodes=2, pods=0, agents=False)))
        machines = []
        for machine in (lab.etcd, *lab.nodes):
            machine.run("ip", "link", "delete", "docker0", check=False)
            machine.run("sysctl", "-qw", "net.ipv4.ip_forward=0")
            place = {"namespace": machine.namespace, "folder": folder / machine.name}
            boot = booted(machine.namespace, **place, stage=folder / "clone", root=root)  # type: ignore[arg-type]
            machines.append(stack.enter_context(boot))
        etcd, *nodes = machines
        for_etcd, for_nodes, once, then = pages()
        type_in(etcd, for_etcd)
        for node in nodes:
            type_in(node, for_nodes)
        type_in(nodes[-1], once)
        for node in nodes:
            type_in(node, then)
            start_docker(node)
        containers = tuple(start_container(node, f"c{number}") for number, node in enumerate(nodes, 1))
        yield Cluster(etcd, tuple(nodes), containers)


def bring(root: Path, stage: Path) -> None:
    """Puts a clone of this repository, and the index's part of it as wheels, where a booted machine has them."""
    clone, wheels = stage / CLONE.lstrip("/"), stage / WHEELS.lstrip("/")
    for folder in (clone, wheels, stage / "opt"):
        folder.mkdir(parents=True)
    subprocess.run(
        f"git -C {SOURCE} ls-files -z --cached --others --exclude-standard |"
        f" tar -C {SOURCE} --null --ignore-failed-read -T - -c | tar -C {clone} -x",
        shell=True, check=True,
    )  # fmt: skip
    make = ("make", "-C", CLONE, "wheels", f"WHEELS={WHEELS}", "PYTHON=/usr/bin/python3")
    entered = roots.inside(root, *make, binds={clone: CLONE, wheels: WHEELS})
    done = subprocess.run(entered, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def status(node: Booted) -> str:
    """What is wrong, by ``overlay status`` as one types it; "" where it ends with 0."""
    done = node.run("overlay", "status", check=False)
    return "" if done.returncode == 0 else done.stdout + done.stderr


def both_ways(cluster: Cluster) -> None:
    first, second = cluster.containers
    wait_until(lambda: first.reaches(second.address), PATIENCE, "ping from first to second")
    wait_until(lambda: second.reaches(first.address), PATIENCE, "ping from second to first")


def test_containers_reach_each_other(cluster: Cluster) -> None:
    for node, container in zip(cluster.nodes, cluster.containers, strict=True):
        assert bridge(node) == subnet(node)
        assert container.address in subnet(node).network
    both_ways(cluster)
    first, second = cluster.containers
    move_file(first, second, 1_000_000)
    assert file_taken_by(first) == {second.address}
    for node in cluster.nodes:
        wait_until(lambda node=node: status(node) == "", PATIENCE, f"nothing wrong, but: {status(node)}")  # type: ignore[misc]


def test_a_default_deny_of_the_operators_denies(cluster: Cluster) -> None:
    both_ways(cluster)
    first, second = cluster.containers
    second.node.run("iptables", "-I", "DOCKER-USER", "1", "-j", "DROP")
    for _ in range(2):
        assert not first.reaches(second.address)
        second.node.systemctl("restart", "overlay")
    assert not first.reaches(second.address)
    second.node.run("iptables", "-D", "DOCKER-USER", "-j", "DROP")
    both_ways(cluster)


def test_after_docker_and_agents_started_anew(cluster: Cluster) -> None:
    before = [subnet(node) for node in cluster.nodes]
    for node, container in zip(cluster.nodes, cluster.containers, strict=True):
        node.systemctl("restart", "docker", "overlay")
        node.run("docker", "start", container.name)
    assert [subnet(node) for node in cluster.nodes] == before
    both_ways(cluster)


def test_make_uninstall_removes_all_of_it(cluster: Cluster) -> None:
    node = cluster.nodes[0]
    node.run("make", "-C", CLONE, "uninstall", timeout=120)
    assert "flannel0" not in node.run("ip", "link").stdout + node.run("ip", "route").stdout
    assert "FLANNEL" not in node.run("sh", "-c", "iptables-save -t filter; iptables-save -t nat").stdout
    for path in ("/run/flannel", "/run/overlay", "/var/lib/overlay", "/opt/overlay", "/etc/default/overlay"):
        assert node.run("test", "-e", path, check=False).returncode != 0, path
    node.systemctl("restart", "docker")
    assert node.active("docker")
