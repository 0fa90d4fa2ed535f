"""What was on a machine before an agent came is there, byte for byte, when the agent was killed and cleaned up after.

etcd 172.31.0.100 ── bridge ── eth0 172.31.0.99: one machine after the other, each made from a seed

``OVERLAY_MACHINES=100`` makes a hundred of them, ``OVERLAY_MACHINES=17-18`` that of seed 17.
"""

from __future__ import annotations

import difflib
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from overlay.lab.cluster import Lab
from overlay.lab.plan import UNDERLAY_BRIDGE
from overlay.lab.process import poll
from overlay.lab.topology import LabSpec
from tests.netns.agents import PATIENCE
from tests.support.machines import batch, machine
from tests.support.random_machines import look, plan

pytestmark = [pytest.mark.root, pytest.mark.etcd, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

_FIRST, _, _LAST = os.environ.get("OVERLAY_MACHINES", "3").rpartition("-")
SEEDS = range(int(_FIRST or 0), int(_LAST))

SETTLED = ("ready: subnet", "collides with", "waiting for one that does", "is there already, and not ours")
"""What an agent says once it has done what it can: that all is well, or what stands in its way."""

OUTCOMES: Counter[str] = Counter()

ADDRESS = "172.31.0.99"
"""Of the machine; the lab's own node is 172.31.0.1."""


@pytest.fixture(scope="module")
def hub() -> Iterator[Lab]:
    with Lab.running(LabSpec(name=f"h{os.getpid()}", nodes=1, pods=0, agents=False)) as lab:
        lab.start_etcd()
        yield lab
    if len(SEEDS) >= 50:  # of fewer it says nothing
        assert all(OUTCOMES[word] > len(SEEDS) / 20 for word in SETTLED[:3]), OUTCOMES
    print(dict(OUTCOMES))


@contextmanager
def plugged(hub: Lab) -> Iterator[str]:
    """A machine with eth0 in the lab's switch."""
    with machine("") as name:
        port = f"m-{name[-6:]}"  # a name of its own: the kernel takes its time to remove the last machine's
        wire = f"link add {port} type veth peer name eth0 netns {name}"
        batch(hub.spec.switch, f"{wire}\nlink set {port} master {UNDERLAY_BRIDGE} up")
        batch(name, f"addr add {ADDRESS}/24 dev eth0\nlink set eth0 up")
        yield name


def inside(name: str, *command: str, check: bool = True, text: str | None = None) -> subprocess.CompletedProcess[str]:
    argv = ["ip", "netns", "exec", name, *command]
    return subprocess.run(argv, input=text, capture_output=True, text=True, check=check, timeout=120)


@pytest.mark.parametrize("seed", SEEDS)
def test_what_was_not_ours_stays(hub: Lab, tmp_path: Path, seed: int) -> None:
    made = plan(seed)
    prefix = f"/m{seed}"
    config = f'{{"Network":"{made.network}","EnableNFTables":{str(made.nftables).lower()}}}'
    hub.etcd.run("etcdctl", "put", f"{prefix}/config", config)
    with plugged(hub) as name:
        inside(name, "ip", "-batch", "-", "-force", text="\n".join(made.links) + "\n", check=False)
        for command in made.shell:
            inside(name, "sh", "-c", command, check=False)
        settled_links(name)
        before = look(name)
        inside(name, "ip", "-batch", "-", "-force", text="\n".join(made.leftovers) + "\n", check=False)

        places = [f"--state-dir={tmp_path}/state", f"--subnet-file={tmp_path}/subnet.env"]
        flags = [*places, f"--etcd-endpoints={hub.spec.endpoint}", f"--etcd-prefix={prefix}", *made.flags]
        told = run_and_kill(name, tmp_path / "log", flags)
        OUTCOMES.update(word for word in SETTLED if word in told)
        cleaned = inside(name, sys.executable, "-m", "overlay", "cleanup", *places, check=False)
        assert (cleaned.returncode, cleaned.stderr) == (0, ""), told
        after = look(name)
        assert not (tmp_path / "subnet.env").exists()
    changed = "\n".join(
        difflib.unified_diff(before.splitlines(), after.splitlines(), "before", "after", lineterm="", n=0)
    )
    assert changed == "", f"seed {seed}\n{changed}\n{told}"


def settled_links(name: str) -> None:
    """Waits until carriers and duplicate address detection have come to rest."""
    still = [""]

    def at_rest() -> bool:
        still.append(inside(name, "ip", "address").stdout)
        return still[-1] == still[-2] and "tentative" not in still[-1]

    assert poll(at_rest, PATIENCE)


def run_and_kill(name: str, log: Path, flags: list[str]) -> str:
    """Runs an agent until it has done what it can, or ended, and kills it with its workers; returns its log."""
    argv = ["ip", "netns", "exec", name, sys.executable, "-m", "overlay", "agent", *flags]
    with log.open("wb") as file:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=file, stderr=file)
    try:
        poll(lambda: process.poll() is not None or any(word in log.read_text() for word in SETTLED), PATIENCE)
        told = log.read_text()
        assert any(word in told for word in SETTLED), told
        assert "Traceback" not in told, told
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    return told
