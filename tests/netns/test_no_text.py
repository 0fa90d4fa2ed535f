"""Names and comments on a machine are bytes. One where some of them are no text is a machine like any other.

etcd 172.31.0.100, n1 172.31.0.1 with all of that, n2 172.31.0.2; a pod behind each
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from overlay.lab.cluster import Lab
from overlay.lab.machine import Machine
from overlay.lab.namespace import call_inside
from overlay.lab.topology import LabSpec
from overlay.linux import device_drops
from overlay.linux.netlink import Netlink
from tests.netns.agents import OVERLAY
from tests.support.programs import compiled

pytestmark = [pytest.mark.root, pytest.mark.etcd]

NO_UTF8, NO_LINES = b"\xff\xfe", "e\x1cn\u0085d".encode()
"""One is no UTF-8, as anything written in Latin-1; in the other is what ``str.splitlines`` takes for ends of lines."""
LATIN_1 = b"caf\xe9"
PASS = """
#include <linux/bpf.h>
__attribute__((section("tc"), used)) int others(struct __sk_buff *skb) { return -1; }
"""


def inside(machine: Machine, *command: bytes) -> bytes:
    words = [b"nsenter", b"--net=/run/netns/" + machine.namespace.encode(), *command]
    return subprocess.run(words, capture_output=True, check=True, timeout=60).stdout


@contextmanager
def without_text(machine: Machine, directory: Path) -> Iterator[None]:
    """Bridges, rules, a filter on the underlay and a mount of others, named so."""
    for number, name in enumerate((NO_UTF8, NO_LINES)):
        inside(machine, b"ip", b"link", b"add", b"name", name, b"type", b"bridge")
        inside(machine, b"ip", b"link", b"set", name, b"up")
        inside(machine, b"ip", b"address", b"add", b"192.168.%d.1/24" % number, b"dev", name)
    refusal = (b"-s", b"203.0.113.1", b"-j", b"DROP")
    inside(machine, b"iptables", b"-P", b"FORWARD", b"DROP")
    inside(machine, b"iptables", b"-A", b"FORWARD", b"-m", b"comment", b"--comment", LATIN_1, *refusal)
    inside(machine, b"iptables", b"-A", b"FORWARD", b"-i", NO_UTF8, *refusal)
    program = os.fsencode(directory) + b"/" + LATIN_1 + b".o"  # tc names a filter by it
    os.rename(os.fsencode(compiled(PASS, directory)), program)
    inside(machine, b"tc", b"qdisc", b"add", b"dev", b"eth0", b"clsact")
    words = b"filter add dev eth0 ingress prio 1 protocol ip bpf da obj".split()
    inside(machine, b"tc", *words, program, b"sec", b"tc")
    place = os.fsencode(directory) + b"/" + LATIN_1
    os.mkdir(place)
    subprocess.run([b"mount", b"-t", b"tmpfs", b"others", place], check=True)
    try:
        yield
    finally:
        subprocess.run([b"umount", place], check=True)


@pytest.fixture
def site(lab_name: str) -> Iterator[Lab]:
    with Lab.running(LabSpec(name=lab_name, nodes=2, pods=1, agents=False)) as lab:
        lab.start_etcd()
        lab.put_config()
        yield lab


@pytest.mark.parametrize("datapath", ["userspace", "kernel"])
def test_an_agent_works_where_others_names_are_no_text(site: Lab, datapath: str, tmp_path: Path) -> None:
    one, two = site.nodes
    two.start_agent(f"--datapath={datapath}")
    with without_text(one, tmp_path):
        others = inside(one, b"iptables-save", b"-t", b"filter")
        one.start_agent(f"--datapath={datapath}")
        assert one.pods[0].ping(two.pods[0].address, count=5).complete
        assert status(one)["problems"] == []
        now = inside(one, b"iptables-save", b"-t", b"filter").split(b"\n")
        assert [line for line in others.split(b"\n") if line.startswith(b"-A") and line not in now] == []


def status(machine: Machine) -> dict[str, Any]:
    words = [OVERLAY, "status", "--json", f"--state-dir={machine.files.directory}"]
    shown: dict[str, Any] = json.loads(subprocess.run(words, capture_output=True, check=False, timeout=60).stdout)
    return shown


def test_what_interfaces_dropped_is_read_whatever_they_are_called(site: Lab) -> None:
    node = site.nodes[0]
    for name in (NO_UTF8, NO_LINES):
        inside(node, b"ip", b"link", b"add", b"name", name, b"type", b"bridge")
    found = call_inside(node.namespace, device_drops.dropped)
    assert {os.fsencode(name) for name in found} >= {NO_UTF8, NO_LINES, b"eth0", b"lo"}

    def names() -> set[str]:
        with Netlink() as netlink:
            return {link.name for link in netlink.links()}

    assert call_inside(node.namespace, names) >= {"eth0", "\ufffd\ufffd", NO_LINES.decode()}
