"""``overlay services``: the daemon that brings Kubernetes' objects of the network to this node."""

from __future__ import annotations

import asyncio
import json
import os
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Any

import click

from overlay.cli.goflags import flag
from overlay.cli.options import Etcd, Flag, etcd_flags, node_id, services_prefix_flag, state_dir_flag
from overlay.control.schema.keys import subnets_prefix
from overlay.daemon.status_socket import ask
from overlay.errors import UsageError
from overlay.observe.logging import set_up
from overlay.services.daemon import run
from overlay.services.dns.service import DnsSettings
from overlay.services.dns.zone import DEFAULT_ADDRESS, Pods
from overlay.services.machine import default_node_name
from overlay.services.pods.directory import DEFAULT_DIRECTORY
from overlay.services.pods.docker import DEFAULT_SOCKET
from overlay.services.pods.names import is_dns_subdomain
from overlay.services.pods.registration import DEFAULT_TTL
from overlay.services.proxy.base import SCHEDULERS
from overlay.services.proxy.modes import AUTO, CHOICES
from overlay.services.settings import ServicesSettings
from overlay.services.skydns.records import DEFAULT_PREFIX
from overlay.text import excerpt


def _own(name: str, **settings: Any) -> Flag:
    """A flag that flanneld has nothing like: ``--name``, and ``OVERLAY_NAME`` in the environment."""
    return flag(name, envvar=f"OVERLAY_{name.upper().replace('-', '_')}", **settings)


@click.command()
@etcd_flags
@services_prefix_flag
@_own("node-name", default="", metavar="NAME", help="This node's name; default: the host's.")
@flag("node-id", default="", metavar="ID", help="This node's id; default: from machine-id.")
@flag("subnet-file", default="/run/flannel/subnet.env", metavar="FILE", help="Where the agent writes our subnet.")
@_own("docker-socket", default=str(DEFAULT_SOCKET), metavar="FILE", help="Docker's API.")
@_own("pods-dir", default=str(DEFAULT_DIRECTORY), metavar="DIR", help="Pods that others make, a JSON file each.")
@state_dir_flag
@_own("services-lease-ttl", default=DEFAULT_TTL, type=click.IntRange(5, 86400), metavar="SECONDS",
      help="So long after this node is lost its pods are endpoints still.")  # fmt: skip
@_own("proxy-mode", default=AUTO, type=click.Choice(CHOICES),
      help="How Services' addresses answer; auto: ebpf, nftables or iptables, the first there is.")  # fmt: skip
@_own("proxy-scheduler", default="", type=click.Choice(["", *SCHEDULERS]), metavar="NAME",
      help=f"How an endpoint is chosen where the Service does not say: {', '.join(SCHEDULERS)}.")  # fmt: skip
@_own("proxy-cgroup", default="", metavar="DIR",
      help="Processes that mode ebpf is for, where nodes share a machine; default: all.")  # fmt: skip
@_own("services-healthz-ip", default="127.0.0.1", metavar="IP", help="Where /healthz and /readyz are served.")
@_own("services-healthz-port", default=0, type=click.IntRange(0, 65535), metavar="PORT",
      help="Port for it; 0: not served.")  # fmt: skip
@_own("dns-address", default=DEFAULT_ADDRESS, metavar="IP|none",
      help="Where the cluster's names are answered, on every node the same; none: they are not.")  # fmt: skip
@_own("dns-upstreams", default="", metavar="IP,…", help="Who is asked for all other names; default: as the host asks.")
@_own("dns-pods", default=Pods.INSECURE.value, type=click.Choice([each.value for each in Pods]),
      help="Names of pods by their addresses: of any address, of those that there are, or none.")  # fmt: skip
@_own("dns-client-rate", default=20000, type=click.IntRange(0), metavar="N",
      help="Questions a second that one client may ask; 0: as many as it likes.")  # fmt: skip
@_own("publish-skydns", default=False, is_flag=True,
      help="Keep the cluster's names in etcd as SkyDNS records, for a CoreDNS with its etcd plugin.")  # fmt: skip
@_own("skydns-prefix", default=DEFAULT_PREFIX, metavar="PREFIX", help="Where in etcd; CoreDNS calls it path.")
@flag("log-format", default="text", type=click.Choice(["text", "json"]), help="Form of the log.")
@flag("v", default=0, type=int, metavar="LEVEL", help="1 and more: debug messages.")
@click.option("--status", "only_status", is_flag=True, help="Print what the running daemon says of itself, as JSON.")
def services(etcd: Etcd, only_status: bool, **flags: Any) -> int:
    """Run the services daemon of this node: its containers become pods, and Services' addresses lead to them.

    Needs etcd, Docker's socket (or a directory of pods) and the subnet that `overlay agent`, or flanneld, has leased.
    Ends with 0 at SIGTERM or SIGINT; pods stay registered until the lease in etcd ends, so that a restart changes
    nothing.
    """
    state_dir = Path(flags["state_dir"])
    if only_status:
        report = ask(state_dir, "services")
        print(json.dumps(report, indent=2))
        return 0 if report["ready"] and not report["problems"] else 1
    settings = _settings(etcd, state_dir, flags)
    set_up(flags["log_format"], verbose=flags["v"] > 0, under_journald="JOURNAL_STREAM" in os.environ)
    asyncio.run(run(settings))
    return 0


def _settings(etcd: Etcd, state_dir: Path, flags: dict[str, Any]) -> ServicesSettings:
    name = flags["node_name"] or default_node_name()
    if not is_dns_subdomain(name):
        remedy = "use lower-case letters, digits, hyphens and dots"
        raise UsageError("is no DNS name", about=f"--node-name {excerpt(name)}", remedy=remedy)
    try:
        ip_address(flags["services_healthz_ip"])
    except ValueError as error:
        raise UsageError("is no IP address", about=f"--services-healthz-ip {flags['services_healthz_ip']}") from error
    port = flags["services_healthz_port"]
    return ServicesSettings(
        etcd=etcd.settings,
        prefix=flags["services_prefix"],
        leases=subnets_prefix(etcd.prefix),
        node_name=name,
        node_id=node_id(flags["node_id"]),
        subnet_file=Path(flags["subnet_file"]),
        state_dir=state_dir,
        docker_socket=Path(flags["docker_socket"]),
        pods_dir=Path(flags["pods_dir"]),
        lease_ttl=flags["services_lease_ttl"],
        proxy_mode=flags["proxy_mode"],
        scheduler=flags["proxy_scheduler"],
        cgroup=Path(flags["proxy_cgroup"]) if flags["proxy_cgroup"] else None,
        health_address=(flags["services_healthz_ip"], port) if port else None,
        dns=_dns(flags),
        skydns=_skydns(flags) if flags["publish_skydns"] else None,
        pod_names=Pods(flags["dns_pods"]) is not Pods.DISABLED,
    )


def _skydns(flags: dict[str, Any]) -> str:
    given, prefix = excerpt(flags["skydns_prefix"]), str(flags["skydns_prefix"]).rstrip("/")
    services = flags["services_prefix"].rstrip("/")
    if not given.startswith("/"):
        raise UsageError("has no slash at its beginning", about=f"--skydns-prefix {given}")
    if f"{prefix}/".startswith(f"{services}/") or f"{services}/".startswith(f"{prefix}/"):
        remedy = f"such as {DEFAULT_PREFIX}"
        raise UsageError(f"has keys of --services-prefix {services}", about=f"--skydns-prefix {given}", remedy=remedy)
    return prefix


def _dns(flags: dict[str, Any]) -> DnsSettings | None:
    if flags["dns_address"] == "none":
        return None
    address = _address("--dns-address", flags["dns_address"])
    if not isinstance(address, IPv4Address) or address.is_unspecified or address.is_multicast:
        remedy = f"such as {DEFAULT_ADDRESS}, or none"
        raise UsageError("is no IPv4 address", about=f"--dns-address {address}", remedy=remedy)
    listed = [each.strip() for each in flags["dns_upstreams"].split(",") if each.strip()]
    upstreams = tuple(str(_address("--dns-upstreams", each)) for each in listed)
    if str(address) in upstreams:
        raise UsageError("is our own address", about=f"--dns-upstreams {address}", remedy="name others")
    return DnsSettings(address, upstreams, Pods(flags["dns_pods"]), flags["dns_client_rate"])


def _address(name: str, text: str) -> IPv4Address | IPv6Address:
    try:
        return ip_address(text)
    except ValueError:
        raise UsageError("is no IP address", about=f"{name} {excerpt(text)}") from None
