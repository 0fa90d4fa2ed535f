"""Agents are killed, restarted and switched between the datapaths, over and over, and traffic goes on.

    etcd ──┐
    n1   ──┼── bridge        n1p1 and n2p1: pings, trains of datagrams as of QUIC, and TCP, both ways at once
    n2   ──┘

On the kernel path nothing may be lost, whatever becomes of the agent. Where user space carried, packets may be lost
while there is no worker, and only then; where it takes over from the kernel path, while the kernel takes away the other
one's qdiscs (``qdisc_graft`` has the device send nothing meanwhile), and not before. What each event has cost is in
counters that grew by as much with it, or was in the hands of the worker that ended. For OVERLAY_ENDURANCE_SECONDS
(default 30): ``make endurance MINUTES=10``.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import pytest

from overlay.lab.cluster import Lab
from overlay.lab.machine import Node, Pod
from overlay.lab.process import poll
from overlay.lab.topology import LabSpec
from tests.netns.agents import OVERLAY, PATIENCE
from tests.support.tunnels import ROOT, entering, linux_version

pytestmark = [pytest.mark.root, pytest.mark.etcd]

SECONDS = float(os.environ.get("OVERLAY_ENDURANCE_SECONDS", "30"))
CALM = 2.0
"""Seconds between two events at least: what one has lost is its own."""
SETTLED = 1.0
"""Seconds after an agent is ready in which packets may be lost that waited for it: in queues, for ARP, for a proof."""
PING_PAUSE = 0.05
SNMP = {"Udp:": ("NoPorts", "InErrors", "SndbufErrors"), "Ip:": ("InDiscards", "OutDiscards", "OutNoRoutes")}
"""Of /proc/net/snmp: packets that nobody gets. (Errors of TCP and ICMP are counted where they are dropped.)"""
ASIDE = ("drop_tun_queue", "drop_bridge_tx", "drop_rx_socket", "drop_gro_pair", "drop_fou_device")
"""Counters of an agent that are the kernel's, which are read there."""
IN_HAND = 2 * 64
"""Packets that a worker takes with it at most: what it has just read, each way."""
UNCOUNTED = 2 if linux_version() < (5, 18) else 0
"""Sends that a device drops while its qdiscs are taken away, and that no counter has: ``noop_enqueue`` of Linux 5.10
counts for no device."""
KINDS = ("kernel", "userspace")
WHAT = ("killed", "restarted", "switched")


@dataclass
class Event:
    """Something that was done to an agent, from ``begin`` until it was ready again at ``end``."""

    node: str
    what: str
    before: str
    after: str
    begin: float
    end: float = 0.0
    counted: Counter[str] = field(default_factory=Counter)
    """By how much counters have grown with it."""

    @property
    def may_lose(self) -> bool:
        return "userspace" in (self.before, self.after)

    def told(self, start: float) -> str:
        span = f"{self.begin - start:.1f} to {self.end - start:.1f}"
        return f"{self.node} {self.what} {span} {self.before} to {self.after}"

    def covers(self, moment: float) -> bool:
        """Kernel programs carry packets until what comes after them does, which is near the end."""
        begin = self.begin - 0.1 if self.before == "userspace" else (self.begin + self.end) / 2
        return begin <= moment <= self.end + SETTLED

    def unaccounted(self, streams: list[Stream]) -> int:
        """Sends that it has cost, less what counters say. Kernels count a train as one while nobody has cut it."""
        cost = sum(self.covers(when) for stream in streams for when in stream.broken)
        unseen = IN_HAND if self.before == "userspace" else UNCOUNTED
        return cost - sum(self.counted.values()) - unseen


@dataclass(frozen=True)
class Stream:
    """What one sender sent, when each packet was sent that is lost, and each send that did not arrive whole."""

    name: str
    sent: int
    lost: tuple[float, ...]
    broken: tuple[float, ...]
    doubled: int = 0
    wrong: int = 0


class Trains:
    """Trains of datagrams from one pod to another."""

    def __init__(self, stack: ExitStack, source: Pod, target: Pod, port: int) -> None:
        self._name = f"trains {source.name} to {target.name}"
        self._receiver = stack.enter_context(_python(target, "receive", str(port)))
        assert self._receiver.stdout is not None
        assert self._receiver.stdout.readline() == b"ready\n"
        self._sender = stack.enter_context(_python(source, "send", str(target.address), str(port)))

    def result(self) -> Stream:
        self._sender.send_signal(signal.SIGINT)
        out, _ = self._sender.communicate(timeout=PATIENCE)
        time.sleep(SETTLED)
        self._receiver.send_signal(signal.SIGINT)
        came, _ = self._receiver.communicate(timeout=PATIENCE)
        trains, outcome = json.loads(out), json.loads(came)
        begins = [begin for begin, _ in outcome["ranges"]]

        def arrived(number: int) -> bool:
            at = bisect_right(begins, number) - 1
            return at >= 0 and number < outcome["ranges"][at][1]

        lost = [when for first, count, when in trains for at in range(count) if not arrived(first + at)]
        sent = sum(count for _, count, _ in trains)
        broken = tuple(when for first, count, when in trains if not all(arrived(first + at) for at in range(count)))
        return Stream(self._name, sent, tuple(lost), broken, outcome["doubled"], outcome["wrong"])


class Pings:
    """A ping every PING_PAUSE seconds; what it says is in ``log``, for a pipe that nobody reads would stop it."""

    def __init__(self, stack: ExitStack, source: Pod, target: Pod, log: Path) -> None:
        self._name = f"pings {source.name} to {target.name}"
        self._log = log
        command = ("ping", "-D", "-O", "-n", "-i", str(PING_PAUSE), str(target.address))
        self._ping = stack.enter_context(_running(source, *command, out=stack.enter_context(log.open("wb"))))

    def result(self) -> Stream:
        self._ping.send_signal(signal.SIGINT)
        self._ping.wait(PATIENCE)
        offset = time.time() - time.monotonic()
        text = self._log.read_text()
        answered = {int(number) for number in re.findall(r"bytes from .* icmp_seq=(\d+)", text)}
        missed = {
            int(number): float(when) - offset
            for when, number in re.findall(r"\[([0-9.]+)\] no answer yet for icmp_seq=(\d+)", text)
        }
        sent = int(re.findall(r"(\d+) packets transmitted", text)[0])
        lost = tuple(when - PING_PAUSE for number, when in missed.items() if number not in answered)
        return Stream(self._name, sent, lost, lost, text.count("DUP!"))


@contextmanager
def _running(pod: Pod, *command: str, out: IO[bytes] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([*entering(pod.namespace), *command], cwd=ROOT, stdout=out or subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def _python(pod: Pod, *words: str) -> Any:
    return _running(pod, sys.executable, "-m", "tests.support.steady", *words)


def datapath(node: Node) -> dict[str, Any]:
    """Of ``overlay status``; empty while no agent answers."""
    shown = node.run(OVERLAY, "status", "--json", f"--state-dir={node.files.directory}", check=False).stdout
    found: dict[str, Any] = json.loads(shown)["datapath"] if shown else {}
    return found


def kernels_counts(lab: Lab) -> Counter[str]:
    """What the kernels of nodes and pods have dropped: on interfaces, for want of a socket, or of room in one."""
    total: Counter[str] = Counter()
    for machine in (*lab.nodes, *(pod for node in lab.nodes for pod in node.pods)):
        for line in machine.run("cat", "/proc/net/dev").stdout.splitlines()[2:]:
            name, _, numbers = line.partition(":")
            total[f"{name.strip()} dropped"] += int(numbers.split()[3]) + int(numbers.split()[11])
        lines = [line.split() for line in machine.run("cat", "/proc/net/snmp").stdout.splitlines()]
        for names, values in zip(lines[::2], lines[1::2], strict=True):
            for counter in SNMP.get(names[0], ()):
                total[f"{names[0]} {counter}"] += int(values[names.index(counter)])
    return total


def refused(node: Node) -> Counter[str]:
    """What the node's agent says that it has dropped, by cause."""
    counters = datapath(node).get("counters", {})
    return Counter({name: value for name, value in counters.items() if name.startswith("drop_") and name not in ASIDE})


class Ledger:
    """All that counters say is dropped, of kernels and agents, also of those that took their counters with them."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._gone: Counter[str] = Counter()

    def keep(self, node: Node) -> None:
        """The node's agent is about to end, and the next one begins to count anew."""
        self._gone += refused(node)

    def total(self) -> Counter[str]:
        return kernels_counts(self._lab) + sum(map(refused, self._lab.nodes), self._gone)


def disturb(lab: Lab, chance: random.Random, until: float) -> list[Event]:
    """One event after the other, each when the one before it is over: first one of every kind, then by chance."""
    kinds = {node.name: "kernel" for node in lab.nodes}
    events: list[Event] = []
    ledger = Ledger(lab)
    before = ledger.total()
    planned = [(lab.nodes[0], what) for what in WHAT * 2]
    while planned or time.monotonic() < until:
        node, what = planned.pop(0) if planned else (chance.choice(lab.nodes), chance.choice(WHAT))
        former = kinds[node.name]
        after = KINDS[1 - KINDS.index(former)] if what == "switched" else former
        event = Event(node.name, what, former, after, time.monotonic())
        if (former, after) != ("kernel", "kernel"):  # there the next agent goes on counting
            ledger.keep(node)
            event.begin = time.monotonic()
        if what == "killed":
            node.kill_agent()
            assert poll(lambda node=node: node.agent is None, PATIENCE)  # type: ignore[misc]
        else:
            node.stop_agent()
        node.launch_agent(f"--datapath={after}").wait(PATIENCE)
        assert poll(lambda node=node, after=after: datapath(node).get("name") == after, PATIENCE)  # type: ignore[misc]
        event.end = time.monotonic()
        kinds[node.name] = after
        events.append(event)
        time.sleep(CALM + chance.random())
        now = ledger.total()
        event.counted, before = now - before, now
    return events


def longest(lost: tuple[float, ...], event: Event) -> float:
    """Seconds from the first to the last packet that an event has cost a stream."""
    own = [when for when in lost if event.covers(when)]
    return max(own) - min(own) if own else 0.0


def test_what_is_lost_is_what_a_restart_in_user_space_costs(lab_name: str, tmp_path: Path) -> None:
    seed = int(os.environ.get("OVERLAY_ENDURANCE_SEED", "1"))
    with Lab.running(LabSpec(name=lab_name, nodes=2, pods=1)) as lab, ExitStack() as stack:
        for node in lab.nodes:
            assert poll(lambda node=node: datapath(node).get("name") == "kernel", PATIENCE)  # type: ignore[misc]
        one, two = (node.pods[0] for node in lab.nodes)
        stack.enter_context(_running(two, "iperf3", "-s"))
        assert poll(lambda: ":5201" in two.run("ss", "-Htln").stdout, PATIENCE)
        begin = time.monotonic()
        streams = [Trains(stack, one, two, 7001), Trains(stack, two, one, 7002)]
        pings = [Pings(stack, one, two, tmp_path / "one"), Pings(stack, two, one, tmp_path / "two")]
        tcp = stack.enter_context(_running(one, "iperf3", "-J", "-b", "100M", "-t", "0", "-c", str(two.address)))
        events = disturb(lab, random.Random(seed), begin + SECONDS)
        tcp.send_signal(signal.SIGINT)
        report = json.loads(tcp.communicate(timeout=PATIENCE)[0])["end"]["sum_sent"]
        results = [*(each.result() for each in streams), *(each.result() for each in pings)]
    print(f"\nseed {seed}, {time.monotonic() - begin:.0f} s, {len(events)} events; "
          f"TCP {report['bits_per_second'] / 1e6:.0f} Mbit/s, {report['retransmits']} retransmits")  # fmt: skip
    for what in WHAT:
        for kind in KINDS:
            own = [each for each in events if (each.what, each.before) == (what, kind)]
            costs = [max(longest(stream.lost, each) for stream in results) for each in own]
            took = [each.end - each.begin for each in own]
            if own:
                print(f"  {kind} {what}: {len(own)} times; without an agent {max(took):.2f} s at most, "
                      f"packets lost for {max(costs):.2f} s at most")  # fmt: skip
    for stream in results:
        print(f"  {stream.name}: {stream.sent:,} sent, {len(stream.lost):,} lost, {stream.doubled} doubled")
    lost, broken = (sum(map(len, lists)) for lists in zip(*((each.lost, each.broken) for each in results), strict=True))
    counted = sum((each.counted for each in events), Counter[str]())
    print(f"  {lost:,} packets of {broken:,} sends lost, {counted.total():,} in counters (TCP's among them)")
    print(f"  {dict(counted)}")

    assert report["bytes"] > 1e6, "TCP went on"
    assert [(stream.doubled, stream.wrong) for stream in results] == [(0, 0)] * 4
    costly = [each for each in events if each.may_lose]
    stray = sorted(
        {(stream.name, round(when - begin, 1)) for stream in results for when in stream.lost
         if not any(each.covers(when) for each in costly)}
    )  # fmt: skip
    assert not stray, f"lost while no worker was missing: {stray}; {[each.told(begin) for each in events]}"
    unaccounted = [(each.told(begin), each.counted) for each in costly if each.unaccounted(results) > 0]
    assert not unaccounted, "lost, and in no counter"
