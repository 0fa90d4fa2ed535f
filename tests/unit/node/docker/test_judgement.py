"""What Dockers of several versions need, and what is said of those that run without it: tables of facts."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import pytest

from overlay.node.docker.daemon import BridgeNetwork, Daemon, Told
from overlay.node.docker.judgement import Place, judge
from overlay.node.docker.needs import Needs, needs
from overlay.node.docker.program import Abilities, parse_version
from overlay.node.docker.restart import Restart, would_help
from overlay.node.firewall.saved import Saved

SUBNET = IPv4Network("10.0.5.0/24")
HERE = BridgeNetwork("bridge", "docker0", (SUBNET,))
ELSEWHERE = BridgeNetwork("bridge", "docker0", (IPv4Network("172.17.0.0/16"),))
DIRECT = ("dockerd", "--allow-direct-routing")
RAW = ("-A PREROUTING -d 10.0.5.2/32 ! -i docker0 -j DROP",)


@pytest.mark.parametrize(
    ("abilities", "told", "wanted"),
    [
        (Abilities((20, 10)), Told(), Needs()),
        (Abilities((27, 5)), Told(), Needs()),
        (Abilities((28, 0)), Told(), Needs(environment={"DOCKER_INSECURE_NO_IPTABLES_RAW": "1"})),
        (Abilities((28, 5), True), Told(), Needs({"DOCKER_OPT_DIRECT_ROUTING": "--allow-direct-routing"})),
        (Abilities((28, 5), True), Told(file={"allow-direct-routing": True}), Needs()),
        (
            Abilities((29, 1), True, True),
            Told(file={"firewall-backend": "nftables"}),
            Needs(
                {
                    "DOCKER_OPT_DIRECT_ROUTING": "--allow-direct-routing",
                    "DOCKER_OPT_ACCEPT_MARK": "--bridge-accept-fwmark=0x100000/0x100000",
                }
            ),
        ),
        (
            Abilities((29, 1), True, True),
            Told(("--firewall-backend=iptables",)),
            Needs({"DOCKER_OPT_DIRECT_ROUTING": "--allow-direct-routing"}),
        ),
    ],
)
def test_what_a_docker_needs(abilities: Abilities, told: Told, wanted: Needs) -> None:
    assert needs(abilities, told) == wanted


def docker(version: tuple[int, int], *arguments: str, network: BridgeNetwork = HERE, **more: Any) -> Daemon:
    return Daemon(version, Told(("dockerd", *arguments)), (network,), **more)


def trusting(options: str, value: str) -> BridgeNetwork:
    return BridgeNetwork("bridge", "docker0", (SUBNET,), {f"com.docker.network.bridge.{options}": value})


@pytest.mark.parametrize(
    ("running", "raw", "codes"),
    [
        (docker((20, 10)), (), []),
        (docker((20, 10), network=ELSEWHERE), (), ["docker-subnet"]),
        (docker((20, 10), network=BridgeNetwork("own", "br-1", (IPv4Network("172.18.0.0/16"),))), (), []),
        (docker((20, 10), network=BridgeNetwork("own", "br-1", (IPv4Network("10.0.5.128/25"),))), (), []),
        (docker((26, 1)), (), []),
        (docker((28, 0)), (), []),
        (docker((28, 0)), RAW, ["docker-filter"]),
        (docker((28, 2)), (), ["docker-filter"]),
        (docker((28, 5), network=ELSEWHERE), (), ["docker-subnet"]),
        (docker((28, 5), "--allow-direct-routing"), (), []),
        (docker((28, 5), "--allow-direct-routing=false"), (), ["docker-filter"]),
        (docker((28, 5), "--iptables=false"), (), []),
        (docker((28, 5), network=trusting("trusted_host_interfaces", "eth9:flannel0")), (), []),
        (docker((28, 5), network=trusting("trusted_host_interfaces", "eth9")), (), ["docker-filter"]),
        (docker((28, 5), network=trusting("gateway_mode_ipv4", "routed")), (), []),
        (docker((29, 0), "--allow-direct-routing", nftables=True), (), ["docker-mark"]),
        (docker((29, 0), "--bridge-accept-fwmark=0x100000/0x100000", nftables=True), (), []),
        (docker((29, 0), "--bridge-accept-fwmark", "1048576", nftables=True), (), []),
        (docker((29, 0), "--bridge-accept-fwmark=1/1", nftables=True), (), ["docker-mark"]),
    ],
)
def test_what_is_said_of_a_docker_that_runs(running: Daemon, raw: tuple[str, ...], codes: list[str]) -> None:
    rules = tuple(Saved.parse("\n".join(raw)).chain("PREROUTING"))
    found = list(judge(running, Place(SUBNET, "flannel0", rules)))
    assert [problem.code for problem in found] == codes
    assert all("docker" in problem.remedy for problem in found)


def test_with_live_restore_the_remedy_is_another() -> None:
    (problem,) = judge(docker((20, 10), network=ELSEWHERE, live_restore=True, containers=2), Place(SUBNET, "flannel0"))
    assert "stop all of them" in problem.remedy


BIP = "--bip=10.0.5.1/24"


@pytest.mark.parametrize(
    ("running", "helps"),
    [
        (docker((20, 10), BIP, network=ELSEWHERE), True),
        (docker((20, 10), BIP, network=ELSEWHERE, live_restore=True), True),
        (docker((20, 10), BIP, network=ELSEWHERE, live_restore=True, containers=1), False),
        (docker((20, 10), BIP), False),
        (docker((20, 10), network=ELSEWHERE), False),
        (docker((20, 10), "--bip=10.0.6.1/24", network=ELSEWHERE), False),
        (docker((20, 10), "--bip=nonsense", network=ELSEWHERE), False),
        (docker((20, 10), BIP, network=BridgeNetwork("own", "br-1", (IPv4Network("172.18.0.0/16"),))), False),
    ],
)
def test_when_a_restart_would_help_and_harm_nobody(running: Daemon, helps: bool) -> None:
    assert would_help(running, Place(SUBNET, "flannel0")) is helps


def test_a_restart_is_asked_for_ever_more_seldom(tmp_path: Path) -> None:
    restart, asked = Restart(tmp_path), tmp_path / "docker-stale"
    times = [now for now in range(0, 12_000, 10) if restart.consider(True, now)]
    assert times == [0, 60, 180, 420, 900, 1860, 3780, 7380, 10980]
    assert asked.exists()
    asked.unlink()
    assert not restart.consider(False, 12_000)
    assert not asked.exists()
    assert restart.consider(True, 12_010), "another time, at once"
    assert asked.exists()


@pytest.mark.parametrize(
    ("rules", "dropped"),
    [
        (["-d 10.0.5.2/32 ! -i docker0 -j DROP"], True),
        (["-d 10.0.5.2/32 -i flannel0 -j ACCEPT", "-d 10.0.5.2/32 ! -i docker0 -j DROP"], False),
        (["-d 10.0.5.2/32 -i eth9 -j ACCEPT", "-d 10.0.5.2/32 ! -i docker0 -j DROP"], True),
        (["-d 172.18.0.2/32 ! -i br-1 -j DROP"], False),
        (["-d 10.0.5.2/32 -p tcp -m tcp --dport 80 ! -i docker0 -j DROP"], False),
        (["-d 10.0.5.2/32 ! -i flannel0 -j DROP"], False),
        (["-j DROP", "! -d 10.0.5.2/32 -j DROP"], False),
    ],
)
def test_what_raw_prerouting_drops(rules: list[str], dropped: bool) -> None:
    saved = Saved.parse("".join(f"-A PREROUTING {rule}\n" for rule in rules))
    place = Place(SUBNET, "flannel0", tuple(saved.chain("PREROUTING")))
    assert bool(list(judge(docker((28, 0)), place))) is dropped


def test_options_as_docker_reads_them() -> None:
    told = Told(("dockerd", "--bip", "10.0.5.1/24", "--mtu=1472", "--a", "--b=false", "--a=false"), {"c": True, "d": 5})
    assert [told.value(name) for name in ("bip", "mtu", "a", "b", "c", "d", "e")] == [
        *("10.0.5.1/24", "1472", "false", "false", "true", "5", None)
    ]
    assert told.is_on("c")
    assert told.is_off("b")


def test_a_docker_of_another_namespace_is_not_ours() -> None:
    daemon = docker((20, 10))
    assert daemon.is_here({"docker0": [IPv4Address("10.0.5.1")]})
    assert not daemon.is_here({"docker0": [IPv4Address("10.0.9.1")]})
    assert not daemon.is_here({"br-1": [IPv4Address("10.0.5.1")]})


@pytest.mark.parametrize(
    ("text", "version"),
    [("Docker version 28.5.2+dfsg4, build 3ef3c07", (28, 5)), ("20.10.24+dfsg1", (20, 10)), ("nonsense", None)],
)
def test_versions(text: str, version: tuple[int, int] | None) -> None:
    assert parse_version(text) == version
