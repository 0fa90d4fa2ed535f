"""``overlay lab demo``: a cluster from nothing to nothing, with what makes one believe that it works."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address

from rich.console import Console
from rich.padding import Padding
from rich.table import Table

from overlay.errors import LabError
from overlay.lab import services
from overlay.lab.cluster import Lab
from overlay.lab.machine import Node, Pod
from overlay.lab.namespace import call_inside
from overlay.lab.plan import INTERFACE
from overlay.lab.process import Process
from overlay.lab.topology import LabSpec
from overlay.lab.traffic import Ping, transfer
from overlay.observe import capture

_PINGS = 10
_PING_INTERVAL = 0.02
_TRANSFER_SECONDS = 3.0
_CAPTURE_SECONDS = 5.0

_INITIAL_TTL = 64
"""What Linux gives a packet (net.ipv4.ip_default_ttl)."""


@dataclass
class Steps:
    """Prints one line a step, with its time once it is over."""

    console: Console
    _began: float = field(default_factory=time.monotonic)
    _step: str | None = None

    def __call__(self, step: str) -> None:
        """Ends the step before, and begins this one."""
        self.done()
        self._began, self._step = time.monotonic(), step

    def done(self) -> None:
        if self._step is not None:
            self.console.print(f"  [green]✓[/] {self._step} [dim]({time.monotonic() - self._began:.1f} s)[/]")
            self._step = None


def run_demo(spec: LabSpec, console: Console) -> bool:
    """Runs the demo; whether every packet arrived.

    Raises:
        LabError: the lab cannot be built, or something in it does not answer at all.
    """
    began = time.monotonic()
    pods = "one pod" if spec.pods == 1 else f"{spec.pods} pods"
    console.print(f"[bold]{spec.nodes} nodes with {pods} each, and an etcd, in network namespaces of this machine[/]\n")
    steps = Steps(console)
    lab = Lab.up(spec, owner=Process.current(), progress=steps)
    try:
        steps.done()
        complete = _show(lab, console)
    finally:
        removed = lab.down()
        _heading(console, "Cleaned up")
        _verbatim(console, str(removed))
    verdict = "[green]every packet arrived[/]" if complete else "[red]packets were lost[/]"
    console.print(f"\n[bold]{verdict}[/], {time.monotonic() - began:.0f} s in all")
    return complete


def _show(lab: Lab, console: Console) -> bool:
    _heading(console, "Leases, as overlay leases prints them on n1")
    _verbatim(console, lab.nodes[0].overlay("leases").stdout)

    _heading(console, f"Ping from every pod to every other, {_PINGS} times: mean round trip in ms")
    pings = ping_matrix(lab.pods)
    console.print(_matrix(lab.pods, pings))

    first, last = lab.pods[0], lab.pods[-1]
    crossing = "crossing the underlay at MTU size" if lab.spec.wire else "the underlay left as veth pairs come"
    _heading(console, f"TCP from {first.name} to {last.name}, {crossing}")
    moved = transfer(first.namespace, last.namespace, last.address, seconds=_TRANSFER_SECONDS)
    console.print(
        f"  {moved.gigabits:.2f} Gbit/s: {moved.received / 1e6:,.0f} MB in {moved.seconds:.1f} s, "
        f"{moved.retransmits} segments sent again"
    )

    node = lab.nodes[0]
    _heading(console, f"One tunnelled packet, on {node.name}'s {INTERFACE}")
    captured, ping = capture_one(node, first, last)
    _verbatim(console, "\n".join(capture.decode(captured)))
    _verbatim(console, "\n".join(explain_ttl(captured, ping)))

    if services.kubectl_is_there():
        _heading(console, "The pods with this machine's kubectl, and a Service of them (overlay kubectl)")
        services.start(lab)
        for command, printed in services.sessions(lab):
            _verbatim(console, f"# kubectl {command}\n{printed}")
        answers = services.answers(lab)
        _heading(console, f"{answers.by_pod.total()} connections from {first.name} to {services.NAME}")
        told = ", ".join(f"{name} {count}" for name, count in sorted(answers.by_pod.items()))
        console.print(f"  resolves to {answers.address}; answers: {told}")
    return all(ping.complete for ping in pings.values()) and moved.received > 0 and ping.complete


def ping_matrix(pods: tuple[Pod, ...]) -> dict[tuple[str, str], Ping]:
    """Pings from every pod to every other pod, one pair after the other so that none disturbs another's times."""
    addresses = {pod.name: pod.address for pod in pods}
    return {
        (source.name, target): source.ping(address, count=_PINGS, interval=_PING_INTERVAL)
        for source in pods
        for target, address in addresses.items()
        if target != source.name
    }


def capture_one(node: Node, source: Pod, target: Pod) -> tuple[capture.Captured, Ping]:
    """Captures a ping from ``source`` to ``target`` as it leaves ``node``. Raises LabError if none is seen."""
    origin, destination = source.address, target.address
    with call_inside(node.namespace, lambda: capture.Listener(INTERFACE)) as listener:
        ping = source.ping(destination)
        for captured in listener.packets(_CAPTURE_SECONDS):
            if captured.direction is capture.Direction.OUT and _is_between(captured, origin, destination):
                return captured, ping
    raise LabError("no tunnelled packet seen", about=f"{INTERFACE} of {node.name}")


def explain_ttl(captured: capture.Captured, ping: Ping) -> Iterator[str]:
    """Where the inner packet's hops went: which of them routers took, and which the agents."""
    inner = captured.inner[0][8]
    yield f"TTL {_INITIAL_TTL} as the pod sent it, {inner} here: the node's routing took one, the tunnel's way in one."
    if ping.ttl is not None:
        yield f"Its way out and the other node's routing take two more: the answer arrived with {ping.ttl}."


def _is_between(captured: capture.Captured, source: IPv4Address, destination: IPv4Address) -> bool:
    return any(packet[12:20] == source.packed + destination.packed for packet in captured.inner)


def _matrix(pods: tuple[Pod, ...], pings: dict[tuple[str, str], Ping]) -> Padding:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("from", no_wrap=True)
    for pod in pods:
        table.add_column(f"to {pod.name}", justify="right", no_wrap=True)
    for source in pods:
        table.add_row(f"{source.name} {source.address}", *_cells(source, pods, pings))
    return Padding(table, (0, 0, 0, 2), expand=False)


def _cells(source: Pod, pods: tuple[Pod, ...], pings: dict[tuple[str, str], Ping]) -> Iterator[str]:
    for target in pods:
        ping = pings.get((source.name, target.name))
        if ping is None:
            yield "[dim]-[/]"
        elif ping.complete:
            yield f"{ping.rtt_ms:.2f}"
        else:
            yield f"[red]{ping.sent - ping.received} lost[/]"


def _heading(console: Console, text: str) -> None:
    console.print(f"\n[bold]{text}[/]")


def _verbatim(console: Console, text: str) -> None:
    """Another command's output, indented, as it is."""
    for line in text.rstrip().splitlines():
        console.print(f"  {line.rstrip()}", markup=False, soft_wrap=True)
