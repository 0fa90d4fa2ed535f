"""An agent on machines that lack something, or have it otherwise: it goes on, and says what is wrong, or nothing is.

etcd 172.31.0.100 ──┬── bridge
n1   172.31.0.1   ──┘
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from overlay.lab.cluster import Lab
from overlay.lab.process import poll
from overlay.lab.topology import LabSpec
from tests.netns.agents import OVERLAY, PATIENCE, agent, elsewhere, without
from tests.support.problems import shown

pytestmark = [pytest.mark.root, pytest.mark.etcd]


@dataclass(frozen=True)
class Row:
    """A machine: what is put before the agent's command line, and the kinds of problems that its status has."""

    before: tuple[str, ...]
    codes: frozenset[str] = frozenset()


def read_only(*places: str) -> str:
    return "\n".join(f"mount --bind {place} {place}; mount -o remount,bind,ro {place}" for place in places)


TABLE = {
    "etc and usr cannot be written": Row(elsewhere(read_only("/etc", "/usr", "/var/lib"))),
    "settings of the kernel cannot be written": Row(elsewhere(read_only("/proc/sys"))),
    "no resolv.conf, no machine-id": Row(
        elsewhere("mount -t tmpfs none /var/lib/dbus 2>/dev/null || true\nfor file in resolv.conf machine-id; do\n"
                  "[ ! -e /etc/$file ] || mount --bind /dev/null /etc/$file; done")
    ),
    "a host name of odd bytes": Row(
        ("unshare", "--uts", "sh", "-ec", "printf '\\377\\376' >/proc/sys/kernel/hostname; exec \"$@\"", "sh")
    ),
    "no nft": Row(without("nft")),
    "no iptables": Row(without("iptables", "iptables-nft", "iptables-legacy")),
    "no bpf file system": Row(elsewhere("mount -t tmpfs none /sys/fs/bpf")),
    "few descriptors, no locked memory": Row(("prlimit", "--nofile=64", "--memlock=0")),
    "no IPv6": Row(elsewhere("mount -t tmpfs none /proc/sys/net/ipv6")),
}  # fmt: skip


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab.running(LabSpec(name=f"t{os.getpid()}", nodes=1, pods=0, agents=False)) as made:
        made.start_etcd()
        made.put_config()
        yield made


@pytest.mark.parametrize("row", TABLE.values(), ids=TABLE)
def test_an_agent_goes_on_wherever_it_is(lab: Lab, tmp_path: Path, row: Row) -> None:
    machine = lab.nodes[0]
    lab.etcd.run("etcdctl", "del", "--prefix", "/coreos.com/network/subnets/")  # of another machine, as it were
    status = ("status", "--json", f"--state-dir={tmp_path}")

    def told() -> dict[str, Any]:
        said: dict[str, Any] = json.loads(machine.run(OVERLAY, *status, check=False).stdout or "{}")
        return said

    with agent(machine, tmp_path, before=row.before) as running:
        running.says("ready:")
        assert poll(lambda: told().get("ready") is True, PATIENCE), running.log
        for code in row.codes:
            assert poll(lambda code=code: shown(told(), code), PATIENCE), told()  # type: ignore[misc]
        assert {each["code"] for each in told()["problem_details"]} == row.codes, running.log
        assert "unexpected" not in running.log
