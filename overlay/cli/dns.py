"""``overlay dns query``: which search step and which object answer a name, from what is in etcd now."""

from __future__ import annotations

from contextlib import suppress
from ipaddress import ip_address

import click

from overlay.cli.options import Etcd, etcd_flags, services_prefix_flag
from overlay.errors import ConfigError, UsageError
from overlay.services import configuration
from overlay.services.configuration import Configuration
from overlay.services.dns import entries, upstreams
from overlay.services.dns.explain import Step, explain
from overlay.services.dns.names import reverse_name
from overlay.services.dns.zone import DEFAULT_ADDRESS, Pods, Zone, domain_labels
from overlay.services.keys import Keys
from overlay.services.mirror import ServicesMirror
from overlay.store.contract import KeyRange, Store
from overlay.text import excerpt

_TYPES = ("A", "AAAA", "SRV", "CNAME", "TXT", "PTR", "NS", "SOA", "MX")


@click.group()
def dns() -> None:
    """Names of the cluster."""


@dns.command()
@click.argument("name")
@click.argument("kind", metavar="[TYPE]", default="", type=click.Choice(["", *_TYPES], case_sensitive=False))
@click.option("--namespace", "-n", default=entries.DEFAULT_NAMESPACE, show_default=True, metavar="NAME",
              help="Whose containers ask: their search list.")  # fmt: skip
@click.option("--dns-address", default=DEFAULT_ADDRESS, metavar="IP", envvar="OVERLAY_DNS_ADDRESS",
              help="Where names are answered.")  # fmt: skip
@click.option("--dns-pods", default=Pods.INSECURE.value, type=click.Choice([each.value for each in Pods]),
              envvar="OVERLAY_DNS_PODS", help="As overlay services has it.")  # fmt: skip
@etcd_flags
@services_prefix_flag
def query(
    etcd: Etcd, *, services_prefix: str, name: str, kind: str, namespace: str, dns_address: str, dns_pods: str
) -> int:
    """Explain what NAME answers: every question that a container's resolver asks, its answer, and why.

    It reads etcd and asks no server. An address is looked up by its reverse name. Exit status 1 where nothing answers.
    """
    name, kind = _asked(name, kind.upper())
    zone, prefix = etcd.run(lambda store: _zone(store, Keys(services_prefix), dns_address, Pods(dns_pods)))
    answered = False
    for step in explain(zone, name, kind, namespace, prefix):
        _print(step, kind, dns_address)
        answered = step.ends
    return 0 if answered else 1


def _asked(name: str, kind: str) -> tuple[str, str]:
    """Name and type; an address becomes its reverse name."""
    with suppress(ValueError):
        return reverse_name(ip_address(name)), kind or "PTR"
    if not name.strip(".") or ".." in name or len(name) > 253 or not name.isascii():
        raise UsageError("is no DNS name", about=excerpt(name))
    return name, kind or "A"


async def _zone(store: Store, keys: Keys, server: str, pods: Pods) -> tuple[Zone, str]:
    """All that is known, and what Services' keys begin with."""
    mirror = ServicesMirror(keys)
    mirror.load(await store.read(KeyRange(keys.root)), 0.0)
    config = _configuration(mirror)
    zone = Zone(
        domain_labels(config.domain),
        server,
        (config.service_cidr,),
        mirror.revision,
        pods,
        entries.namespaces(mirror),
        entries.pods(mirror),
    )
    for name in mirror.services:
        if (entry := entries.entry(mirror, name)) is not None:
            zone.put(entry)
    return zone, keys.objects("services")


def _configuration(mirror: ServicesMirror) -> Configuration:
    written = mirror.items.get(mirror.keys.config)
    try:
        return Configuration() if written is None else configuration.parse(written.value, mirror.keys.config)
    except ConfigError as error:
        click.echo(f"overlay dns query: {error}; the defaults are taken", err=True)
        return Configuration()


def _print(step: Step, kind: str, server: str) -> None:
    searched = f"   (search {step.suffix})" if step.suffix else ""
    print(f"{step.name} {kind}{searched}")
    if step.answer is None:
        asked = ", ".join(upstreams.of_this_host(server)) or "of which this host names none"
        print(f"    {step.why}: asked of upstreams, {asked}")
        return
    for record in step.answer.answer:
        print(f"    {record.owner} {record.ttl} IN {record.type} {record.data}")
    if not step.answer.answer:
        print("    " + ("no records (NODATA)" if step.answer.code.value == 0 else step.answer.code.name))
    if step.answer.chase:
        print(f"    … and what upstreams say of {step.answer.chase}")
    print(f"    {step.why}" + (f"   [{step.object}]" if step.object else ""))
