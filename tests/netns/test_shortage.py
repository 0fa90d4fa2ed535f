"""An agent that gets no descriptor any more, whatever it asks for: it goes on, says so, and mends itself afterwards.

etcd 172.31.0.100 ──┐
n1   172.31.0.1   ──┼── bridge        n1's agent is kept short
n2   172.31.0.2   ──┘
"""

from __future__ import annotations

import json
import os
import resource
import signal
import time
from typing import Any

import pytest

from overlay.lab.machine import Node
from overlay.lab.process import poll
from tests.netns.agents import OVERLAY, PATIENCE
from tests.support.labs import MakeLab

pytestmark = [pytest.mark.root, pytest.mark.etcd]

LOOKS = 11.0
"""Seconds in which everything that looks now and then (every 10 s at most, apart from safety nets) has looked."""
NONE_AT_ALL = 3
"""A limit below every number that is still free: standard input, output and error have those that are less."""


def status(node: Node) -> dict[str, Any]:
    """Empty while no agent answers."""
    shown = node.run(OVERLAY, "status", "--json", f"--state-dir={node.files.directory}", check=False).stdout
    found: dict[str, Any] = json.loads(shown) if shown else {}
    return found


@pytest.mark.parametrize("datapath", ["userspace", "kernel"])
def test_an_agent_without_descriptors_goes_on(make_lab: MakeLab, datapath: str) -> None:
    lab = make_lab(nodes=2, pods=1, agent_arguments=(f"--datapath={datapath}",))
    one, two = lab.nodes
    process = one.agent
    assert process is not None
    before = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (NONE_AT_ALL, before[1]))
    try:
        until = time.monotonic() + LOOKS
        while time.monotonic() < until:  # each change has the loops look
            one.run("ip", "link", "add", "busy0", "type", "bridge")
            one.run("ip", "link", "del", "busy0")
            time.sleep(0.5)
        assert one.pods[0].ping(two.pods[0].address, count=5).complete
        assert one.agent is not None, one.files.last_words("agent")
    finally:
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, before)
    said = one.files.log("agent").read_text()
    assert "Too many open files" in said
    assert "Traceback" not in said
    one.run("ip", "link", "set", "flannel0", "down")  # what it is there for, it does again
    assert poll(lambda: one.run("ip", "link", "show", "flannel0").stdout.count(",UP") == 1, PATIENCE)
    assert poll(lambda: status(one).get("problems") == [], PATIENCE), status(one)
    assert one.pods[0].ping(two.pods[0].address, count=5).complete
    os.kill(process.pid, signal.SIGTERM)
    assert poll(lambda: one.agent is None, PATIENCE)
