"""Nodes go from an earlier version to this one and back, under pings and TCP.

    etcd ──┐
    n1   ──┼── switch        n1p1 and n2p1: pings both ways, and TCP; packets cross at MTU size, GRO at the nodes
    n2   ──┘

On the kernel path nothing is lost by it, though only one of the versions uses FOU, where the kernel has it.
"""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from overlay.datapath.kernel.probe import Answer, probe_fou
from overlay.lab.cluster import Lab
from overlay.lab.machine import Node, Pod
from overlay.lab.process import poll
from overlay.lab.topology import LabSpec
from overlay.lab.traffic import iperf_server
from tests.netns.agents import OVERLAY, PATIENCE
from tests.support import earlier
from tests.support.tunnels import entering, lost

pytestmark = [pytest.mark.root, pytest.mark.etcd]

DEVICE = "flannel0-fou"


@pytest.fixture
def former(tmp_path: Path) -> str:
    """The earlier version's command."""
    (tmp_path / "earlier").mkdir()
    return str(earlier.installed(tmp_path / "earlier"))


@contextmanager
def pinging(source: Pod, target: Pod) -> Iterator[Callable[[], int]]:
    """Pings meanwhile; gives what says, at the end, how many of them were lost."""
    words = [*entering(source.namespace), "ping", "-q", "-i", "0.02", str(target.address)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:

        def ended() -> int:
            time.sleep(0.5)  # the last answer
            process.send_signal(signal.SIGINT)
            return lost(process.communicate(timeout=PATIENCE)[0])

        try:
            yield ended
        finally:
            process.kill()


@contextmanager
def streaming(source: Pod, target: Pod) -> Iterator[Callable[[], list[int]]]:
    """TCP meanwhile; gives what says, at the end, how many bytes went in each of its seconds."""
    words = ["iperf3", "-J", "-b", "50M", "-t", "0", "-i", "1", "-c", str(target.address)]
    with (
        iperf_server(target.namespace),
        subprocess.Popen([*entering(source.namespace), *words], stdout=subprocess.PIPE, text=True) as process,
    ):

        def ended() -> list[int]:
            process.send_signal(signal.SIGINT)
            report = json.loads(process.communicate(timeout=PATIENCE)[0])
            return [each["sum"]["bytes"] for each in report["intervals"][:-1]]

        try:
            yield ended
        finally:
            process.kill()


def datapath(node: Node) -> dict[str, Any]:
    """Of ``overlay status``; empty while no agent answers."""
    shown = node.run(OVERLAY, "status", "--json", f"--state-dir={node.files.directory}", check=False).stdout
    found: dict[str, Any] = json.loads(shown)["datapath"] if shown else {}
    return found


def change_over(node: Node, command: str) -> str:
    """Ends the agent in good order and starts another version's; what its status says once it knows its peer."""
    node.stop_agent()
    node.launch_agent(command=command).wait(PATIENCE)
    assert poll(lambda: "1 subnets" in datapath(node).get("detail", ""), PATIENCE)
    return str(datapath(node)["detail"])


def uses_fou(node: Node, detail: str) -> bool:
    """All of it, or nothing of it."""
    port = "port 8285" in node.run("ip", "fou", "show", check=False).stdout
    device = node.run("ip", "link", "show", DEVICE, check=False).returncode == 0
    said = f"unwrapped by FOU ({DEVICE})" in detail
    assert port == device == said, (port, device, detail)
    return said


def test_to_this_version_and_back_nothing_is_lost(lab_name: str, former: str) -> None:
    possible = probe_fou().answer is Answer.YES
    spec = LabSpec(name=lab_name, nodes=2, pods=1, wire=True, gro=True, agent_arguments=("--datapath=kernel",))
    with Lab.running(spec) as lab, ExitStack() as stack:
        for node in lab.nodes:
            assert not uses_fou(node, change_over(node, former))
        one, two = (node.pods[0] for node in lab.nodes)
        assert poll(lambda: one.ping(two.address, patience=0.5).complete, PATIENCE)
        pings = [stack.enter_context(pinging(*pair)) for pair in ((one, two), (two, one))]
        stream = stack.enter_context(streaming(one, two))
        for command, fou in ((OVERLAY, possible), (former, False)):
            for node in lab.nodes:
                assert uses_fou(node, change_over(node, command)) == fou
        assert [ended() for ended in pings] == [0, 0]
        seconds = stream()
        assert len(seconds) > 1
        assert all(seconds), seconds
