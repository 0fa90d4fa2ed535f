"""Agents are killed, restarted and switched between the datapaths, over and over, and traffic goes on.

    etcd ──┐
    n1   ──┼── bridge        n1p1 and n2p1: pings, trains of datagrams as of QUIC, and TCP, both ways at once
    n2   ──┘

On the kernel path nothing may be lost, whatever becomes of the agent. In user space packets may be lost while there is
no worker, and only then; each of them is in a counter, or was in the queues of the worker that ended. For
OVERLAY_ENDURANCE_SECONDS (default 30): ``make endurance MINUTES=10``.
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
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from overlay.lab.cluster import Lab
from overlay.lab.machine import Node, Pod
from overlay.lab.process import poll
from overlay.lab.topology import LabSpec
from tests.netns.agents import OVERLAY, PATIENCE
from tests.support.tunnels import ROOT, entering

pytestmark = [pytest.mark.root, pytest.mark.etcd]

SECONDS = float(os.environ.get("OVERLAY_ENDURANCE_SECONDS", "30"))
CALM = 2.0
"""Seconds between two events at least: what one has lost is its own."""
SETTLED = 1.0
"""Seconds after an agent is ready in which packets may be lost that waited for it: in queues, for ARP, for a proof."""
PING_PAUSE = 0.05
QUEUES = 500 + 2 * 64
"""Packets that a worker takes with it at most, each way: the TUN device's queue and two batches in its hands."""
KINDS = ("kernel", "userspace")


@dataclass
class Event:
    """Something that was done to an agent, from ``begin`` until it was ready again at ``end``."""

    node: str
    what: str
    before: str
    after: str
    begin: float
    end: float = 0.0

    @property
    def may_lose(self) -> bool:
        return "userspace" in (self.before, self.after)

    def told(self, start: float) -> str:
        span = f"{self.begin - start:.1f} to {self.end - start:.1f}"
        return f"{self.node} {self.what} {span} {self.before} to {self.after}"

    def covers(self, moment: float) -> bool:
        return self.begin - 0.1 <= moment <= self.end + SETTLED


@dataclass(frozen=True)
class Stream:
    """What one sender sent, one entry for each packet, and which of them are lost."""

    name: str
    sent: int
    lost: tuple[float, ...]
    doubled: int = 0
    wrong: int = 0


class Trains:
    """Trains of datagrams from one pod to another."""

    def __init__(self, stack: ExitStack, source: Pod, target: Pod, port: int, seconds: float) -> None:
        self._name = f"trains {source.name} to {target.name}"
        self._receiver = stack.enter_context(_python(target, "receive", str(port)))
        assert self._receiver.stdout is not None
        assert self._receiver.stdout.readline() == b"ready\n"
        self._sender = stack.enter_context(_python(source, "send", str(target.address), str(port), str(seconds)))

    def result(self) -> Stream:
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
        return Stream(self._name, sent, tuple(lost), outcome["doubled"], outcome["wrong"])


class Pings:
    """A ping every PING_PAUSE seconds."""

    def __init__(self, stack: ExitStack, source: Pod, target: Pod) -> None:
        self._name = f"pings {source.name} to {target.name}"
        command = ("ping", "-D", "-O", "-n", "-i", str(PING_PAUSE), str(target.address))
        self._ping = stack.enter_context(_running(source, *command))

    def result(self) -> Stream:
        self._ping.send_signal(signal.SIGINT)
        out, _ = self._ping.communicate(timeout=PATIENCE)
        offset = time.time() - time.monotonic()
        text = out.decode()
        answered = {int(number) for number in re.findall(r"bytes from .* icmp_seq=(\d+)", text)}
        missed = {
            int(number): float(when) - offset
            for when, number in re.findall(r"\[([0-9.]+)\] no answer yet for icmp_seq=(\d+)", text)
        }
        sent = int(re.findall(r"(\d+) packets transmitted", text)[0])
        lost = [when - PING_PAUSE for number, when in missed.items() if number not in answered]
        return Stream(self._name, sent, tuple(lost), text.count("DUP!"))


@contextmanager
def _running(pod: Pod, *command: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([*entering(pod.namespace), *command], cwd=ROOT, stdout=subprocess.PIPE)
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


def kernels_counts(lab: Lab) -> int:
    """What the kernels of nodes and pods have dropped: on interfaces, for want of a socket, or of room in one."""
    total = 0
    for machine in (*lab.nodes, *(pod for node in lab.nodes for pod in node.pods)):
        devices = machine.run("cat", "/proc/net/dev").stdout.splitlines()[2:]
        columns = [line.partition(":")[2].split() for line in devices]
        total += sum(int(each[3]) + int(each[11]) for each in columns)
        lines = [line.split() for line in machine.run("cat", "/proc/net/snmp").stdout.splitlines()]
        for names, values in zip(lines[::2], lines[1::2], strict=True):
            numbers = dict(zip(names[1:], values[1:], strict=True))
            if names[0] == "Udp:":
                total += int(numbers["NoPorts"]) + int(numbers["InErrors"]) + int(numbers["SndbufErrors"])
            elif names[0] == "Ip:":
                total += sum(int(numbers[name]) for name in ("InDiscards", "OutDiscards", "OutNoRoutes"))
    return total


def disturb(lab: Lab, chance: random.Random, until: float) -> list[Event]:
    """One event after the other, each when the one before it is over; every kind on every node."""
    kinds = {node.name: "kernel" for node in lab.nodes}
    events: list[Event] = []
    while time.monotonic() < until:
        node = chance.choice(lab.nodes)
        what = chance.choice(("killed", "restarted", "switched"))
        before = kinds[node.name]
        after = KINDS[1 - KINDS.index(before)] if what == "switched" else before
        event = Event(node.name, what, before, after, time.monotonic())
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
        counted = kernels_counts(lab)
        begin = time.monotonic()
        seconds = SECONDS + PATIENCE  # an event that has begun comes to its end
        streams = [Trains(stack, one, two, 7001, seconds), Trains(stack, two, one, 7002, seconds)]
        pings = [Pings(stack, one, two), Pings(stack, two, one)]
        tcp = stack.enter_context(
            _running(one, "iperf3", "-J", "-b", "100M", "-t", str(round(seconds)), "-c", str(two.address))
        )
        events = disturb(lab, random.Random(seed), begin + SECONDS)
        report = json.loads(tcp.communicate(timeout=seconds + PATIENCE)[0])
        results = [*(each.result() for each in streams), *(each.result() for each in pings)]
        counted = kernels_counts(lab) - counted
        counted += sum(
            value for node in lab.nodes for name, value in datapath(node)["counters"].items() if "drop" in name
        )
    received = report["end"]["sum_received"]["bytes"]
    rate = report["end"]["sum_received"]["bits_per_second"] / 1e6
    print(f"\nseed {seed}, {time.monotonic() - begin:.0f} s, {len(events)} events; TCP {rate:.0f} Mbit/s, "
          f"{report['end']['sum_sent']['retransmits']} retransmits")  # fmt: skip
    for what in ("killed", "restarted", "switched"):
        for before in KINDS:
            own = [each for each in events if (each.what, each.before) == (what, before)]
            costs = [max(longest(stream.lost, each) for stream in results) for each in own]
            took = [each.end - each.begin for each in own]
            if own:
                print(f"  {before} {what}: {len(own)} times; without an agent {max(took):.2f} s at most, "
                      f"packets lost for {max(costs):.2f} s at most")  # fmt: skip
    for stream in results:
        print(f"  {stream.name}: {stream.sent:,} sent, {len(stream.lost):,} lost, {stream.doubled} doubled")
    lost = sum(len(stream.lost) for stream in results)
    deaths = sum(each.before == "userspace" for each in events)
    print(f"  {lost:,} lost, {counted:,} in counters (TCP's are among them), {deaths} workers ended")

    assert received > 0
    assert [(stream.doubled, stream.wrong) for stream in results] == [(0, 0)] * 4
    costly = [each for each in events if each.may_lose]
    stray = sorted(
        {(stream.name, round(when - begin, 1)) for stream in results for when in stream.lost
         if not any(each.covers(when) for each in costly)}
    )  # fmt: skip
    assert not stray, f"lost while no worker was missing: {stray}; {[each.told(begin) for each in events]}"
    assert lost <= counted + 2 * QUEUES * deaths
