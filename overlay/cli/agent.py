"""``overlay agent``: flanneld's flags and variables, and ours beside them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from difflib import get_close_matches
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

import click

from overlay.agent.runner import run
from overlay.agent.settings import AgentSettings
from overlay.backends.base import Flags
from overlay.cli.goflags import GO_BOOL, Verbatim, flag
from overlay.cli.options import Etcd, Places, address, etcd_flags, node_address, node_id, place_flags
from overlay.control.schema.lease import unfit_address
from overlay.errors import UsageError
from overlay.node.interfaces import Selection
from overlay.observe.logging import set_up
from overlay.packet.mtu import MAXIMUM, MINIMUM, UDP_ENCAPSULATION
from overlay.text import excerpt

_FOREIGN = {
    "kube-annotation-prefix": "there is no Kubernetes support",
    "kube-api-url": "there is no Kubernetes support",
    "kubeconfig-file": "there is no Kubernetes support",
    "net-config-path": "the config is read from etcd",
    "log_dir": "the log goes to standard error",
    "log_backtrace_at": "there are no backtraces in the log",
    "stderrthreshold": "the log goes to standard error",
    "vmodule": "-v turns debug messages on for all modules",
}
_FOREIGN_BOOL = {
    "use-multi-cluster-cidr": "there is no Kubernetes support",
    "set-node-network-unavailable": "there is no Kubernetes support",
    "alsologtostderr": "the log goes to standard error",
    "logtostderr": "the log goes to standard error",
}
"""flanneld's flags that mean nothing here, and why; they are accepted, so that its start scripts work."""


_MAX_NOTICES = 20
"""Variables that are named at most."""

_MAX_LEASE_TTL = 9_000_000_000
"""Longest that etcd grants (server/lease/lessor.go, MaxLeaseTTL)."""


_LABEL = r"[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?"
_HOST_NAME = re.compile(rf"(?=.*[a-zA-Z])(?=.{{1,253}}$){_LABEL}(\.{_LABEL})*\.?")
"""Labels of letters, digits and hyphens, joined by dots, and not digits and dots alone (RFC 1123, 2.1)."""


class _Mtu(click.IntRange):
    """0 or an MTU."""

    def __init__(self) -> None:
        super().__init__(MINIMUM, MAXIMUM)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return 0 if str(value) == "0" else super().convert(value, param, ctx)


def _foreign_flags(command: Any) -> Any:
    for name in _FOREIGN:
        command = flag(name, default=None, hidden=True)(command)
    for name in _FOREIGN_BOOL:
        command = flag(name, default=None, type=GO_BOOL, hidden=True)(command)
    return command


def _unknown_variables() -> tuple[str, ...]:
    """A line for each FLANNELD_ variable that no flag takes: as a rule one that is misspelt."""
    known = {str(parameter.envvar) for parameter in agent.params if parameter.envvar}
    unknown = sorted(name for name in os.environ if name.startswith("FLANNELD_") and name not in known)
    lines = []
    for name in unknown[:_MAX_NOTICES]:
        like = get_close_matches(name, known, 1, cutoff=0.8)
        lines.append(f"{excerpt(name)} has no effect: no flag takes it{f'; is {like[0]} meant?' if like else ''}")
    return tuple(lines)


@click.command()
@etcd_flags
@flag("iface", multiple=True, type=Verbatim(), metavar="NAME|IP", help="Underlay interface; may be repeated.")
@flag("iface-regex", multiple=True, type=Verbatim(), metavar="REGEX", help="The same by regular expression.")
@flag("iface-can-reach", default="", metavar="IP", help="The interface of the route to this address.")
@flag("public-ip", default="", metavar="IP", help="Address that other nodes send to; default: the interface's.")
@flag("public-ipv6", default="", metavar="IP", help="Accepted and published; the udp backend carries IPv4.")
@flag("subnet-lease-renew-margin", default=60, metavar="MINUTES", type=click.IntRange(1, 1439),
      help="Renew the lease at the latest so long before it expires.")  # fmt: skip
@flag("ip-masq", default=False, type=GO_BOOL, help="Masquerade what leaves the overlay.")
@flag("ip-masq-fully-random-disable", default=False, type=GO_BOOL, help="Masquerade with the ports of the containers.")
@flag("ip-blackhole-route", default=False, type=GO_BOOL, help="Blackhole our subnet while no bridge has it.")
@flag("iptables-resync", default=5, metavar="SECONDS", type=click.IntRange(1), help="How often rules are checked.")
@flag("iptables-forward-rules", default=True, type=GO_BOOL, help="Accept forwarding from and to the network.")
@flag("healthz-ip", default="0.0.0.0", metavar="IP|NAME", help="Where /healthz and /readyz are served.")
@flag("healthz-port", default=0, type=click.IntRange(0, 65535), metavar="PORT", help="Port for it; 0: not served.")
@flag("datapath", default="auto", type=click.Choice(["auto", "kernel", "userspace"]), help="What moves the packets.")
@flag(
    "workers", default=0, type=click.IntRange(0, 64), metavar="N", help="Userspace workers; 0: one for every two cores."
)
@flag("offloads", default=True, type=GO_BOOL, help="Use TUN and UDP offloads where the kernel has them.")
@flag("fou", default=True, type=GO_BOOL, help="Kernel datapath: have FOU unwrap trains, where that works.")
@flag("copy-dscp", default=False, type=GO_BOOL, help="Outer packets have the inner ones' class of service.")
@place_flags
@flag(
    "mtu",
    default=0,
    type=_Mtu(),
    metavar="BYTES",
    help=f"MTU behind the node; 0: the underlay's, with udp less {UDP_ENCAPSULATION}.",
)
@flag("lease-ttl", default=86400, type=click.IntRange(5, _MAX_LEASE_TTL), metavar="SECONDS",
      help="Life of the lease in etcd.")  # fmt: skip
@flag("node-id", default="", metavar="ID", help="This node's id; default: from machine-id.")
@flag("release-on-exit", default=False, type=GO_BOOL, help="Give the subnet back at SIGTERM.")
@flag("on-subnet-change", default="", metavar="COMMAND", help="Run by sh when the subnet changes; has FLANNEL_*.")
@flag("watch-docker", default=True, type=GO_BOOL, help="Tell where this machine's Docker keeps the overlay out.")
@flag("log-format", default="text", type=click.Choice(["text", "json"]), help="Form of the log.")
@flag("v", default=0, type=int, metavar="LEVEL", help="1 and more: debug messages.")
@flag("kube-subnet-mgr", default=False, type=GO_BOOL, hidden=True)
@flag("version", default=False, type=GO_BOOL, help="Print the version and exit.")
@_foreign_flags
def agent(etcd: Etcd, places: Places, **flags: Any) -> None:
    """Run the agent of this node: lease a subnet, make the node reach the others, keep both.

    Takes flanneld's flags, with one dash or two, and its FLANNELD_ variables; needs root. Ends with 0 at SIGTERM or
    SIGINT. The device, its route, subnet.env and the lease stay, so that nothing is lost while it is restarted.
    """
    if flags.pop("version"):
        from overlay import __version__  # noqa: PLC0415

        print(f"overlay {__version__}")
        return
    if flags["kube_subnet_mgr"]:
        raise UsageError("there is no Kubernetes support", about="--kube-subnet-mgr", remedy="leases are kept in etcd")
    ignored = tuple(
        f"--{name} has no effect here: {why}"
        for name, why in (_FOREIGN | _FOREIGN_BOOL).items()
        if flags[name.replace("-", "_")] is not None
    )
    settings = _settings(etcd, places, flags)
    set_up(flags["log_format"], verbose=flags["v"] > 0, under_journald="JOURNAL_STREAM" in os.environ)
    asyncio.run(run(settings, (*ignored, *_unknown_variables())))


def _settings(etcd: Etcd, places: Places, flags: dict[str, Any]) -> AgentSettings:
    # As flanneld has it: an empty one, which scripts leave where a variable has no value, asks for nothing.
    names, patterns = (tuple(filter(None, flags[name])) for name in ("iface", "iface_regex"))
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            raise UsageError(str(error), about=f"--iface-regex {pattern}") from error
    for name in names:
        _check_interface(name)
    return AgentSettings(
        etcd=etcd.settings,
        prefix=etcd.prefix,
        selection=Selection(
            names=names,
            patterns=patterns,
            can_reach=address("--iface-can-reach", text, IPv4Address) if (text := flags["iface_can_reach"]) else None,
            public_ip=node_address("--public-ip", text, IPv4Address) if (text := flags["public_ip"]) else None,
        ),
        subnet_file=places.subnet_file,
        state_dir=places.state_dir,
        data_dir=places.data_dir,
        public_ipv6=node_address("--public-ipv6", text, IPv6Address) if (text := flags["public_ipv6"]) else None,
        renew_margin=60 * flags["subnet_lease_renew_margin"],
        lease_ttl=flags["lease_ttl"],
        node_id=node_id(flags["node_id"]),
        ip_masq=flags["ip_masq"],
        forward_rules=flags["iptables_forward_rules"],
        random_fully=not flags["ip_masq_fully_random_disable"],
        firewall_resync=flags["iptables_resync"],
        blackhole_route=flags["ip_blackhole_route"],
        health_address=_health_address(flags),
        backend=Flags(
            device=places.device,
            mtu=flags["mtu"] or None,
            copy_dscp=flags["copy_dscp"],
            datapath=flags["datapath"],
            workers=flags["workers"] or None,
            offloads=flags["offloads"],
            fou=flags["fou"],
        ),
        release_on_exit=flags["release_on_exit"],
        on_subnet_change=flags["on_subnet_change"],
        watch_docker=flags["watch_docker"],
    )


def _health_address(flags: dict[str, Any]) -> tuple[str, int] | None:
    host = flags["healthz_ip"]
    if not _HOST_NAME.fullmatch(host):
        try:
            ip_address(host)
        except ValueError as error:
            raise UsageError("is no IP address, nor a name", about=f"--healthz-ip {excerpt(host)}") from error
    return (host, flags["healthz_port"]) if flags["healthz_port"] else None


def _check_interface(name: str) -> None:
    """Raises UsageError for an address that no interface may lend us; names may come later."""
    with contextlib.suppress(ValueError):
        if fault := unfit_address(IPv4Address(name)):
            raise UsageError(fault, about=f"--iface {name}", remedy="name the interface that other nodes are behind")
