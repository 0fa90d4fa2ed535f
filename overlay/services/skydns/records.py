"""What a Service and a pod are as SkyDNS records: keys and values. Pure.

A key is the name's labels the other way round, a value the message of ``msg/service.go`` of SkyDNS and of CoreDNS'
``plugin/etcd``. The layout is kube2sky's (``cluster/addons/dns/kube2sky``), below ``/skydns/local/cluster``::

    svc/default/redis/10-96-0-5               {"host":"10.96.0.5","port":6379,…}
    svc/default/redis/_tcp/_client/10-96-0-5  {"host":"redis.default.svc.cluster.local","port":6379,…}
    svc/default/web/first                     {"host":"10.0.5.2",…}       an endpoint of a headless Service
    svc/default/web/_tcp/_http/first          {"host":"first.web.default.svc.cluster.local","port":8080,…}
    svc/default/outside                       {"host":"db.example.com",…}
    pod/default/10-0-5-2                      {"host":"10.0.5.2",…}
    dns-version                               {"text":"1.1.0",…}

and ``/skydns/arpa/in-addr/10/96/0/5`` for the way back. CoreDNS answers with all that is *below* a name, and with what
is at it only where nothing is below, so an address never stands where something else is below it. That a name below
points at what is above it (or beside) is left out of answers with addresses, as it is a loop.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from ipaddress import ip_address
from typing import NamedTuple

import msgspec

from overlay.services.dns.answers import VERSION, VERSION_TTL
from overlay.services.dns.names import dashed
from overlay.services.dns.zone import TTL, Endpoint, Entry, Port

DEFAULT_PREFIX = "/skydns"
"""CoreDNS' ``path``, by default."""

PRIORITY, WEIGHT = 10, 10
"""Kube2sky's. CoreDNS makes the weights of one answer sum up to 100, and 10 of a priority of 0."""

_LABEL = re.compile(r"[a-z0-9_]([-a-z0-9_]{0,61}[a-z0-9_])?")
"""What may be a part of a key. Whoever writes to etcd by hand may have named something otherwise."""


class _Message(msgspec.Struct, omit_defaults=True, frozen=True):
    """In the order of the fields in Go, which leaves out what is empty as well."""

    host: str = ""
    port: int = 0
    priority: int = 0
    weight: int = 0
    text: str = ""
    ttl: int = 0


def of_service(entry: Entry, domain: str, prefix: str = DEFAULT_PREFIX) -> dict[str, bytes]:
    """What a Service's names are.

    Args:
        entry: the Service as its names see it.
        domain: the cluster's, without a dot at its end.
        prefix: what all keys begin with, without a slash at its end.
    """
    name = f"{entry.name}.{entry.namespace}.svc.{domain}"
    if entry.external:
        return _records(prefix, [(name, _message(entry.external.rstrip(".")))])
    return _records(prefix, [each for place in _places(entry) for each in _of_place(name, place)])


class _Place(NamedTuple):
    """One address under a Service's name.

    Attributes:
        own: labels in front of that name; two where an endpoint's label is another one's too.
        leaf: of its SRV records' keys; where two places have the same SRV record, it is one key.
        target: what those point at: a label in front of the name, none for the Service itself.
    """

    own: str
    address: str
    ports: tuple[Port, ...]
    leaf: str
    target: str


def _places(entry: Entry) -> Iterator[_Place]:
    if not entry.headless:
        for address in entry.addresses:
            yield _Place(dashed(address), address, entry.ports, dashed(entry.addresses[0]), "")
        return
    shared = _shared(entry.endpoints)
    for each in entry.endpoints:
        label = each.label.lower()
        own = f"{dashed(each.address)}.{label}" if label in shared else label
        yield _Place(own, each.address, each.ports, label, f"{label}.")


def _shared(endpoints: Iterable[Endpoint]) -> set[str]:
    """Labels of more than one endpoint: host names of pods with two addresses, as a rule."""
    seen, shared = set[str](), set[str]()
    for label in (each.label.lower() for each in endpoints):
        (shared if label in seen else seen).add(label)
    return shared


def _of_place(name: str, place: _Place) -> Iterator[tuple[str, _Message]]:
    yield f"{place.own}.{name}", _message(place.address, place.ports[0].number if place.ports else 0)
    for port in place.ports:
        if port.name:
            srv = f"{place.leaf}._{port.name.lower()}._{port.protocol}.{name}"
            yield srv, _message(f"{place.target}{name}", port.number)


def of_pod(namespace: str, address: str, domain: str, prefix: str = DEFAULT_PREFIX) -> dict[str, bytes]:
    """What a pod's name by its address is."""
    return _records(prefix, [(f"{dashed(address)}.{namespace}.pod.{domain}", _message(address))])


def of_cluster(domain: str, prefix: str = DEFAULT_PREFIX) -> dict[str, bytes]:
    """What belongs to no object: the version of the specification."""
    return _records(prefix, [(f"dns-version.{domain}", _Message(text=VERSION, ttl=VERSION_TTL))])


def reverse_of(entry: Entry, domain: str, prefix: str = DEFAULT_PREFIX) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """The way back: from a Service's own addresses, and from its endpoints'.

    A key holds one name, so of several Services with an endpoint one alone has it; an own address comes before.
    """
    name = f"{entry.name}.{entry.namespace}.svc.{domain}"
    own = [(_reverse(each), _message(name)) for each in entry.addresses]
    behind = [(_reverse(each.address), _message(f"{each.label.lower()}.{name}")) for each in entry.endpoints]
    return _records(prefix, own), _records(prefix, behind[::-1])  # of two with one address the first counts


def _reverse(address: str) -> str:
    return ip_address(address).reverse_pointer


def _message(host: str, port: int = 0) -> _Message:
    return _Message(host, port, PRIORITY, WEIGHT, ttl=TTL)


def _records(prefix: str, named: Iterable[tuple[str, _Message]]) -> dict[str, bytes]:
    """By their keys; what cannot be one is left out."""
    found = {}
    for name, message in named:
        labels = name.lower().split(".")
        if all(map(_LABEL.fullmatch, labels)):
            found["/".join((prefix, *reversed(labels)))] = msgspec.json.encode(message)
    return found
