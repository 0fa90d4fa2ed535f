"""What a firewall refuses for certain is said, and nothing else: read by real tools, and held against real packets."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network

import pytest

from overlay.lab.namespace import call_inside
from overlay.node.firewall import Firewall, desired_rules, refusals
from overlay.node.firewall.refusals import Tunnel
from tests.support.foreign_rules import DOCKER_28, UFW
from tests.support.router import NETWORK, SUBNET, VARIANTS, Router, routing

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

PORT = 8285
COMES, GOES = "what other nodes send", "what this node sends"
ENTERS, LEAVES = "what comes in by", "containers send"

DENY = """\
*filter
:INPUT DROP [0:0]
-A INPUT -i lo -j ACCEPT
-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
"""
DENY_NFT = (
    "table inet site { chain in { type filter hook input priority 0; policy drop; "
    'ct state { established, related } accept; ct state invalid drop; iifname "lo" accept; '
    "meta l4proto icmp accept; ip6 nexthdr icmpv6 accept; tcp dport { 22, 80-90 } accept; %s; }; }"
)


@dataclass(frozen=True)
class Row:
    """Rules, and a part of what is said for each kind that they refuse."""

    rules: str = ""
    nft: str = ""
    says: tuple[str, ...] = ()


TABLE = {
    "nothing": Row(),
    "Docker": Row(DOCKER_28.partition("*filter")[1] + DOCKER_28.partition("*filter")[2]),
    "deny what comes in": Row(f"{DENY}-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT\nCOMMIT\n", says=(COMES,)),
    "and accept the port": Row(f"{DENY}-A INPUT -p udp -m udp --dport {PORT} -j ACCEPT\nCOMMIT\n"),
    "and accept ports around it": Row(f"{DENY}-A INPUT -p udp -m udp --dport 8000:9000 -j ACCEPT\nCOMMIT\n"),
    "and accept several ports": Row(f"{DENY}-A INPUT -p udp -m multiport --dports 53,{PORT} -j ACCEPT\nCOMMIT\n"),
    "and accept other ports": Row(
        f"{DENY}-A INPUT -p udp -m multiport --dports 53,8286 -j ACCEPT\nCOMMIT\n", says=(COMES,)
    ),
    "and accept all but another port": Row(f"{DENY}-A INPUT -p udp -m udp ! --dport 53 -j ACCEPT\nCOMMIT\n"),
    "and accept the interface": Row(f"{DENY}-A INPUT -i flannel+ -j ACCEPT\nCOMMIT\n"),
    "and accept another interface": Row(f"{DENY}-A INPUT -i eth9 -j ACCEPT\nCOMMIT\n", says=(COMES,)),
    "and accept a site": Row(f"{DENY}-A INPUT -s 192.0.2.0/24 -j ACCEPT\nCOMMIT\n"),
    "and what only the kernel can tell": Row(f"{DENY}-A INPUT -m addrtype --dst-type LOCAL -j ACCEPT\nCOMMIT\n"),
    "by a chain that rejects": Row(
        "*filter\n:end - [0:0]\n-A INPUT -p tcp -j ACCEPT\n-A INPUT -j end\n-A end -m limit --limit 3/min -j LOG\n"
        "-A end -j REJECT\nCOMMIT\n",
        says=(COMES,),
    ),
    "by a chain that returns": Row(
        "*filter\n:end - [0:0]\n-A INPUT -j end\n-A end -p udp -j RETURN\n-A end -j DROP\nCOMMIT\n"
    ),
    "gone to, which does not return": Row(
        "*filter\n:INPUT DROP [0:0]\n:end - [0:0]\n-A INPUT -g end\n-A INPUT -j ACCEPT\n"
        "-A end -p udp -j RETURN\nCOMMIT\n",
        says=(COMES,),
    ),
    "ufw": Row(UFW),
    "deny what goes out": Row(
        "*filter\n:OUTPUT DROP [0:0]\n-A OUTPUT -o lo -j ACCEPT\n-A OUTPUT -p tcp -j ACCEPT\nCOMMIT\n", says=(GOES,)
    ),
    "raw drops": Row("*raw\n-A PREROUTING -i flannel0 -j DROP\nCOMMIT\n", says=(ENTERS, COMES)),
    "raw drops one container's": Row("*raw\n-A PREROUTING -d 10.77.5.9/32 ! -i d1 -j DROP\nCOMMIT\n"),
    "mangle drops what is forwarded": Row(
        "*mangle\n-A FORWARD -d 10.77.5.0/24 -j DROP\nCOMMIT\n", says=(ENTERS,)
    ),
    "mangle drops what containers send": Row(
        "*mangle\n-A FORWARD -s 10.77.0.0/16 -j DROP\nCOMMIT\n", says=(ENTERS, LEAVES)
    ),
    "mangle's policy": Row("*mangle\n:POSTROUTING DROP [0:0]\nCOMMIT\n", says=(ENTERS, LEAVES, GOES)),
    "nft denies what comes in": Row(nft=DENY_NFT % "", says=(COMES,)),
    "nft, and accepts the port": Row(nft=DENY_NFT % f"udp dport {PORT} accept"),
    "nft, and accepts ports around it": Row(nft=DENY_NFT % "udp dport { 53, 8000-9000 } accept"),
    "nft, and accepts another port": Row(nft=DENY_NFT % "udp dport { 53, 8286 } accept", says=(COMES,)),
    "nft, and accepts UDP": Row(nft=DENY_NFT % "meta l4proto udp accept"),
    "nft, and accepts protocols": Row(nft=DENY_NFT % "meta l4proto { tcp, udp } accept"),
    "nft, and accepts the interface": Row(nft=DENY_NFT % 'iifname "flannel0" accept'),
    "nft, and accepts all but another interface": Row(nft=DENY_NFT % 'iifname != "eth9" accept'),
    "nft, and accepts a site": Row(nft=DENY_NFT % "ip saddr 192.0.2.0/24 accept"),
    "nft, and accepts by a map": Row(nft=DENY_NFT % "ip saddr vmap { 192.0.2.2 : accept }"),
    "nft, and goes by a chain": Row(
        nft="table inet site { chain more { udp dport 53 accept; }; chain in { type filter hook input priority 0; "
        "policy drop; tcp dport 22 accept; jump more; }; }",
        says=(COMES,),
    ),
    "nft denies what goes out": Row(
        nft="table ip site { chain out { type filter hook output priority 0; policy drop; tcp dport 2379 accept; }; }",
        says=(GOES,),
    ),
    "nft drops before all": Row(
        nft="table inet site { chain pre { type filter hook prerouting priority raw; "
        "iifname flannel0 counter drop; }; }",
        says=(ENTERS, COMES),
    ),
    "nft drops IPv6": Row(
        nft="table inet site { chain in { type filter hook input priority 0; meta nfproto ipv6 drop; }; }"
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def router(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Router]:
    with routing(request.param, tmp_path_factory.mktemp("tools"), outside="flannel0") as made:
        yield made


def empty(router: Router) -> None:
    router.inside("router", "nft", "flush", "ruleset")
    for table in router.inside("router", "cat", "/proc/net/ip_tables_names").split():
        chains = {"raw": "PREROUTING OUTPUT", "filter": "INPUT FORWARD OUTPUT"}.get(table, "PREROUTING OUTPUT")
        chains = f"{chains} INPUT FORWARD POSTROUTING" if table == "mangle" else chains
        policies = "".join(f":{chain} ACCEPT [0:0]\n" for chain in chains.split())
        router.inside("router", "iptables-legacy-restore", text=f"*{table}\n{policies}COMMIT\n")


def udp(router: Router, role: str) -> socket.socket:
    """A socket in one of the namespaces, which it stays in."""
    return call_inside(router.names[role], lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))


def arrives(router: Router) -> bool:
    """Whether a datagram from outside comes to a socket of the node."""
    with udp(router, "router") as listener, udp(router, "client") as sender:
        listener.bind(("192.0.2.1", PORT))
        listener.settimeout(0.3)  # a veth delivers before the sender's call ends
        sender.sendto(b"x", ("192.0.2.1", PORT))
        try:
            return listener.recv(9) == b"x"
        except TimeoutError:
            return False


def sends(router: Router) -> bool:
    """Whether a datagram of the node gets out."""
    with udp(router, "router") as sender:
        try:
            sender.sendto(b"x", ("192.0.2.2", PORT))
        except PermissionError:  # what is dropped on its way out
            return False
        return True


WITH_LEGACY = ("nothing", "deny what comes in", "by a chain that rejects", "raw drops", "mangle's policy")


def rows() -> Iterator[object]:
    """All with iptables in nftables, some with the kernel's older tables: what they print is the same."""
    for variant in VARIANTS:
        for name, row in TABLE.items():
            if variant == "iptables-nft" or name in WITH_LEGACY:
                yield pytest.param(variant, row, id=f"{variant}-{name}")


@pytest.mark.parametrize(("router", "row"), list(rows()), indirect=["router"], scope="module")
def test_what_is_refused_for_certain_is_said(router: Router, row: Row) -> None:
    empty(router)
    if row.rules:
        router.restore(row.rules)
    if row.nft:
        router.inside("router", "nft", row.nft)
    Firewall(tools=router.tools).reconcile(desired_rules(NETWORK, SUBNET, ip_masq=False))
    kinds = refusals.kinds(NETWORK, SUBNET, "flannel0", Tunnel(PORT, "flannel0"))
    found = [problem.text for problem in refusals.look(router.tools, kinds)]
    assert len(found) == len(row.says), found
    assert all(any(part in text for text in found) for part in row.says)
    # What is said is so. What is not said may be so all the same: these rules know more than they tell.
    assert arrives(router) is (COMES not in row.says)
    assert sends(router) is (GOES not in row.says)
    if ENTERS in row.says:
        assert not router.reaches()


def test_datagrams_that_no_firewall_is_asked_about_are_not_looked_for() -> None:
    kinds = refusals.kinds(NETWORK, IPv4Network("10.77.5.0/24"), "flannel0", None)
    assert {kind.packet.protocol for kind in kinds} == {None}
