"""Records as kube2sky wrote them, and that a CoreDNS that reads them answers as this node does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from overlay.services.dns.answers import answer
from overlay.services.dns.records import Code, Question
from overlay.services.dns.zone import Endpoint, Entry, Port, Zone
from overlay.services.skydns import records

DOMAIN = "cluster.local"
CLIENT, METRICS = Port("client", "tcp", 6379), Port("metrics", "tcp", 9121)
HTTP = (Port("http", "tcp", 8080),)

REDIS = Entry("default", "redis", ("10.96.0.5",), ports=(CLIENT, METRICS))
PLAIN = Entry("default", "plain", ("10.96.0.6",), ports=(Port("", "tcp", 80),))
DUAL = Entry("shop", "dual", ("10.96.0.7", "fd00:96::7"), ports=HTTP)
WEB = Entry(
    "default", "web", headless=True, ports=HTTP,
    endpoints=(Endpoint("10.0.5.2", "first", HTTP), Endpoint("10.0.5.3", "10-0-5-3", HTTP)),
)  # fmt: skip
PAIR = Entry(
    "default", "pair", headless=True, ports=HTTP,
    endpoints=(Endpoint("10.0.6.2", "one", HTTP), Endpoint("fd00::6:2", "one", HTTP)),
)  # fmt: skip
OUTSIDE = Entry("default", "outside", external="db.example.com.")
ALL = (REDIS, PLAIN, DUAL, WEB, PAIR, OUTSIDE)


def value(host: str, port: int = 0) -> bytes:
    return (f'{{"host":"{host}",' + (f'"port":{port},' if port else "") + '"priority":10,"weight":10,"ttl":5}').encode()


GOLDEN = {
    REDIS: {
        "redis/10-96-0-5": value("10.96.0.5", 6379),
        "redis/_tcp/_client/10-96-0-5": value("redis.default.svc.cluster.local", 6379),
        "redis/_tcp/_metrics/10-96-0-5": value("redis.default.svc.cluster.local", 9121),
    },
    PLAIN: {"plain/10-96-0-6": value("10.96.0.6", 80)},
    WEB: {
        "web/first": value("10.0.5.2", 8080),
        "web/_tcp/_http/first": value("first.web.default.svc.cluster.local", 8080),
        "web/10-0-5-3": value("10.0.5.3", 8080),
        "web/_tcp/_http/10-0-5-3": value("10-0-5-3.web.default.svc.cluster.local", 8080),
    },
    PAIR: {
        "pair/one/10-0-6-2": value("10.0.6.2", 8080),
        "pair/one/fd00--6-2": value("fd00::6:2", 8080),
        "pair/_tcp/_http/one": value("one.pair.default.svc.cluster.local", 8080),
    },
    OUTSIDE: {"outside": value("db.example.com")},
}


@pytest.mark.parametrize("entry", GOLDEN, ids=lambda entry: entry.name)
def test_a_services_records(entry: Entry) -> None:
    expected = {f"/skydns/local/cluster/svc/default/{key}": value for key, value in GOLDEN[entry].items()}
    assert records.of_service(entry, DOMAIN) == expected


def test_other_records() -> None:
    assert records.of_pod("default", "10.0.5.2", DOMAIN, "/names") == {
        "/names/local/cluster/pod/default/10-0-5-2": value("10.0.5.2")
    }
    assert records.of_cluster(DOMAIN) == {"/skydns/local/cluster/dns-version": b'{"text":"1.1.0","ttl":28800}'}
    assert records.reverse_of(REDIS, DOMAIN) == (
        {"/skydns/arpa/in-addr/10/96/0/5": value("redis.default.svc.cluster.local")}, {},
    )  # fmt: skip
    assert records.reverse_of(WEB, DOMAIN)[1]["/skydns/arpa/in-addr/10/0/5/2"] == value(
        "first.web.default.svc.cluster.local"
    )


def test_of_two_endpoints_with_one_address_the_first_has_the_way_back() -> None:
    endpoints = tuple(Endpoint("10.0.5.2", label, HTTP) for label in ("b", "a"))
    _, behind = records.reverse_of(Entry("default", "web", headless=True, endpoints=endpoints), DOMAIN)
    assert behind == {"/skydns/arpa/in-addr/10/0/5/2": value("b.web.default.svc.cluster.local")}


@pytest.mark.parametrize("label", ["a/b", "", "..", "a b", "é", "x" * 64])
def test_what_is_no_label_leads_to_no_key(label: str) -> None:
    """Who writes objects by hand may call an endpoint what they like; it never gets out of its Service's names."""
    entry = Entry("default", "web", headless=True, endpoints=(Endpoint("10.0.5.2", label, (Port(label, "tcp", 1),)),))
    assert all(key.startswith("/skydns/local/cluster/svc/default/web/") for key in records.of_service(entry, DOMAIN))
    assert records.of_service(Entry(label, "web", ("10.96.0.1",)), DOMAIN) == {}


# --- a CoreDNS that reads them ---------------------------------------------------------------------------------------


class CoreDns:
    """How ``plugin/etcd/etcd.go`` and ``plugin/backend_lookup.go`` make answers of records."""

    def __init__(self, there: dict[str, bytes]) -> None:
        self.there = there

    def found(self, name: str, exact: bool = False) -> list[tuple[str, dict[str, Any]]]:
        path = "/skydns/" + "/".join(reversed(name.rstrip(".").lower().split(".")))
        below = [] if exact else [key for key in self.there if key.startswith(path + "/")]
        keys = below or [key for key in self.there if key == path]
        return [(key, json.loads(self.there[key])) for key in keys]

    def addresses(self, name: str, kind: str) -> Iterator[str]:
        for _, message in self.found(name):
            host = message.get("host", "")
            if _is_address(host):
                if (":" in host) == (kind == "AAAA"):
                    yield host
            elif host and not f".{host}.".endswith(f".{name}"):  # what is below is a loop, says IsSubDomain
                yield f"CNAME {host}"

    def servers(self, name: str) -> Iterator[tuple[int, str]]:
        for key, message in self.found(name):
            host = message.get("host", "")
            own = ".".join(reversed(key.removeprefix("/skydns/").split("/")))
            yield message.get("port", 0), f"{own if _is_address(host) else host}."


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def published() -> dict[str, bytes]:
    found = dict(records.of_cluster(DOMAIN))
    for entry in ALL:
        own, behind = records.reverse_of(entry, DOMAIN)
        found |= records.of_service(entry, DOMAIN) | behind | own
    return found


def known() -> Zone:
    zone = Zone(server="169.254.20.10", reverse=(ip_network("10.96.0.0/12"),), namespaces={"default", "shop"})
    for entry in ALL:
        zone.put(entry)
    return zone


def ours(name: str, kind: str) -> list[str]:
    found = answer(known(), Question(tuple(name.rstrip(".").split(".")), kind))
    assert found is not None
    assert found.code in (Code.NOERROR, Code.NXDOMAIN)
    return sorted(each.data for each in found.answer)


NAMES = [
    "redis.default", "plain.default", "dual.shop", "web.default", "pair.default", "first.web.default",
    "10-0-5-3.web.default", "one.pair.default", "nobody.default", "second.web.default", "_tcp.nobody.default",
]  # fmt: skip


@pytest.mark.parametrize("kind", ["A", "AAAA"])
@pytest.mark.parametrize("name", NAMES)
def test_addresses_are_those_that_this_node_answers(name: str, kind: str) -> None:
    full = f"{name}.svc.{DOMAIN}."
    assert sorted(set(CoreDns(published()).addresses(full, kind))) == ours(full, kind)


@pytest.mark.parametrize(
    "name",
    ["_client._tcp.redis.default", "_metrics._tcp.redis.default", "_http._tcp.dual.shop", "_http._tcp.web.default",
     "_http._tcp.pair.default", "_client._udp.redis.default", "_other._tcp.web.default"],
)  # fmt: skip
def test_ports_and_their_targets_are_those_that_this_node_answers(name: str) -> None:
    full = f"{name}.svc.{DOMAIN}."
    found = sorted(CoreDns(published()).servers(full))
    assert len(found) == len(set(found))  # it would be in the answer twice
    assert found == sorted({(int(each.split()[2]), each.split()[3]) for each in ours(full, "SRV")})


@pytest.mark.parametrize("address", ["10.96.0.5", "10.0.5.2", "10.0.5.3", "10.0.6.2", "fd00:96::7"])
def test_the_way_back_is_that_which_this_node_answers(address: str) -> None:
    name = ip_address(address).reverse_pointer + "."
    ((_, message),) = CoreDns(published()).found(name, exact=True)
    assert [f"{message['host']}."] == ours(name, "PTR")


def test_what_stands_for_an_outside_name_is_found_exactly() -> None:
    """CoreDNS answers a question about a CNAME only with what is at the very key."""
    ((_, message),) = CoreDns(published()).found("outside.default.svc.cluster.local.", exact=True)
    assert message["host"] == "db.example.com"


def test_no_record_has_another_below_it() -> None:
    """CoreDNS would never see it: it looks at what is at a name only where nothing is below."""
    keys = published()
    assert [key for key in keys if any(other.startswith(key + "/") for other in keys)] == []
