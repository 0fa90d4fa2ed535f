"""Nodes in network namespaces whose datapaths a test drives by hand::

pod1 ── cni0 ┐                                          ┌ cni0 ── pod2
10.0.1.2     node1 ── eth0 ── switch (bridge) ── eth0 ── node2     10.0.2.2
             172.31.0.1                          172.31.0.2
"""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute

from overlay.datapath.kernel.machine import cleanup
from overlay.lab.namespace import call_inside
from tests.support import nursery

ROOT = Path(__file__).parents[2]
NETNS = Path("/run/netns")
BPF_FS = Path("/sys/fs/bpf")
PATIENCE = 30.0
"""Seconds for anything that normally takes a fraction of one; the machine may be busy."""

CARDS = os.environ.get("OVERLAY_CARDS", "").split()
"""Network cards of this machine, joined outside of it, that nodes have instead of an end of a veth pair."""

UNPROVEN = "kernel-unproven"

XDP_FLAGS_SKB_MODE, XDP_FLAGS_DRV_MODE = 2, 4
"""linux/if_link.h: after the packet has become an skb, or before, in the driver."""

_prefix_count = 0


def run(words: str, namespace: str | None = None, *, check: bool = True, timeout: float = 60) -> str:
    """Runs a command, in a namespace if one is given, and returns what it printed."""
    done = subprocess.run(
        [*entering(namespace), *words.split()], capture_output=True, text=True, timeout=timeout, check=False
    )
    assert not check or done.returncode == 0, f"{namespace}: {words}: {done.stdout}{done.stderr}"
    return done.stdout


def entering(namespace: str | None) -> list[str]:
    return [] if namespace is None else ["nsenter", f"--net={NETNS / namespace}"]


def until(condition: Callable[[], object], what: str) -> None:
    """Waits for a condition, generously; what is long in coming is asked for less often, as asking takes processes."""
    deadline, pause = time.monotonic() + PATIENCE, 0.02
    while not condition():
        assert time.monotonic() < deadline, f"not within {PATIENCE:.0f} s: {what}"
        time.sleep(pause)
        pause = min(1.3 * pause, 0.25)


@dataclass
class Node:
    """A node's namespace, its pod's, and the process that runs its datapath."""

    number: int
    namespace: str
    pod: str
    switch: str
    underlay: str = "eth0"
    address: str = ""
    mtu: int = 1472
    process: subprocess.Popen[str] | nursery.Child | None = field(default=None, repr=False)

    @property
    def subnet(self) -> str:
        return f"10.0.{self.number}.0/24"

    @property
    def pod_address(self) -> str:
        return f"10.0.{self.number}.2"

    def __call__(self, words: str, **options: Any) -> str:
        """Runs a command on the node."""
        return run(words, self.namespace, **options)

    def in_pod(self, words: str, **options: Any) -> str:
        return run(words, self.pod, **options)

    def start(self, kind: str = "kernel", path: Path | None = None, peers: dict[str, str] | None = None) -> None:
        """Starts a datapath, configures it, and gives it its peers if there are any.

        A ``kernel-unproven`` one may have no packet socket, so that it asks nobody for a proof.
        """
        if kind == UNPROVEN:
            confined = [*entering(self.namespace), "setpriv", "--bounding-set=-net_raw"]
            words = [*confined, sys.executable, "-m", "tests.support.tunnel_agent", "kernel"]
            self.process = subprocess.Popen(
                words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )  # fmt: skip
        else:
            self.process = nursery.start(NETNS / self.namespace, kind, path)
        self.configure()
        if peers is not None:
            self.set_peers(peers)

    def configure(self, **changes: Any) -> None:
        wanted = {
            "subnet": self.subnet,
            "address": self.address,
            "underlay": self.underlay,
            "mtu": self.mtu,
            **changes,
        }
        self.ask("configure", **wanted)

    def set_peers(self, peers: dict[str, str]) -> None:
        self.ask("peers", subnet=self.subnet, peers=peers)

    def status(self) -> dict[str, Any]:
        return self.ask("status")

    def counters(self) -> dict[str, int]:
        counters: dict[str, int] = self.status()["counters"]
        return counters

    def ask(self, what: str, **arguments: Any) -> dict[str, Any]:
        assert self.process is not None
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"do": what, **arguments}) + "\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.process.stdout.readline() or '{"error": "ended"}')
        assert "error" not in answer, answer
        return answer

    def kill(self) -> None:
        """SIGKILL, as the worst that happens."""
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self._reap()

    def stop(self) -> None:
        """Lets the datapath close."""
        if self.process is not None:
            assert self.process.stdin is not None
            self.process.stdin.close()
            self._reap()

    def cleanup(self) -> int:
        """What ``overlay cleanup`` does for the kernel datapath; returns how many things it removed."""
        return call_inside(self.namespace, lambda: len(cleanup("flannel0")))

    def _reap(self) -> None:
        assert self.process is not None
        self.process.wait(PATIENCE)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()
        self.process = None


@contextmanager
def nodes(count: int = 2, *, underlay_mtu: int = 1500) -> Iterator[tuple[Node, ...]]:
    """Makes the topology above with ``count`` nodes, without datapaths; all of it is gone afterwards."""
    global _prefix_count  # noqa: PLW0603
    _prefix_count += 1
    prefix = f"kt{os.getpid()}x{_prefix_count}"
    switch = f"{prefix}-switch"
    with ExitStack() as stack:
        if not BPF_FS.is_mount():
            stack.callback(_unmount_bpf_fs)
        _namespace(stack, switch)
        run("ip link add br0 type bridge", switch)
        run(f"ip link set br0 mtu {underlay_mtu} up", switch)
        made = tuple(_node(stack, prefix, switch, number, underlay_mtu) for number in range(1, count + 1))
        yield made
    assert not list(NETNS.glob(f"{prefix}*"))


def _node(stack: ExitStack, prefix: str, switch: str, number: int, underlay_mtu: int) -> Node:
    node = Node(
        number,
        f"{prefix}-node{number}",
        f"{prefix}-pod{number}",
        switch=switch,
        address=f"172.31.0.{number}",
        mtu=underlay_mtu - 28,
    )
    _namespace(stack, node.namespace)
    _namespace(stack, node.pod)
    stack.callback(node.cleanup)  # what a killed agent leaves on purpose; here nobody comes after it
    stack.callback(node.kill)
    if CARDS:
        card = CARDS[number - 1]
        run(f"ip link set {card} netns {node.namespace} name eth0 mtu {underlay_mtu}")
        stack.callback(node, f"ip link set eth0 down netns 1 name {card}", check=False)
    else:
        node(f"ip link add eth0 mtu {underlay_mtu} type veth peer name n{number} mtu {underlay_mtu} netns {switch}")
        run(f"ip link set n{number} master br0 up", switch)
    node("ip link set eth0 up")
    node(f"ip address add {node.address}/24 dev eth0")
    node("ip link add cni0 type bridge")
    node(f"ip address add 10.0.{number}.1/24 dev cni0")
    node(f"ip link set cni0 mtu {node.mtu} up")
    node(f"ip link add pod mtu {node.mtu} type veth peer name eth0 mtu {node.mtu} netns {node.pod}")
    node("ip link set pod master cni0 up")
    node("sysctl -qw net.ipv4.ip_forward=1")
    node.in_pod("ip link set eth0 up")
    node.in_pod(f"ip address add {node.pod_address}/24 dev eth0")
    node.in_pod(f"ip route add default via 10.0.{number}.1")
    return node


def _namespace(stack: ExitStack, name: str) -> None:
    run(f"ip netns add {name}")
    stack.callback(run, f"ip netns delete {name}")
    run("ip link set lo up", name)


def _unmount_bpf_fs() -> None:
    """An agent has mounted it; it goes as it came, unless somebody else has pinned something meanwhile."""
    if BPF_FS.is_mount() and not any(path.is_dir() for path in BPF_FS.iterdir()):
        run(f"umount {BPF_FS}")


def peers_of(node: Node, every: tuple[Node, ...]) -> dict[str, str]:
    """What ``node`` must know of the others."""
    return {other.subnet: other.address for other in every if other is not node}


def lost(printed: str) -> int:
    """Packets that ping sent and got no answer to."""
    for line in printed.splitlines():
        if "packets transmitted" in line:
            words = line.replace(",", "").split()
            return int(words[0]) - int(words[3])
    raise AssertionError(printed)


@contextmanager
def running(
    kinds: tuple[str, ...] = ("kernel", "kernel"), programs: tuple[Path | None, ...] = (), **options: int
) -> Iterator[tuple[Node, ...]]:
    """Nodes with datapaths that know each other.

    Args:
        programs: compiled programs for each node; None, or none at all, for our own.
        options: those of :func:`nodes`.
    """
    with nodes(len(kinds), **options) as made:
        start_all(made, kinds, programs)
        yield made


def start_all(
    made: tuple[Node, ...], kinds: tuple[str, ...] = ("kernel", "kernel"), programs: tuple[Path | None, ...] = ()
) -> None:
    """Starts a datapath on each node, with the others as its peers; returns when programs are where they belong."""
    for node, kind, path in zip(made, kinds, programs or (None,) * len(kinds), strict=True):
        node.start(kind, path, peers=peers_of(node, made))
    for node, kind in zip(made, kinds, strict=True):
        if kind.startswith("kernel"):
            until(lambda node=node: attached(node), f"programs on {node.namespace}")  # type: ignore[misc]


def attached(node: Node) -> bool:
    return "overlay_decap#" in filters(node, node.underlay, "ingress") and "overlay_encap#" in filters(
        node, "flannel0", "egress"
    )


def filters(node: Node, device: str, hook: str) -> str:
    return node(f"tc filter show dev {device} {hook}", check=False)


def ping(source: Node, target: Node, options: str = "-c 3 -i 0.05") -> str:
    return source.in_pod(f"ping -q -W 2 {options} {target.pod_address}", check=False)


def gained(node: Node, before: dict[str, int], *names: str) -> list[int]:
    after = node.counters()
    return [after[name] - before[name] for name in names]


def takes_detour(source: Node, target: Node) -> bool:
    """Whether kernel node ``source`` finishes packets before it sends them to ``target``."""
    before = source.counters()
    ping(source, target, "-c 1")
    finished, sent = gained(source, before, "tx_finished", "tx_packets")
    assert sent > 0
    return finished == sent


def proves(source: Node, target: Node) -> None:
    """Waits until ``target`` has proven to ``source`` that unfinished packets reach it whole."""
    until(lambda: not takes_detour(source, target), "a proof")


@contextmanager
def iperf_server(node: Node) -> Iterator[None]:
    server = subprocess.Popen([*entering(node.pod), "iperf3", "-s"], stdout=subprocess.DEVNULL)
    try:
        until(lambda: ":5201" in node.in_pod("ss -Htln"), "iperf3 listens")
        yield
    finally:
        server.kill()
        server.wait()


def set_xdp(node: Node, program: int, mode: int) -> None:
    """Attaches a program to the node's underlay; -1 detaches. (iproute2 would leave directories in bpffs.)"""

    def change() -> None:
        with IPRoute() as route:
            (index,) = route.link_lookup(ifname=node.underlay)
            xdp = {"attrs": [("IFLA_XDP_FD", program), ("IFLA_XDP_FLAGS", mode)]}
            route.link("set", index=index, IFLA_XDP=xdp)

    call_inside(node.namespace, change)


def linux_version() -> tuple[int, ...]:
    """This kernel's, for what cannot be asked: (6, 12)."""
    return tuple(map(int, platform.release().split("-")[0].split(".")[:2]))
