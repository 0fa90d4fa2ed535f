"""Rulesets that others keep on a machine: what their own tools make, as iptables-restore and nft read it.

Docker's are what dockerd 20.10.24, 26.1.5 and 28.5.2 make for ``--bip 10.77.5.1/24``, one container, and a second
network with one; docker0 is called d1 here.
"""

from __future__ import annotations

from dataclasses import dataclass

DOCKER_26 = """\
*filter
:FORWARD DROP [0:0]
:DOCKER - [0:0]
:DOCKER-ISOLATION-STAGE-1 - [0:0]
:DOCKER-ISOLATION-STAGE-2 - [0:0]
:DOCKER-USER - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-ISOLATION-STAGE-1
-A FORWARD -o br-cd6108d8fb25 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -o br-cd6108d8fb25 -j DOCKER
-A FORWARD -i br-cd6108d8fb25 ! -o br-cd6108d8fb25 -j ACCEPT
-A FORWARD -i br-cd6108d8fb25 -o br-cd6108d8fb25 -j ACCEPT
-A FORWARD -o d1 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -o d1 -j DOCKER
-A FORWARD -i d1 ! -o d1 -j ACCEPT
-A FORWARD -i d1 -o d1 -j ACCEPT
-A DOCKER-ISOLATION-STAGE-1 -i br-cd6108d8fb25 ! -o br-cd6108d8fb25 -j DOCKER-ISOLATION-STAGE-2
-A DOCKER-ISOLATION-STAGE-1 -i d1 ! -o d1 -j DOCKER-ISOLATION-STAGE-2
-A DOCKER-ISOLATION-STAGE-1 -j RETURN
-A DOCKER-ISOLATION-STAGE-2 -o br-cd6108d8fb25 -j DROP
-A DOCKER-ISOLATION-STAGE-2 -o d1 -j DROP
-A DOCKER-ISOLATION-STAGE-2 -j RETURN
-A DOCKER-USER -j RETURN
COMMIT
*nat
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s 172.17.0.0/16 ! -o br-cd6108d8fb25 -j MASQUERADE
-A DOCKER -i br-cd6108d8fb25 -j RETURN
COMMIT
"""
"""Docker 20.10's differ in nothing but the second network's name."""

DOCKER_28 = """\
*raw
-A PREROUTING -d 172.17.0.2/32 ! -i br-67a3f87c2988 -j DROP
COMMIT
*filter
:FORWARD DROP [0:0]
:DOCKER - [0:0]
:DOCKER-BRIDGE - [0:0]
:DOCKER-CT - [0:0]
:DOCKER-FORWARD - [0:0]
:DOCKER-ISOLATION-STAGE-1 - [0:0]
:DOCKER-ISOLATION-STAGE-2 - [0:0]
:DOCKER-USER - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-FORWARD
-A DOCKER ! -i d1 -o d1 -j DROP
-A DOCKER ! -i br-67a3f87c2988 -o br-67a3f87c2988 -j DROP
-A DOCKER-BRIDGE -o d1 -j DOCKER
-A DOCKER-BRIDGE -o br-67a3f87c2988 -j DOCKER
-A DOCKER-CT -o d1 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A DOCKER-CT -o br-67a3f87c2988 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A DOCKER-FORWARD -j DOCKER-CT
-A DOCKER-FORWARD -j DOCKER-ISOLATION-STAGE-1
-A DOCKER-FORWARD -j DOCKER-BRIDGE
-A DOCKER-FORWARD -i d1 -j ACCEPT
-A DOCKER-FORWARD -i br-67a3f87c2988 -j ACCEPT
-A DOCKER-ISOLATION-STAGE-1 -i d1 ! -o d1 -j DOCKER-ISOLATION-STAGE-2
-A DOCKER-ISOLATION-STAGE-1 -i br-67a3f87c2988 ! -o br-67a3f87c2988 -j DOCKER-ISOLATION-STAGE-2
-A DOCKER-ISOLATION-STAGE-2 -o br-67a3f87c2988 -j DROP
-A DOCKER-ISOLATION-STAGE-2 -o d1 -j DROP
COMMIT
*nat
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s 172.17.0.0/16 ! -o br-67a3f87c2988 -j MASQUERADE
-A DOCKER -i br-67a3f87c2988 -j RETURN
COMMIT
"""
"""With --allow-direct-routing: without, raw has a line like the other one for our container."""

DENY_ALL_BUT = """\
*filter
-I DOCKER-USER 1 -j DROP
-I DOCKER-USER 1 -s 198.51.100.0/24 -j RETURN
COMMIT
"""

OPERATOR = """\
*filter
-A FORWARD
-A FORWARD -s 198.51.100.0/24 -m comment --comment "a \\"b\\" c" -j DROP
-A FORWARD -p tcp -m multiport --dports 80,443 -m limit --limit 5/sec -j LOG --log-prefix "it's "
COMMIT
*nat
-A POSTROUTING -s 198.51.100.0/24 -j MASQUERADE
COMMIT
"""

DROPS_AT_THE_END = """\
*filter
:FORWARD DROP [0:0]
:site-end - [0:0]
-A FORWARD -m conntrack --ctstate ESTABLISHED -j ACCEPT
-A FORWARD -j site-end
-A site-end -j REJECT --reject-with icmp-host-prohibited
COMMIT
"""

UFW = """\
*filter
:FORWARD DROP [0:0]
:ufw-before-forward - [0:0]
:ufw-user-forward - [0:0]
:ufw-after-logging-forward - [0:0]
:ufw-reject-forward - [0:0]
-A FORWARD -j ufw-before-forward
-A FORWARD -j ufw-after-logging-forward
-A FORWARD -j ufw-reject-forward
-A ufw-before-forward -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A ufw-before-forward -p icmp -m icmp --icmp-type 3 -j ACCEPT
-A ufw-before-forward -j ufw-user-forward
-A ufw-after-logging-forward -m limit --limit 3/min --limit-burst 10 -j LOG --log-prefix "[UFW BLOCK] "
COMMIT
"""

FIREWALLD = """\
table inet firewalld {
    chain filter_FORWARD {
        type filter hook forward priority filter + 10; policy accept;
        ct state { established, related } accept
        ct status dnat accept
        iifname "lo" accept
        jump filter_FORWARD_ZONES
        ct state invalid drop
        reject with icmpx admin-prohibited
    }
    chain filter_FORWARD_ZONES {
        iifname "%s" goto filter_FWD_trusted
        goto filter_FWD_public
    }
    chain filter_FWD_public {
        ip daddr 198.51.100.0/24 accept
    }
    chain filter_FWD_trusted {
        accept
    }
    chain nat_POSTROUTING {
        type nat hook postrouting priority srcnat + 10; policy accept;
    }
}
"""

FLANNEL_CHAINS = """\
*filter
:FLANNEL-FWD - [0:0]
-A FORWARD -m comment --comment "flanneld forward" -j FLANNEL-FWD
-A FLANNEL-FWD -s 10.77.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT
-A FLANNEL-FWD -d 10.77.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT
COMMIT
"""
"""v0.20 and newer."""

FLANNEL_COMMENTS = """\
*filter
-A FORWARD -s 10.77.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT
-A FORWARD -d 10.77.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT
COMMIT
*nat
-A POSTROUTING -s 10.77.0.0/16 -d 10.77.0.0/16 -m comment --comment "flanneld masq" -j RETURN
-A POSTROUTING -s 10.77.0.0/16 ! -d 224.0.0.0/4 -m comment --comment "flanneld masq" -j MASQUERADE --random-fully
COMMIT
"""
"""v0.15 to v0.19."""

FLANNEL_PLAIN = """\
*filter
-A FORWARD -s 10.77.0.0/16 -j ACCEPT
-A FORWARD -d 10.77.0.0/16 -j ACCEPT
COMMIT
*nat
-A POSTROUTING -s 10.77.0.0/16 -d 10.77.0.0/16 -j RETURN
-A POSTROUTING -s 10.77.0.0/16 ! -d 224.0.0.0/4 -j MASQUERADE --random-fully
-A POSTROUTING ! -s 10.77.0.0/16 -d 10.77.5.0/24 -j RETURN
-A POSTROUTING ! -s 10.77.0.0/16 -d 10.77.0.0/16 -j MASQUERADE --random-fully
COMMIT
"""
"""v0.9 to v0.14."""

FLANNEL_FIRST = """\
*nat
-A POSTROUTING -s 10.77.0.0/16 -d 10.77.0.0/16 -j RETURN
-A POSTROUTING -s 10.77.0.0/16 ! -d 224.0.0.0/4 -j MASQUERADE
-A POSTROUTING ! -s 10.77.0.0/16 -d 10.77.0.0/16 -j MASQUERADE
COMMIT
"""
"""v0.5 to v0.8."""

LIKE_FLANNELS = """\
*filter
-A FORWARD -s 10.77.0.0/16 -j ACCEPT
COMMIT
*nat
-A POSTROUTING -s 10.77.0.0/16 ! -d 224.0.0.0/4 -j MASQUERADE
COMMIT
"""
"""An operator's, of which a flanneld would have made only some."""


@dataclass(frozen=True)
class Foreign:
    """What others keep in the firewall.

    Attributes:
        name: of the case.
        rules: for this machine's iptables.
        other: for the variant of iptables that it does not call so.
        nft: commands for nft, after those.
        passes: whether a packet out of the tunnel comes to a container once our rules are there.
        ours: whether ``rules`` are an older flanneld's, which ours replace.
    """

    name: str
    rules: str = ""
    other: str = ""
    nft: str = ""
    passes: bool = True
    ours: bool = False


COMMENTS = """\
*filter
:FORWARD ACCEPT [0:0]
-A FORWARD -s 192.0.2.9/32 -m comment --comment "caf\udce9 \u2028 \x85 \x0c it's" -j DROP
-A FORWARD -s 192.0.2.10/32 -m comment --comment "\u0431\u0440" -j DROP
COMMIT
"""
"""Comments are bytes: in Latin-1, with what some take for the end of a line, in UTF-8."""

TABLE = (
    Foreign("nothing"),
    Foreign("comments in any encoding", COMMENTS, other=COMMENTS),
    Foreign("nft's comments in any encoding", nft='table inet site { chain c { comment "caf\udce9"; }; }'),
    Foreign("an operator's rules, one of them empty", OPERATOR),
    Foreign("an end that rejects", DROPS_AT_THE_END),
    Foreign("an end that rejects, gone to", DROPS_AT_THE_END.replace("-j site-end", "-g site-end")),
    Foreign("the other iptables drops", other="*filter\n:FORWARD DROP [0:0]\nCOMMIT\n"),
    Foreign("the other iptables has its end", OPERATOR, other=DROPS_AT_THE_END),
    Foreign("both have rules", OPERATOR, other=OPERATOR),
    Foreign("a table of nft's own", nft="add table inet site; add chain inet site c; add rule inet site c counter"),
    Foreign("firewalld", nft=FIREWALLD % "eth0", passes=False),
    Foreign("firewalld that was told", nft=FIREWALLD % "flannel0"),
    Foreign("ufw", UFW),
    Foreign("Docker 26", DOCKER_26),
    Foreign("Docker 28", DOCKER_28),
    Foreign("Docker 26, default deny", DOCKER_26 + DENY_ALL_BUT, passes=False),
    Foreign("Docker 28, default deny", DOCKER_28 + DENY_ALL_BUT, passes=False),
    Foreign("Docker in the other iptables", other=DOCKER_28),
    Foreign("Docker in the other iptables, default deny", other=DOCKER_28 + DENY_ALL_BUT, passes=False),
    Foreign("flanneld with chains", FLANNEL_CHAINS, ours=True),
    Foreign("flanneld with comments", FLANNEL_COMMENTS, ours=True),
    Foreign("flanneld without comments", FLANNEL_PLAIN, ours=True),
    Foreign("the first flanneld", FLANNEL_FIRST, ours=True),
    Foreign("rules like a flanneld's", LIKE_FLANNELS),
)

_SET = "add set ip filter guests { type ipv4_addr; }; add element ip filter guests { 192.0.2.2 }; "

IN_IPTABLES_TABLE = (
    ("a set", f"{_SET}insert rule ip filter FORWARD ip saddr @guests drop", False),
    ("a verdict map", "insert rule ip filter FORWARD ip saddr vmap { 192.0.2.2 : drop }", False),
    ("several protocols", "insert rule ip filter FORWARD meta l4proto { tcp, udp } th dport 53 drop", True),
    ("a mark", "insert rule ip filter FORWARD ct mark 5 drop", True),
    ("a quota", "add rule ip filter FORWARD quota over 10 mbytes drop", True),
    ("another base chain", "add chain ip filter early { type filter hook prerouting priority -300; }", True),
    ("a second FORWARD", "add chain ip filter late { type filter hook forward priority 5; policy accept; }", True),
    ("a comment in Latin-1", 'add rule ip filter FORWARD ct mark 5 accept comment "caf\udce9"', True),
    ("in nat", "insert rule ip nat POSTROUTING ct mark 7 accept", True),
)
"""What others make with nft in iptables' own tables: name, commands, and whether a packet of the client's passes."""
