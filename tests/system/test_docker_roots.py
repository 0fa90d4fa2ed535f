"""Docker of other Debians: two nodes of a lab, each with the dockerd of a debootstrapped root, options by ours alone.

    OVERLAY_DOCKER_ROOTS="trixie forky" pytest tests/system/test_docker_roots.py

builds the roots that are missing (``tests.support.roots``). trixie has Docker 26, forky 28 or newer.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from overlay.lab.cluster import Lab
from overlay.lab.machine import Node
from overlay.lab.namespace import call_inside
from overlay.lab.topology import LabSpec
from overlay.services.proxy import passage
from overlay.services.proxy.base import Mode, Surroundings
from overlay.services.proxy.iptables.mode import IptablesMode
from overlay.services.proxy.nftables import Nftables
from overlay.services.table import Backend, Entry, Frontend, Kind, Place, PortName, Table
from tests.support import roots
from tests.support.systemd import wait_until

pytestmark = pytest.mark.root

CGROUPS = Path("/sys/fs/cgroup")

SUITES = os.environ.get("OVERLAY_DOCKER_ROOTS", "").split()

IMAGE = """
set -e
mkdir -p /tmp/image/bin /tmp/image/tmp
cp /bin/busybox /tmp/image/bin
for tool in sh sleep ping httpd wget timeout md5sum dd; do ln -s busybox /tmp/image/bin/$tool; done
tar -C /tmp/image -c . | docker import - image:test
docker run --detach --init --name c1 image:test sleep 86400
docker network create other
docker run --detach --init --name apart --network other image:test sleep 86400
"""


@dataclass(frozen=True)
class Dockered:
    """A node with a Docker of a root; ``pid`` is dockerd's."""

    node: Node
    pid: int

    def run(self, *command: str, check: bool = True) -> str:
        entered = ("nsenter", f"--target={self.pid}", "-m", "-p", "-n", "-i", *command)
        done = subprocess.run(entered, capture_output=True, text=True, timeout=120, check=False)
        assert not check or done.returncode == 0, f"{shlex.join(command)}: {done.stdout}{done.stderr}"
        return done.stdout

    def succeeds(self, *command: str) -> bool:
        return "yes" in self.run("sh", "-c", f"{shlex.join(command)} >/dev/null 2>&1 && echo yes", check=False)

    def address(self, container: str = "c1") -> IPv4Address:
        form = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
        return IPv4Address(self.run("docker", "inspect", "--format", form, container).strip())

    def reaches(self, address: IPv4Address) -> bool:
        return self.succeeds("docker", "exec", "c1", "ping", "-c1", "-W1", str(address))


def options(node: Node, root: Path, folder: Path) -> tuple[list[str], dict[str, str]]:
    """What ``overlay docker-opts`` says to the root's dockerd: its options, and its environment."""
    program, output = folder / "dockerd", folder / "options"
    program.write_text(f'#!/bin/sh\nexec chroot {root} dockerd "$@"\n')
    program.chmod(0o755)
    flags = ("-c", "-k", "OPTIONS", "-f", str(node.files.subnet_file), "-d", str(output), "--dockerd", str(program))
    subprocess.run([sys.executable, "-m", "overlay", "docker-opts", *flags], check=True)
    said = dict(line.split("=", 1) for line in output.read_text().splitlines())
    return said.pop("OPTIONS").strip('" ').split(), {name: value.strip('"') for name, value in said.items()}


def remove_groups(name: str) -> None:
    """Docker leaves the group of its containers' groups, in each hierarchy."""
    groups = [*CGROUPS.glob(name), *CGROUPS.glob(f"*/{name}")]

    def gone() -> bool:
        for group in groups:
            with suppress(OSError):
                group.rmdir()
        return not any(group.exists() for group in groups)

    wait_until(gone, 30, f"removal of the control groups {name}")


@pytest.fixture(scope="module", params=SUITES)
def nodes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Dockered]]:
    root = roots.build(request.param)
    with ExitStack() as stack:
        lab = stack.enter_context(Lab.running(LabSpec(name=f"dr{os.getpid()}", nodes=2, pods=0)))
        found = []
        for node in lab.nodes:
            folder = tmp_path_factory.mktemp("docker")
            node.run("ip", "link", "delete", "docker0", check=False)
            arguments, environment = options(node, root, folder)
            group = f"overlay-test-{node.namespace}"
            stack.callback(remove_groups, group)
            fixed = ("--storage-driver=vfs", "--exec-opt=native.cgroupdriver=cgroupfs", f"--cgroup-parent={group}")
            command = roots.inside(root, "dockerd", *fixed, *arguments)
            log = stack.enter_context((folder / "log").open("wb"))
            process = subprocess.Popen(
                ["nsenter", f"--net=/run/netns/{node.namespace}", "setpriv", "--pdeathsig", "KILL", *command],
                env={**os.environ, **environment},
                stdout=log,
                stderr=log,
            )
            stack.callback(process.wait, 60)
            stack.callback(process.kill)
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
            wait_until(lambda children=children: children.read_text().strip() != "", 30, "dockerd")  # type: ignore[misc]
            here = Dockered(node, int(children.read_text().split()[0]))
            wait_until(lambda here=here: here.succeeds("docker", "version"), 120, "dockerd's answer")  # type: ignore[misc]
            stack.callback(here.run, "docker", "rm", "--force", "c1", "apart", check=False)
            here.run("sh", "-c", IMAGE)
            found.append(here)
        yield found


def test_containers_reach_each_other(nodes: list[Dockered]) -> None:
    first, second = nodes
    wait_until(lambda: first.reaches(second.address()), 60, "ping from first to second")
    wait_until(lambda: second.reaches(first.address()), 60, "ping from second to first")
    first.run("docker", "exec", "c1", "dd", "if=/dev/urandom", "of=/tmp/file", "bs=1000000", "count=1")
    sent = first.run("docker", "exec", "c1", "md5sum", "/tmp/file").split()[0]
    first.run("docker", "exec", "--detach", "c1", "httpd", "-f", "-p", "80", "-h", "/tmp")

    def arrived() -> bool:
        fetch = f"timeout 5 wget -q -O - http://{first.address()}/file | md5sum"
        return second.run("docker", "exec", "c1", "sh", "-c", fetch, check=False).startswith(sent)

    wait_until(arrived, 60, "the file")


def test_a_default_deny_of_the_operators_denies(nodes: list[Dockered]) -> None:
    first, second = nodes
    wait_until(lambda: first.reaches(second.address()), 60, "ping")
    second.node.run("iptables", "-I", "DOCKER-USER", "1", "-j", "DROP")
    assert not first.reaches(second.address())
    wait_until(lambda: not first.reaches(second.address()), 10, "a check of the agent's")
    second.node.run("iptables", "-D", "DOCKER-USER", "-j", "DROP")
    wait_until(lambda: first.reaches(second.address()), 60, "ping")


def test_networks_of_one_docker_stay_apart(nodes: list[Dockered]) -> None:
    first, second = nodes
    assert not first.reaches(first.address("apart"))
    assert first.succeeds("docker", "exec", "apart", "ping", "-c1", "-W1", str(second.address()))


VIP, NETWORK = "10.96.7.1", LabSpec(name="any").network


@pytest.mark.parametrize("kind", [Nftables, IptablesMode])
def test_another_network_reaches_services_and_no_container_directly(
    nodes: list[Dockered], kind: Callable[[Surroundings], Mode], tmp_path: Path
) -> None:
    first, _ = nodes
    pod, name = str(first.address()), PortName("default", "web", "", "TCP")
    first.run("docker", "exec", "c1", "sh", "-c", "echo c1 >/tmp/name; httpd -p 8080 -h /tmp || :")
    shown = first.node.subnet_file
    assert shown is not None
    backends = (Backend(pod, 8080, True),)
    entry = Entry(name, (Frontend(Kind.CLUSTER_IP, VIP, 80),), backends, backends)
    mode = kind(Surroundings(tmp_path))
    place = Place("n1", (NETWORK,), frozenset({str(first.node.address), str(shown.gateway.ip)}))

    def hears(container: str, address: str) -> bool:
        fetch = f"timeout 2 wget -q -O - http://{address}/name"
        return first.run("docker", "exec", container, "sh", "-c", fetch, check=False) == "c1\n"

    def services_alone() -> None:
        assert hears("apart", f"{VIP}:80")
        # Where Docker has just moved its chains, the agent's accept may be before them until its next look.
        wait_until(lambda: not hears("apart", f"{pod}:8080"), 30, "Docker's isolation of what is direct")

    try:
        call_inside(first.node.namespace, lambda: asyncio.run(mode.apply(Table(place, {name: entry}))))
        assert not hears("apart", f"{VIP}:80"), "Docker's isolation"
        assert call_inside(first.node.namespace, passage.keep) == ()
        services_alone()
        denied = ("DOCKER-USER", "-d", pod, "-j", "DROP")
        first.node.run("iptables", "-I", *denied)
        assert not hears("apart", f"{VIP}:80"), "what operators deny is denied"
        first.node.run("iptables", "-D", *denied)
        first.run("docker", "network", "create", "third")
        call_inside(first.node.namespace, passage.keep)
        services_alone()
    finally:
        first.run("docker", "network", "rm", "third", check=False)
        call_inside(first.node.namespace, lambda: asyncio.run(mode.remove()))
        removed = call_inside(first.node.namespace, lambda: list(passage.remove()))
    assert removed == ["iptables filter FORWARD: the rule of Services"]
    assert "overlay services" not in first.node.run("iptables-save").stdout
