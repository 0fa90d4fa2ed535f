"""Facts about CoreDNS' ``kubernetes`` plugin, as it answers a small cluster: what is asked, and what comes.

Re-expressed from what CoreDNS' own tests expect (coredns/coredns ``plugin/kubernetes``: ``handler_test.go``,
``handler_case_test.go``, ``handler_pod_disabled_test.go``, ``…_insecure_test.go``, ``…_verified_test.go``,
``handler_ignore_emptyservice_test.go``, ``kubernetes_apex_test.go``, ``kubernetes_test.go``, ``reverse_test.go``) and
its CI's on a real cluster (coredns/ci ``build/kubernetes/dns-test.yaml`` with ``test/kubernetes/*_test.go``).

A case is a line: ``NAME TYPE`` and what comes, records divided by commas: ``TYPE DATA`` of the name that was asked for,
``OWNER TYPE DATA`` of another; what is additional stands behind ``+``. ``-`` is an existing name without such records,
``!`` a name that does not exist; both have the SOA in the authority section, and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_network

from overlay.services.dns.names import dashed
from overlay.services.dns.zone import Endpoint, Entry, Pods, Port, Zone

HTTP = Port("http", "tcp", 80)


def ends(*addresses: str, ports: tuple[Port, ...] = (HTTP,)) -> tuple[Endpoint, ...]:
    """Endpoints; ``address=hostname`` for one with a host name."""
    told = (each.partition("=") for each in addresses)
    return tuple(Endpoint(address, name or dashed(address), ports) for address, _, name in told)


PLUGIN = (
    Entry("kube-system", "kubedns", ("10.0.0.10",), ports=(Port("dns", "udp", 53),),
          endpoints=ends("172.0.0.100", ports=(Port("dns", "udp", 53),))),
    Entry("testns", "svc1", ("10.0.0.1",), ports=(HTTP,), endpoints=ends("172.0.0.1=ep1a")),
    Entry("testns", "svcempty", ("10.0.0.1",), ports=(HTTP,)),
    Entry("testns", "svc6", ("1234:abcd::1",), ports=(HTTP,)),
    Entry("testns", "hdls1", headless=True, endpoints=ends(
        "172.0.0.2", "172.0.0.3", "172.0.0.4=dup-name", "172.0.0.5=dup-name", "5678:abcd::1", "5678:abcd::2")),
    Entry("testns", "external", external="ext.interwebs.test", ports=(HTTP,)),
    Entry("testns", "external-to-service", external="svc1.testns.svc.cluster.local.", ports=(HTTP,)),
    Entry("testns", "hdlsprtls", headless=True, endpoints=ends("172.0.0.20", ports=())),
    Entry("unexposedns", "svc1", ("10.0.0.2",), ports=(HTTP,)),
    Entry("testns", "svc-dual-stack", ("10.0.0.3", "10::3"), ports=(HTTP,)),
)  # fmt: skip
"""The cluster of ``handler_test.go``."""


def zone(entries: tuple[Entry, ...] = PLUGIN, pods: Pods = Pods.INSECURE) -> Zone:
    """A zone that knows these."""
    made = Zone(server="169.254.20.10", serial=1499347823, pods=pods, verified={("podns", "10.240.0.1")})
    made.set_namespaces({entry.namespace for entry in entries} | {"podns", "svcns", "testns"})
    for entry in entries:
        made.put(entry)
    return made


SERVICES = """
svc1.testns.svc A                       A 10.0.0.1
svcempty.testns.svc A                   A 10.0.0.1
svc1.testns.svc SRV                     SRV 0 100 80 svc1.testns.svc + svc1.testns.svc A 10.0.0.1
svcempty.testns.svc SRV                 SRV 0 100 80 svcempty.testns.svc + svcempty.testns.svc A 10.0.0.1
svc6.testns.svc SRV                     SRV 0 100 80 svc6.testns.svc + svc6.testns.svc AAAA 1234:abcd::1
_http._tcp.svc1.testns.svc SRV          SRV 0 100 80 svc1.testns.svc + svc1.testns.svc A 10.0.0.1
_http._tcp.svcempty.testns.svc SRV      SRV 0 100 80 svcempty.testns.svc + svcempty.testns.svc A 10.0.0.1
hdls1.testns.svc A                      A 172.0.0.2, A 172.0.0.3, A 172.0.0.4, A 172.0.0.5
hdlsprtls.testns.svc A                  A 172.0.0.20
hdlsprtls.testns.svc SRV                -
172-0-0-20.hdlsprtls.testns.svc A       A 172.0.0.20
172-0-0-2.hdls1.testns.svc A            A 172.0.0.2
172-0-0-3.hdls1.testns.svc A            A 172.0.0.3
dup-name.hdls1.testns.svc A             A 172.0.0.4, A 172.0.0.5
5678-abcd--2.hdls1.testns.svc AAAA      AAAA 5678:abcd::2
5678-abcd--1.hdls1.testns.svc AAAA      AAAA 5678:abcd::1
hdls1.testns.svc AAAA                   AAAA 5678:abcd::1, AAAA 5678:abcd::2
ep1a.svc1.testns.svc A                  A 172.0.0.1
external.testns.svc CNAME               CNAME ext.interwebs.test
external-to-service.testns.svc A        CNAME svc1.testns.svc, svc1.testns.svc A 10.0.0.1
external.testns.svc SRV                 -
svc1.testns.svc AAAA                    -
svc0.testns.svc AAAA                    !
svc0.testns.svc A                       !
svc0.svc-nons.svc A                     !
svc1.nsnoexist.svc A                    !
dns-version TXT                         TXT "1.1.0"
bogusendpoint.hdls1.testns.svc A        !
bogusendpoint.svc0.testns.svc A         !
svc6.testns.svc AAAA                    AAAA 1234:abcd::1
_http._tcp.svc6.testns.svc SRV          SRV 0 100 80 svc6.testns.svc + svc6.testns.svc AAAA 1234:abcd::1
svc A                                   -
pod A                                   -
testns.svc A                            -
svc NS                                  -
testns.svc NS                           -
foo NS                                  !
foo.svc NS                              !
svc-dual-stack.testns.svc A             A 10.0.0.3
svc-dual-stack.testns.svc AAAA          AAAA 10::3
svc-dual-stack.testns.svc SRV           SRV 0 50 80 svc-dual-stack.testns.svc + svc-dual-stack.testns.svc A 10.0.0.3, \
svc-dual-stack.testns.svc AAAA 10::3
_http._tcp.svc-dual-stack.testns.svc SRV SRV 0 50 80 svc-dual-stack.testns.svc + svc-dual-stack.testns.svc A 10.0.0.3, \
svc-dual-stack.testns.svc AAAA 10::3
svc1.testns.svc SOA                     -
endpoint.external.testns.svc CNAME      !
svcns.svc A                             -
_http._tcp.hdls1.testns.svc SRV         SRV 0 16 80 172-0-0-2.hdls1.testns.svc, \
SRV 0 16 80 172-0-0-3.hdls1.testns.svc, \
SRV 0 16 80 dup-name.hdls1.testns.svc, SRV 0 16 80 5678-abcd--1.hdls1.testns.svc, \
SRV 0 16 80 5678-abcd--2.hdls1.testns.svc + 172-0-0-2.hdls1.testns.svc A 172.0.0.2, \
172-0-0-3.hdls1.testns.svc A 172.0.0.3, dup-name.hdls1.testns.svc A 172.0.0.4, dup-name.hdls1.testns.svc A 172.0.0.5, \
5678-abcd--1.hdls1.testns.svc AAAA 5678:abcd::1, 5678-abcd--2.hdls1.testns.svc AAAA 5678:abcd::2
webs.mynamespace.pood A                 !
too.long.for.what.i.am.trying.to.pod A  !
too.long.for.what.i.am.svc A            !
*.testns.svc A                          !
svc1.*.svc A                            !
_*._*.svc1.testns.svc SRV               !
example.org PTR                         !
svc1.testns.svc PTR                     -
100.0.0.10 PTR                          !
"""

APEX = """
@ HINFO     -
@ A         -
@ NS        NS ns.dns + ns.dns A 169.254.20.10
ns.dns A    A 169.254.20.10
ns.dns AAAA -
"""

PODS = {
    Pods.DISABLED: """
10-240-0-1.podns.pod A      !
172-0-0-2.podns.pod A       !
podns.pod A                 !
""",
    Pods.INSECURE: """
10-240-0-1.podns.pod A      A 10.240.0.1
172-0-0-2.podns.pod A       A 172.0.0.2
172-0-0-2.podns.pod AAAA    -
1234-abcd--1.podns.pod AAAA AAAA 1234:abcd::1
blah.podns.pod A            !
blah.podns.pod AAAA         !
blah.podns.pod HINFO        !
blah.pod-nons.pod A         !
10-20-0-101.test-x.pod A    !
podns.pod A                 -
""",
    Pods.VERIFIED: """
10-240-0-1.podns.pod A      A 10.240.0.1
podns.pod A                 -
svcns.svc A                 -
pod-nons.pod A              !
172-0-0-2.podns.pod A       !
10-20-0-101.test-x.pod A    !
""",
}

_UDP = Port("c-port", "udp", 1234)
_WEB = (HTTP, Port("https", "tcp", 443))

CI = (
    Entry("test-1", "svc-1-a", ("10.96.0.100",), ports=_WEB, endpoints=ends("172.17.0.253", ports=_WEB)),
    Entry("test-1", "svc-1-b", ("10.96.0.110",), ports=(HTTP,), endpoints=ends("172.17.0.5")),
    Entry("test-1", "svc-c", ("10.96.0.115",), ports=(_UDP,), endpoints=ends("172.17.0.6", ports=(_UDP,))),
    Entry("test-2", "svc-c", ("10.96.0.120",), ports=(_UDP,), endpoints=ends("172.17.0.7", ports=(_UDP,))),
    Entry("test-2", "svc-d", ("10.96.0.121",), ports=(_UDP,), endpoints=ends("172.17.0.252", ports=(_UDP,))),
    Entry("test-1", "svc-unready", headless=True, ports=(_UDP,)),
    Entry("test-1", "headless-svc", headless=True, ports=(_UDP,), endpoints=ends(
        "172.17.0.254", "172.17.0.255", "1234:abcd::1", "1234:abcd::2", ports=(_UDP,))),
    Entry("test-1", "ext-svc", external="example.net", ports=(_UDP,)),
    Entry("test-2", "upriver", external="up.river.local", ports=(_UDP,)),
    Entry("test-1", "new-svc", ("10.96.0.222",), ports=(HTTP,), endpoints=ends("172.17.0.222")),
)  # fmt: skip
"""The cluster of CoreDNS' CI. Its wildcards are gone since CoreDNS 1.9: an asterisk is no Service's name."""

CLUSTER = """
svc-1-a.test-1.svc A                    A 10.96.0.100
headless-svc.test-1.svc A               A 172.17.0.254, A 172.17.0.255
headless-svc.test-1.svc AAAA            AAAA 1234:abcd::1, AAAA 1234:abcd::2
bogusservice.test-1.svc A               !
bogusendpoint.svc-1-a.test-1.svc A      !
svc-1-a.*.svc A                         !
*.test-1.svc A                          !
*.test-2.svc A                          !
svc-unready.test-1.svc A                !
svc-unready.test-1.svc SRV              !
svc-c.test-2.svc A                      A 10.96.0.120
new-svc.test-1.svc A                    A 10.96.0.222
172-17-0-222.new-svc.test-1.svc A       A 172.17.0.222
10-20-0-101.test-1.pod A                A 10.20.0.101
svc-1-a.test-1.svc SRV                  SRV 0 50 80 svc-1-a.test-1.svc, SRV 0 50 443 svc-1-a.test-1.svc \
+ svc-1-a.test-1.svc A 10.96.0.100
_https._tcp.svc-1-a.test-1.svc SRV      SRV 0 100 443 svc-1-a.test-1.svc + svc-1-a.test-1.svc A 10.96.0.100
_http._udp.svc-1-a.test-1.svc SRV       !
_c-port._UDP.svc-c.test-1.svc SRV       SRV 0 100 1234 svc-c.test-1.svc + svc-c.test-1.svc A 10.96.0.115
172-17-0-253.svc-1-a.test-1.svc SRV     SRV 0 50 80 172-17-0-253.svc-1-a.test-1.svc, \
SRV 0 50 443 172-17-0-253.svc-1-a.test-1.svc + 172-17-0-253.svc-1-a.test-1.svc A 172.17.0.253
_not._udp-or-tcp.svc-1-a.test-1.svc SRV !
*._TcP.svc-1-a.test-1.svc SRV           !
*.*.bogusservice.test-1.svc SRV         !
_c-port._UDP.headless-svc.test-1.svc SRV SRV 0 25 1234 172-17-0-254.headless-svc.test-1.svc, \
SRV 0 25 1234 172-17-0-255.headless-svc.test-1.svc, SRV 0 25 1234 1234-abcd--1.headless-svc.test-1.svc, \
SRV 0 25 1234 1234-abcd--2.headless-svc.test-1.svc + 172-17-0-254.headless-svc.test-1.svc A 172.17.0.254, \
172-17-0-255.headless-svc.test-1.svc A 172.17.0.255, 1234-abcd--1.headless-svc.test-1.svc AAAA 1234:abcd::1, \
1234-abcd--2.headless-svc.test-1.svc AAAA 1234:abcd::2
"""

REVERSE = (
    Entry("testns", "svc1", ("192.168.1.100",), ports=(HTTP,), endpoints=ends(
        "10.0.0.100=ep1a", "10.0.0.99=double-ep", "1234:abcd::1=ep1b", "fd00:77:30::a=ip6svc1ex",
        "fd00:77:30::2:9ba6=ip6svc1in", "172.17.0.253")),
    Entry("testns", "svc2", headless=True, endpoints=ends("10.0.0.99=double-ep")),
)  # fmt: skip

REVERSE_NETWORKS = tuple(map(ip_network, ("10.0.0.0/16", "192.168.0.0/16", "1234:abcd::/64", "fd00:77:30::/64")))

ADDRESSES = """
100.0.0.10.in-addr.arpa PTR         PTR ep1a.svc1.testns.svc
100.1.168.192.in-addr.arpa PTR      PTR svc1.testns.svc
253.0.17.172.in-addr.arpa PTR       PTR 172-17-0-253.svc1.testns.svc
1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.c.b.a.4.3.2.1.ip6.arpa PTR PTR ep1b.svc1.testns.svc
a.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.3.0.0.7.7.0.0.0.0.d.f.ip6.arpa PTR PTR ip6svc1ex.svc1.testns.svc
6.a.b.9.2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.3.0.0.7.7.0.0.0.0.d.f.ip6.arpa PTR PTR ip6svc1in.svc1.testns.svc
99.0.0.10.in-addr.arpa PTR          PTR double-ep.svc1.testns.svc, PTR double-ep.svc2.testns.svc
"""


@dataclass(frozen=True)
class Case:
    """One line: what is asked, and what comes. Records are (owner, type, data); None: the name does not exist."""

    name: str
    type: str
    answer: tuple[tuple[str, str, str], ...] | None
    additional: tuple[tuple[str, str, str], ...] = ()

    def __str__(self) -> str:
        return f"{self.name} {self.type}"


_OUTSIDE = ("ext.interwebs.test",)


def cases(table: str) -> Iterator[Case]:
    """The lines of a table; names in it are below the cluster's domain, or below ``arpa``."""
    for line in filter(None, table.strip().splitlines()):
        name, kind, rest = line.split(None, 2)
        owner = full(name)
        if rest.strip() in "-!":
            yield Case(owner, kind, () if rest.strip() == "-" else None)
            continue
        answer, _, additional = rest.partition(" + ")
        yield Case(owner, kind, tuple(_records(owner, answer)), tuple(_records(owner, additional)))


def full(name: str) -> str:
    """A name of the tables with all of its labels."""
    if name == "@":
        return "cluster.local."
    if name.endswith(".arpa") or name in _OUTSIDE:
        return f"{name}."
    return f"{name}.cluster.local."


_NAMES = ("SRV", "CNAME", "PTR", "NS")


def _records(owner: str, text: str) -> Iterator[tuple[str, str, str]]:
    for part in filter(None, (each.strip() for each in text.split(","))):
        words = part.split(" ")
        if words[0].isupper() and words[0].isalpha():
            name, kind, *data = owner, *words
        else:
            name, kind, *data = full(words[0]), *words[1:]
        if kind in _NAMES:
            data[-1] = full(data[-1])
        yield name, kind, " ".join(data)
