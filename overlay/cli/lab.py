"""``overlay lab``: a cluster in network namespaces on this machine."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from ipaddress import IPv4Network
from pathlib import Path
from types import FrameType
from typing import Any

import click
from rich.console import Console

from overlay.cli.tables import show, table
from overlay.control.schema.config import parse_config
from overlay.errors import LabError, UsageError
from overlay.lab.bench.plot import write_svg
from overlay.lab.bench.report import report
from overlay.lab.bench.run import run_bench
from overlay.lab.bench.scenarios import OF_CARDS, ON_REQUEST, WAYS, Mode
from overlay.lab.cluster import Lab
from overlay.lab.shell import clean_environment, inside, overlay_command
from overlay.lab.state import StateDirectory
from overlay.lab.status import LabStatus, status_of
from overlay.lab.teardown import tear_down
from overlay.lab.topology import NETWORK, LabSpec, check_name

Command = Callable[..., Any]


@click.group()
def lab() -> None:
    """A cluster in network namespaces on this machine: real etcd, real agents, real packets.

    \b
    overlay lab up --nodes 3          three nodes, one pod on each
    overlay lab status                what they are doing
    overlay lab exec n1p1 -- ping 10.0.7.2
    overlay lab down                  removes all of it
    """


_OF_LAB = (
    click.option("--name", default="lab", show_default=True, help="Prefix of all the lab's names."),
    click.option("--state", type=click.Path(path_type=Path), help="Directory; default: /run/overlay-lab/NAME."),
)
"""Which lab."""

_TOPOLOGY = (
    click.option("--nodes", default=3, show_default=True, help="How many nodes, n1 and up."),
    click.option("--pods", default=1, show_default=True, help="How many pods on each, n1p1 and up."),
    click.option("--network", default=str(NETWORK), show_default=True, help="The overlay's network."),
    click.option("--backend", default="udp", show_default=True, help="flannel's backend type."),
    click.option("--config", metavar="JSON", help="Further members of the network's config."),
    click.option("--agent-arg", "agent_arguments", multiple=True, help="For every agent; may be repeated."),
    click.option("--mtu", default=1500, show_default=True, help="Of the underlay."),
    click.option("--wire", is_flag=True, help="No segmentation offload on the underlay: packets cross at MTU size."),
    click.option("--gro", is_flag=True, help="GRO at the nodes' underlay interfaces, as network cards have it."),
)
"""What the lab is."""


def _options(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """All of them, shown in this order."""

    def add(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def _spec(**values: Any) -> LabSpec:
    """The description that these options make. Raises UsageError or ConfigError for what cannot be."""
    try:
        values["network"] = IPv4Network(values["network"])
    except ValueError as error:
        raise UsageError(str(error), about="--network") from error
    values["config"] = _members(values["config"])
    spec = LabSpec(**values)
    parse_config(json.dumps(spec.network_config()))
    return spec


def _members(text: str | None) -> dict[str, Any]:
    try:
        members = json.loads(text or "{}")
    except ValueError as error:
        raise UsageError(f"no JSON ({error})", about="--config") from error
    if not isinstance(members, dict):
        raise UsageError("no JSON object", about="--config", remedy="""for example '{"SubnetLen": 28}'""")
    return members


def _state(name: str, state: Path | None) -> StateDirectory:
    return StateDirectory(state.absolute()) if state is not None else StateDirectory.default(check_name(name))


@lab.command(short_help="Build a lab and leave it running.")
@_options(*_OF_LAB, *_TOPOLOGY)
@click.option("--no-agents", is_flag=True, help="Machines and links alone: neither etcd nor agents.")
def up(state: Path | None, no_agents: bool, **values: Any) -> None:
    """Build a lab and leave it running."""
    spec = _spec(agents=not no_agents, **values)
    with _terminable():
        made = Lab.up(spec, _state(spec.name, state), progress=lambda step: print(f"{step} …", flush=True))
    print(f"lab {spec.name} is up; see overlay lab status" + _name_flag(spec.name))
    print(f"logs and state in {made.state.path}")


@lab.command(short_help="Remove a lab, whatever state it is in.")
@_options(*_OF_LAB)
def down(name: str, state: Path | None) -> None:
    """Remove a lab, whatever state it is in. Ends every process in its namespaces."""
    print(tear_down(name, _state(name, state)))


@lab.command(
    name="exec",
    short_help="Run a command in a node or a pod.",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@_options(*_OF_LAB)
@click.argument("machine")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def exec_(name: str, state: Path | None, machine: str, command: tuple[str, ...]) -> None:
    """Run a command, or a shell, in a node (n1), a pod (n1p1), etcd or sw (the switch); its exit status is ours."""
    namespace = Lab.load(name, _state(name, state)).machine(machine).namespace
    # Behind the machine's name nothing is an option of ours, so click leaves the separator in place.
    argv = inside(namespace, command[1:] if command[:1] == ("--",) else command)
    sys.stdout.flush()
    try:
        # The command as it is under test comes before one that is installed.
        path = f"{Path(overlay_command()).parent}:{os.environ.get('PATH', os.defpath)}"
        os.execvpe(argv[0], argv, clean_environment({"PATH": path}))
    except OSError as error:
        raise LabError(error.strerror or str(error), about=argv[0]) from error


@lab.command(short_help="Show nodes, agents, leases and pods.")
@_options(*_OF_LAB)
@click.option("--json", "as_json", is_flag=True, help="For machines.")
def status(name: str, state: Path | None, as_json: bool) -> None:
    """Show the nodes, their agents and leases, and the pods. Exit status 1 unless all of them run on a lease."""
    shown = status_of(Lab.load(name, _state(name, state)))
    if as_json:
        print(shown.to_json())
    else:
        _print_status(shown)
    if not shown.healthy:
        raise click.exceptions.Exit(1)


@lab.command(short_help="Build a lab, show that it works, and remove it.")
@click.option("--name", help="Prefix of all names; default: demo and the process id, so that two do not meet.")
@_options(*_TOPOLOGY)
def demo(name: str | None, **values: Any) -> None:
    """Build a lab, show that every pod reaches every other, and remove it. Exit status 0 if no packet was lost.

    The underlay is like a wire (--wire --gro) where ethtool is installed.
    """
    # scapy and all that it brings is needed here alone.
    from overlay.lab.demo import run_demo  # noqa: PLC0415

    if shutil.which("ethtool"):
        values |= {"wire": True, "gro": True}
    with _terminable():
        complete = run_demo(_spec(name=name or f"demo{os.getpid()}", **values), Console(highlight=False))
    if not complete:
        raise click.exceptions.Exit(1)


@lab.command(short_help="Compare all ways from pod to pod.")
@click.option(
    "--name", help="Prefix of all names; a digit is added; default: b and the process id, so that two do not meet."
)
@click.option("--mode", "modes", multiple=True, type=click.Choice([m.value for m in Mode]), help="Default: all.")
@click.option(
    "--way",
    "ways",
    multiple=True,
    type=click.Choice([way.name for way in (*WAYS, *ON_REQUEST)]),
    help="Default: all but those with stray and forged datagrams.",
)
@click.option("--seconds", default=2.0, show_default=True, type=click.FloatRange(1, 3600), help="Of a measurement.")
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1, 1000), help="How often all is repeated.")
@click.option(
    "--card",
    "cards",
    multiple=True,
    metavar="NAME",
    help="A network card instead of a veth pair, for etcd, then for each node, of one way after the other; may be "
    "repeated. The cards are joined outside of this machine, and keep the offloads that the last mode has.",
)
@click.option("--json", "as_json", is_flag=True, help="For machines.")
@click.option("--plot", type=click.Path(path_type=Path), help="Draws the first mode's medians into an SVG file.")
def bench(
    name: str | None, modes: tuple[str, ...], ways: tuple[str, ...], as_json: bool, plot: Path | None, **how: Any
) -> None:
    """Measure every way from pod to pod beside plain node to node and kernel vxlan.

    Builds a lab for each, lets them take turns in every round, and prints medians and ratios: TCP with one and four
    flows, small UDP packets, TCP round trips, CPU per gigabit. Exit status 1 if anything could not be measured.
    """
    chosen = [way for way in (*WAYS, *ON_REQUEST) if way.name in ways] or list(WAYS)
    possible = OF_CARDS if how["cards"] and not modes else tuple(Mode)
    wanted = [mode for mode in possible if not modes or mode.value in modes]
    errors = Console(stderr=True, highlight=False)
    with _terminable():
        results = run_bench(chosen, wanted, name=check_name(name or f"b{os.getpid()}"), progress=errors.print, **how)
    if as_json:
        print(results.to_json())
    else:
        show(report(results), 160)
    if plot is not None:
        write_svg(results, wanted[0], plot)
    if not results.complete:
        raise click.exceptions.Exit(1)


def _print_status(shown: LabStatus) -> None:
    listed = table("NODE", "ADDRESS", "AGENT", "SUBNET", "LEASED", "MTU", "PODS")
    leased = {True: "yes", False: "no", None: "?"}
    for node in shown.nodes:
        agent = node.agent if node.pid is None else f"{node.agent} {node.pid}"
        pods = " ".join(f"{pod.name}={pod.address or '-'}" for pod in node.pods)
        subnet, mtu = node.subnet or "-", str(node.mtu or "-")
        listed.add_row(node.name, node.address, agent, subnet, leased[node.leased], mtu, pods)
    show(listed)
    print(f"etcd {shown.etcd}: {'answers' if shown.etcd_answers else 'does not answer'}; state in {shown.state}")


def _name_flag(name: str) -> str:
    return "" if name == "lab" else f" --name {name}"


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM and SIGHUP end us as Ctrl-C does, so that what was made is removed on the way out.

    What we were started to ignore (nohup, and SIGINT in a script's background) is ignored: nobody means us by it.
    """

    def end(number: int, _: FrameType | None) -> None:
        sys.exit(128 + number)

    meant = [n for n in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) is not signal.SIG_IGN]
    before = {number: signal.signal(number, end) for number in meant}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
