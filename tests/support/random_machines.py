"""Machines that others have set up in every way that comes to mind, made from a seed, and all that they are as text."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from random import Random

from overlay.node.routes import PROTOCOL, blackhole_route
from tests.support.machines import bridge, link, tun

NETWORKS = (
    "10.0.0.0/16",
    "10.0.0.0/16",
    "10.0.0.0/16",
    "10.96.0.0/12",
    "172.31.0.0/24",
    "172.16.0.0/12",
    "10.0.0.0/20",
)


@dataclass
class Plan:
    """What one machine is made of.

    Attributes:
        network: for the config.
        links: lines of ``ip -batch`` that are done in order, and may fail: two features may not go together.
        shell: the same as shell commands: rules of the firewall, and settings.
        leftovers: what an agent that died here before has left: no part of what must stay.
        flags: of the agent.
    """

    network: str
    nftables: bool
    links: list[str] = field(default_factory=list)
    shell: list[str] = field(default_factory=list)
    leftovers: list[str] = field(default_factory=list)
    flags: list[str] = field(default_factory=list)


def plan(seed: int) -> Plan:
    """The machine of ``seed``: eth0 at 172.31.0.99/24, with etcd at 172.31.0.100, and what chance puts beside it."""
    chance = Random(seed)
    made = Plan(chance.choice(NETWORKS), chance.random() < 0.3)
    for feature in chance.sample(_FEATURES, chance.randint(3, len(_FEATURES))):
        feature(made, chance)
    made.flags += [
        f"--ip-masq={str(chance.random() < 0.6).lower()}",
        f"--ip-blackhole-route={str(chance.random() < 0.5).lower()}",
        f"--iptables-forward-rules={str(chance.random() < 0.8).lower()}",
        f"--datapath={chance.choice(('kernel', 'userspace', 'auto'))}",
        "--workers=1",
        *(["--iface=eth0"] if chance.random() < 0.6 else []),
    ]
    return made


def _somewhere(chance: Random) -> str:
    """A destination as sites have them, near the overlay's and far from it."""
    return chance.choice(
        (
            f"10.{chance.randrange(256)}.0.0/16", f"10.0.{chance.randrange(256)}.0/24", "10.0.0.0/8", "10.0.0.0/16",
            f"192.168.{chance.randrange(256)}.0/24", f"203.0.113.{chance.randrange(256)}/32", "172.30.0.0/16",
        )
    )  # fmt: skip


def _default_route(made: Plan, chance: Random) -> None:
    metric = chance.choice(("", " metric 100", " metric 4278198272"))
    made.links.append(f"route add default via 172.31.0.{chance.choice((100, 254))}{metric}")


def _second_lan(made: Plan, chance: Random) -> None:
    address = chance.choice(("192.168.7.2/24", "10.77.0.2/16", "10.0.200.2/24", "100.64.3.4/10"))
    made.links += link("eth1", address, mtu=chance.choice((1400, 1500, 9000))).splitlines()


def _more_addresses(made: Plan, chance: Random) -> None:
    made.links += [
        f"addr add 172.31.0.{chance.randrange(2, 90)}/24 dev eth0",
        f"addr add 10.255.0.{chance.randrange(1, 250)}/32 dev lo",
        f"addr add 169.254.{chance.randrange(255)}.7/16 dev eth0 scope link",
    ]


def _docker(made: Plan, chance: Random) -> None:
    address = chance.choice(("172.17.0.1/16", "10.0.58.1/24", "10.0.0.1/16", "192.168.9.1/24"))
    made.links += [*link("veth9").splitlines(), *bridge("docker0", address, ports=("veth9",)).splitlines()]


def _uplink_bridge(made: Plan, chance: Random) -> None:
    made.links += bridge("br0", f"10.{chance.randrange(1, 255)}.5.1/24").splitlines()


def _vpn(made: Plan, chance: Random) -> None:
    made.links += tun("tun0", chance.choice(("10.8.0.2/24", "10.0.8.2/24"))).splitlines()
    if chance.random() < 0.4:
        made.links += ["route add 0.0.0.0/1 dev tun0", "route add 128.0.0.0/1 dev tun0"]


def _another_agent(made: Plan, chance: Random) -> None:
    metric = blackhole_route(IPv4Network("10.200.3.0/24"), "flannel1").metric
    made.links += tun("flannel1", "10.200.3.0/32").splitlines()
    made.links += [
        f"route add 10.200.0.0/16 dev flannel1 proto {PROTOCOL}",
        f"route add blackhole 10.200.3.0/24 proto {PROTOCOL} metric {metric}",
    ]
    made.shell += ["iptables -N FLANNEL-FWD-flannel1", "iptables -A FORWARD -j FLANNEL-FWD-flannel1"]


def _site_routes(made: Plan, chance: Random) -> None:
    for _ in range(chance.randint(1, 6)):
        target = _somewhere(chance)
        made.links.append(
            chance.choice(
                (
                    f"route add {target} via 172.31.0.{chance.randrange(2, 250)}",
                    f"route add {target} via 172.31.0.9 metric {chance.randrange(1, 5000)}",
                    f"route add {target} via 172.31.0.9 tos 0x10",
                    f"route add {chance.choice(('blackhole', 'unreachable', 'prohibit', 'throw'))} {target}"
                    f" metric {chance.choice((0, 7, 2**31 - 1, 2**31 + 5))}",
                    f"route add {target} nexthop via 172.31.0.9 nexthop via 172.31.0.8",
                    f"route add {target} dev eth0 mtu 1300 proto {chance.choice((4, 16, 186))}",
                    f"route add {target} via 172.31.0.9 table {chance.randrange(100, 110)}",
                )
            )
        )


def _rules(made: Plan, chance: Random) -> None:
    for preference in range(100, 100 + chance.randint(1, 4)):
        made.links.append(
            chance.choice(
                (
                    f"rule add pref {preference} fwmark {chance.randrange(1, 99)} lookup {chance.randrange(100, 110)}",
                    f"rule add pref {preference} from 192.168.0.0/16 lookup {chance.randrange(100, 110)}",
                    f"rule add pref {preference} to 203.0.113.0/24 blackhole",
                    f"rule add pref {preference} iif lo uidrange 5000-5001 lookup main",
                )
            )
        )


def _iptables(made: Plan, chance: Random) -> None:
    made.shell += chance.sample(
        (
            "iptables -A INPUT -s 192.0.2.0/24 -j DROP",
            "iptables -A FORWARD -s 192.0.2.1 -j REJECT",
            "iptables -I FORWARD -m conntrack --ctstate ESTABLISHED -m comment --comment 'it''s ours' -j ACCEPT",
            "iptables -t nat -A POSTROUTING -s 192.168.0.0/16 -j MASQUERADE",
            "iptables -t nat -A PREROUTING -p tcp --dport 8080 -j DNAT --to 192.168.1.2:80",
            "iptables -t mangle -A FORWARD -p tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu",
            "iptables -P FORWARD DROP",
            "iptables -P INPUT ACCEPT",
            "iptables -N site; iptables -A site -j RETURN; iptables -A FORWARD -g site",
        ),
        chance.randint(1, 7),
    )


def _docker_rules(made: Plan, chance: Random) -> None:
    made.shell += ["iptables -N DOCKER-USER", "iptables -A DOCKER-USER -j RETURN", "iptables -I FORWARD -j DOCKER-USER"]
    if chance.random() < 0.5:
        made.shell += ["iptables -I DOCKER-USER -i eth1 -j DROP", "iptables -P FORWARD DROP"]


def _nftables(made: Plan, chance: Random) -> None:
    policy, priority = chance.choice(("accept", "drop")), chance.choice((-150, 0, 10))
    made.shell += [
        "nft add table inet site",
        f"nft 'add chain inet site forward {{ type filter hook forward priority {priority}; policy {policy}; }}'",
        "nft 'add set inet site friends { type ipv4_addr; flags interval; elements = { 192.0.2.0/24 }; }'",
        "nft add rule inet site forward ip saddr @friends counter accept comment '\"a friend\"'",
    ]


def _settings(made: Plan, chance: Random) -> None:
    for name in ("ip_forward", "conf.all.rp_filter", "conf.eth0.rp_filter", "conf.eth0.accept_redirects"):
        made.shell.append(f"sysctl -qw net.ipv4.{name}={chance.randrange(2)}")


def _traffic_control(made: Plan, chance: Random) -> None:
    made.shell.append(
        chance.choice(
            (
                "tc qdisc add dev eth0 clsact",
                "tc qdisc add dev eth0 root pfifo limit 99",
                "tc qdisc add dev eth0 ingress",
            )
        )
    )


def _died_before(made: Plan, chance: Random) -> None:
    """An agent of another time was killed here, with another subnet or Network."""
    metric = blackhole_route(IPv4Network("10.0.9.0/24"), "flannel0").metric
    made.leftovers += [
        *tun("flannel0", "10.0.9.0/32").splitlines(),
        f"route add {chance.choice(('10.0.0.0/16', '10.9.0.0/16'))} dev flannel0 proto {PROTOCOL} scope link",
        f"route add blackhole 10.0.9.0/24 proto {PROTOCOL} metric {metric}",
    ]


_FEATURES: tuple[Callable[[Plan, Random], None], ...] = (
    _default_route, _second_lan, _more_addresses, _docker, _uplink_bridge, _vpn, _another_agent, _site_routes, _rules,
    _iptables, _docker_rules, _nftables, _settings, _traffic_control, _died_before,
)  # fmt: skip


# --- what a machine is, as text ---

_LOOK = """
for what in link address rule '-6 rule' 'neighbour show nud permanent' 'route show table all' \\
    '-6 route show table all'; do
    echo "== ip $what"; ip $what
done
for device in $(ls /sys/class/net); do
    echo "== tc $device"; tc qdisc show dev $device
    for hook in ingress egress; do tc filter show dev $device $hook; done
done
echo "== sysctl"; sysctl -a --pattern '^net[.]ipv4[.](ip_forward|conf)' 2>/dev/null | sort
"""


def look(namespace: str) -> str:
    """Links, addresses, routes, rules, filters, settings and rulesets; counters are at nought."""
    shown = _run(namespace, _LOOK)
    rules = json.loads(_run(namespace, "nft -j list ruleset"))["nftables"]
    return f"{shown}== nft\n" + "".join(f"{json.dumps(_still(entry))}\n" for entry in rules if "metainfo" not in entry)


def _still(entry: object) -> object:
    """Without handles, and with counters at nought."""
    if isinstance(entry, dict):
        still = {name: _still(value) for name, value in entry.items() if name != "handle"}
        return still | {name: 0 for name in ("packets", "bytes") if name in still}
    return [_still(each) for each in entry] if isinstance(entry, list) else entry


def _run(namespace: str, script: str) -> str:
    done = subprocess.run(
        ["ip", "netns", "exec", namespace, "sh", "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    # How long an address lives, and which neighbour answered last, are nobody's setting.
    return re.sub(r" (expires|age) \d+sec", "", done.stdout)
