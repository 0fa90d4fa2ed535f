"""What Dockers of several versions need, and what is said of those that run without it: tables of facts."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest

from overlay.lab.process import poll
from overlay.node.docker import daemon
from overlay.node.docker.daemon import BridgeNetwork, Daemon, Told, bridges
from overlay.node.docker.judgement import Place, judge
from overlay.node.docker.needs import Needs, needs
from overlay.node.docker.program import Abilities, parse_version
from overlay.node.docker.restart import Restart, would_help
from overlay.node.firewall.saved import Saved
from tests.support.problems import shown

SUBNET = IPv4Network("10.0.5.0/24")
HERE = BridgeNetwork("bridge", "docker0", (SUBNET,))
ELSEWHERE = BridgeNetwork("bridge", "docker0", (IPv4Network("172.17.0.0/16"),))
OPEN = ("--allow-direct-routing",)
RAW = ("-A PREROUTING -d 10.0.5.2/32 ! -i docker0 -j DROP",)


@pytest.mark.parametrize(
    ("abilities", "told", "wanted"),
    [
        (Abilities((20, 10)), Told(), Needs()),
        (Abilities((27, 5)), Told(), Needs()),
        (Abilities((20, 10)), Told(file={"bridge": "none"}), Needs(left_out={"FLANNEL_SUBNET": ANY})),
        (Abilities((20, 10)), Told(("--bridge=br5",)), Needs(left_out={"FLANNEL_SUBNET": ANY})),
        (Abilities((20, 10)), Told(file={"bridge": ""}), Needs()),
        (Abilities((20, 10)), Told(file={"bip": "10.1.0.1/24"}), Needs(left_out={"FLANNEL_SUBNET": ANY})),
        (
            Abilities((20, 10)),
            Told(("--mtu=1400",), {"mtu": 1450, "ip-masq": False}),
            Needs(left_out={"FLANNEL_MTU": ANY, "FLANNEL_IPMASQ": ANY}),
        ),
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
            Told(file={"firewall-backend": "nftables", "bridge-accept-fwmark": "1", "allow-direct-routing": True}),
            Needs(),
        ),
        (
            Abilities((29, 1), True, True),
            Told(("--firewall-backend=iptables",)),
            Needs({"DOCKER_OPT_DIRECT_ROUTING": "--allow-direct-routing"}),
        ),
        (Abilities((29, 5), True, True), Told(), Needs({"DOCKER_OPT_DIRECT_ROUTING": "--allow-direct-routing"})),
        (
            Abilities((30, 0), True, True),  # what it takes by itself is not known
            Told(),
            Needs(
                {
                    "DOCKER_OPT_DIRECT_ROUTING": "--allow-direct-routing",
                    "DOCKER_OPT_ACCEPT_MARK": "--bridge-accept-fwmark=0x100000/0x100000",
                }
            ),
        ),
        (
            Abilities((30, 0), True, True),
            Told(file={"firewall-backend": "iptables"}),
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
        (docker((29, 0), "--bridge-accept-fwmark=0x100000/0x100000", nftables=True), (), ["docker-filter"]),
        (docker((29, 0), *OPEN, "--bridge-accept-fwmark=0x100000/0x100000", nftables=True), (), []),
        (docker((29, 0), *OPEN, "--bridge-accept-fwmark", "1048576", nftables=True), (), []),
        (docker((29, 0), *OPEN, "--bridge-accept-fwmark=0/1", nftables=True), (), []),
        (docker((29, 0), *OPEN, "--bridge-accept-fwmark=1/1", nftables=True), (), ["docker-mark"]),
        (docker((29, 0), *OPEN, "--bridge-accept-fwmark=0x100001", nftables=True), (), ["docker-mark"]),
        (docker((29, 0), *OPEN, "--bridge-accept-fwmark=nonsense", nftables=True), (), ["docker-mark"]),
        (docker((29, 0), "--iptables=false", nftables=True), (), []),
    ],
)
def test_what_is_said_of_a_docker_that_runs(running: Daemon, raw: tuple[str, ...], codes: list[str]) -> None:
    rules = tuple(Saved.parse("\n".join(raw)).chain("PREROUTING"))
    found = list(judge(running, Place(SUBNET, "flannel0", rules)))
    assert [problem.code for problem in found] == codes
    assert all("docker" in problem.remedy for problem in found)


@pytest.mark.parametrize(
    ("running", "remedy"),
    [
        (docker((20, 10), "--bip=10.0.5.1/24", network=ELSEWHERE, live_restore=True, containers=2), "stop all of them"),
        (docker((20, 10), "--bip=10.0.5.1/24", network=ELSEWHERE, live_restore=True), "nothing else gives it --bip"),
        (docker((20, 10), "--bip=10.0.5.1/24", network=ELSEWHERE, containers=2), "nothing else gives it --bip"),
        (docker((20, 10), network=ELSEWHERE), "started without --bip"),
        (replace(docker((20, 10), network=ELSEWHERE), told=Told(file={"bip": "172.17.0.1/16"})), "take bip out of"),
        (docker((28, 0)), "DOCKER_INSECURE_NO_IPTABLES_RAW=1"),
        (docker((28, 1)), "DOCKER_INSECURE_NO_IPTABLES_RAW=1"),
        (docker((28, 2)), "--allow-direct-routing"),
        (docker((29, 0), *OPEN, nftables=True), "--bridge-accept-fwmark=0x100000/0x100000"),
    ],
)
def test_what_is_wrong_says_what_to_do(running: Daemon, remedy: str) -> None:
    rules = tuple(Saved.parse("\n".join(RAW)).chain("PREROUTING")) if running.version < (28, 2) else ()
    (problem,) = judge(running, Place(SUBNET, "flannel0", rules if running.networks == (HERE,) else ()))
    assert remedy in problem.remedy


def test_what_docker_keeps_out_is_said() -> None:
    place = Place(SUBNET, "flannel0")
    assert shown(judge(docker((28, 2)), place), "docker-filter")
    assert shown(judge(docker((29, 0), *OPEN, nftables=True), place), "docker-mark")


def test_containers_of_another_network_in_the_subnet_are_enough() -> None:
    """Docker's default bridge may be where it likes then."""
    own = BridgeNetwork("own", "br-1", (IPv4Network("10.0.5.128/25"),))
    running = Daemon((26, 1), Told(), (ELSEWHERE, own))
    assert list(judge(running, Place(SUBNET, "flannel0"))) == []


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
        (["-d 10.0.5.0/24 -i lo -j ACCEPT", "-d 10.0.5.0/24 ! -i docker0 -j DROP"], True),
        (["-d 10.0.4.0/23 ! -i docker0 -j DROP"], True),
        (["-d 10.0.6.0/23 ! -i docker0 -j DROP"], False),
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
    assert Told(("dockerd", "--mtu=1"), {"mtu": 2}).value("mtu") == "1"


def test_networks_as_docker_describes_them() -> None:
    pools = {"Config": [{"Subnet": "10.0.5.0/24"}, {"Subnet": "fd00::/64"}, {}]}
    named = {"com.docker.network.bridge.name": "docker0"}
    described = [
        {"Name": "host", "Driver": "host", "Id": "0", "IPAM": {"Config": None}, "Options": {}},
        {"Name": "bridge", "Driver": "bridge", "Id": "1" * 64, "IPAM": pools, "Options": named},
        {"Name": "own", "Driver": "bridge", "Id": "abcdef0123456789", "IPAM": None, "Options": None},
        {"Name": "old", "Driver": "bridge", "Id": "2" * 64, "IPAM": {"Config": [{"Subnet": "10.0.5.7/24"}]}},
    ]
    assert list(bridges(described)) == [
        BridgeNetwork("bridge", "docker0", (SUBNET,), named),
        BridgeNetwork("own", "br-abcdef012345", ()),
        BridgeNetwork("old", "br-222222222222", (SUBNET,)),
    ]


def test_a_process_number_that_was_left_behind_is_nobodys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Docker's own counts, with its command line; another program that has its number by now does not."""
    program = tmp_path / "dockerd"
    program.symlink_to("/bin/sleep")
    monkeypatch.setattr(daemon, "PID_FILES", (tmp_path / "missing", tmp_path / "pid"))
    for command, found in (([str(program), "60"], (str(program), "60")), (["/bin/sleep", "60"], None)):
        process = subprocess.Popen(command)
        try:
            (tmp_path / "pid").write_text(f"{process.pid}\n")
            assert poll(lambda: Path(f"/proc/{process.pid}/cmdline").read_bytes() != b"", 30)  # noqa: B023
            assert (running.arguments if (running := daemon.process()) else None) == found
        finally:
            process.kill()
            process.wait()
    assert daemon.process() is None


def inside(options: str, value: str) -> BridgeNetwork:
    return BridgeNetwork(
        "own", "br-1", (IPv4Network("10.0.5.128/25"),), {f"com.docker.network.bridge.{options}": value}
    )


@pytest.mark.parametrize(
    ("networks", "addresses", "bare"),
    [
        ((HERE,), {"docker0": ["10.0.5.1"]}, []),
        ((HERE,), {"docker0": []}, ["docker0"]),
        ((HERE,), {"eth0": ["10.0.5.1"]}, ["docker0"]),
        ((HERE,), {"docker0": ["10.0.9.1", "169.254.1.1"]}, ["docker0"]),
        ((HERE,), {"docker0": ["10.0.9.1", "10.0.5.1"]}, []),
        ((ELSEWHERE, inside("name", "br-1")), {"br-1": ["10.0.5.129"]}, []),
        ((ELSEWHERE, inside("name", "br-1")), {"br-1": ["10.0.5.1"], "docker0": ["172.17.0.1"]}, ["br-1"]),
        ((ELSEWHERE, inside("inhibit_ipv4", "true")), {}, []),
        ((ELSEWHERE, inside("gateway_mode_ipv4", "isolated")), {}, []),
    ],
)
def test_a_bridge_without_its_address(
    networks: tuple[BridgeNetwork, ...], addresses: dict[str, list[str]], bare: list[str]
) -> None:
    """Docker's networks are what it says they are, whatever has become of its bridges: it does not look again."""
    found = {name: [IPv4Address(each) for each in those] for name, those in addresses.items()}
    said = list(judge(Daemon((26, 1), Told(), networks), Place(SUBNET, "flannel0", addresses=found)))
    assert [(problem.code, problem.about) for problem in said] == [("bridge-address", name) for name in bare]
    assert all(problem.remedy.startswith("systemctl restart docker") for problem in said)


@pytest.mark.parametrize(
    ("text", "version"),
    [("Docker version 28.5.2+dfsg4, build 3ef3c07", (28, 5)), ("20.10.24+dfsg1", (20, 10)), ("nonsense", None)],
)
def test_versions(text: str, version: tuple[int, int] | None) -> None:
    assert parse_version(text) == version
