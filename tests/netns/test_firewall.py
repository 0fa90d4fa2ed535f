"""The firewall in real network namespaces, with the real tools: iptables in both variants, and nftables."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import replace
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from overlay.errors import NodeError
from overlay.linux import netfilter
from overlay.linux.netfilter import Tools
from overlay.node.firewall import Firewall, Ruleset, desired_rules
from tests.support.namespaces import namespace
from tests.support.router import NETWORK, SUBNET, VARIANTS, Router, routing

pytestmark = pytest.mark.root

BOTH = desired_rules(NETWORK, SUBNET, ip_masq=True)
FORWARD_ONLY = desired_rules(NETWORK, SUBNET, ip_masq=False)

DOCKER_28 = """\
*filter
:FORWARD DROP [0:0]
:DOCKER - [0:0]
:DOCKER-FORWARD - [0:0]
:DOCKER-USER - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-FORWARD
-A DOCKER ! -i d1 -o d1 -j DROP
-A DOCKER-FORWARD -o d1 -j DOCKER
-A DOCKER-FORWARD -i d1 -j ACCEPT
COMMIT
"""


@pytest.fixture(params=VARIANTS)
def router(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Router]:
    """A router with one variant of iptables after the other."""
    with routing(request.param, tmp_path) as router:
        if request.param == "iptables-legacy":
            probe = subprocess.run(
                [*router.entering("router"), "iptables-legacy", "-t", "nat", "-S"],
                capture_output=True,
                text=True,
                check=False,
            )
            if probe.returncode:
                pytest.skip(f"this kernel has no legacy iptables: {probe.stderr.strip()}")
        yield router


@pytest.fixture
def nft_router(tmp_path: Path) -> Iterator[Router]:
    """A router whose iptables keeps its rules in nftables."""
    with routing("iptables-nft", tmp_path) as router:
        yield router


@pytest.fixture
def firewall(router: Router) -> Firewall:
    return Firewall(tools=router.tools)


def test_once_applied_there_is_nothing_left_to_do(router: Router, firewall: Firewall) -> None:
    assert len(firewall.reconcile(BOTH)) == 4
    before = router.rules()
    assert firewall.reconcile(BOTH) == []
    assert Firewall(tools=router.tools).reconcile(BOTH) == []
    assert router.rules() == before
    assert before.count("FLANNEL-POSTRTG") == 1 + 1 + 6


@pytest.mark.parametrize("with_docker", [False, True])
def test_rules_of_others_survive_to_the_byte(router: Router, firewall: Firewall, with_docker: bool) -> None:
    if with_docker:
        router.restore(DOCKER_28)
    router.iptables("-A", "FORWARD", "-s", "198.51.100.0/24", "-m", "comment", "--comment", 'a "b" c', "-j", "DROP")
    router.iptables("-t", "nat", "-A", "POSTROUTING", "-s", "198.51.100.0/24", "-j", "MASQUERADE")
    router.inside("router", "nft", "add table inet others; add chain inet others c")
    before = router.rules()
    firewall.reconcile(BOTH)
    others = [line for line in router.rules().splitlines() if "FLANNEL" not in line]
    assert others == before.splitlines()
    firewall.remove()
    assert router.rules() == before
    assert firewall.remove() == []


@pytest.mark.parametrize("enable_nftables", [False, True])
def test_a_forward_chain_that_drops_lets_the_overlay_pass(router: Router, enable_nftables: bool) -> None:
    """Also with nftables: an accept in another table would not undo the drop."""
    firewall = Firewall(enable_nftables=enable_nftables, tools=router.tools)
    assert router.reaches()
    router.restore(DOCKER_28)
    assert not router.reaches()
    firewall.reconcile(FORWARD_ONLY)
    assert router.reaches()
    router.iptables("-F", "FORWARD")
    assert not router.reaches()
    assert firewall.reconcile(FORWARD_ONLY)
    assert router.reaches()


def test_an_operators_filter_keeps_the_last_word(router: Router, firewall: Firewall) -> None:
    router.restore(DOCKER_28)
    router.iptables("-A", "DOCKER-USER", "-s", "192.0.2.2/32", "-j", "DROP")
    firewall.reconcile(FORWARD_ONLY)
    assert not router.reaches()


def test_docker_may_move_its_chains_between_reading_and_writing(router: Router, tmp_path: Path) -> None:
    """As it does when it makes a network: a rule is put in its place by numbers that are no longer right."""
    router.restore(DOCKER_28)
    own = router.tools.own_iptables
    assert own is not None
    move = f"{' '.join(router.entering('router'))} {router.variant} -w"
    interposed = tmp_path / "restore-after-docker"
    interposed.write_text(
        f"""#!/bin/sh
        if [ ! -e {tmp_path}/moved ]; then
            touch {tmp_path}/moved
            for chain in DOCKER-FORWARD DOCKER-USER; do {move} -D FORWARD -j $chain; {move} -I FORWARD -j $chain; done
            {move} -I FORWARD 3 -m comment --comment behind -j ACCEPT
            {move} -I FORWARD -m comment --comment before -i none -j ACCEPT
        fi
        exec {own.restore} "$@"
        """
    )
    interposed.chmod(0o755)
    Firewall(tools=replace(router.tools, iptables_restore=str(interposed))).reconcile(BOTH)
    assert Firewall(tools=router.tools).reconcile(BOTH) == [], "all was right"


def test_reordered_and_doubled_rules_are_put_right(router: Router, firewall: Firewall) -> None:
    router.restore(DOCKER_28)
    firewall.reconcile(BOTH)
    right = router.rules()
    jump = ("-m", "comment", "--comment", "flanneld forward", "-j", "FLANNEL-FWD")
    router.iptables("-D", "FORWARD", *jump)
    router.iptables("-A", "FORWARD", *jump)
    router.iptables("-A", "FORWARD", *jump)
    router.iptables("-D", "FLANNEL-POSTRTG", "3", "-t", "nat")
    assert firewall.reconcile(BOTH)
    assert router.rules() == right


def test_a_subnet_that_changed_leaves_nothing_of_the_old_one(router: Router, firewall: Firewall) -> None:
    firewall.reconcile(BOTH)
    firewall.reconcile(desired_rules(NETWORK, IPv4Network("10.77.9.0/24"), ip_masq=True))
    assert "10.77.5.0" not in router.rules()
    assert "10.77.9.0" in router.rules()


def test_masquerading_hides_containers_from_outside_but_not_from_each_other(router: Router, firewall: Firewall) -> None:
    def source_seen_by_client() -> str:
        """Where a datagram from the container seems to come from."""
        with subprocess.Popen(
            ["nsenter", f"--net=/run/netns/{router.names['client']}", "tcpdump", "-nlc1", "-i", "clie", "udp port 9"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as dump:
            assert dump.stdout is not None
            assert dump.stderr is not None
            while "listening on" not in dump.stderr.readline():
                pass
            router.inside("container", "bash", "-c", "echo hello > /dev/udp/192.0.2.2/9")
            line = dump.stdout.readline()
            dump.wait(10)
        return line.split()[2].rpartition(".")[0]

    assert source_seen_by_client() == "10.77.5.2"
    firewall.reconcile(BOTH)
    assert source_seen_by_client() == "192.0.2.1"


@pytest.mark.parametrize("enable_nftables", [False, True])
def test_two_agents_leave_each_others_rules_alone(nft_router: Router, enable_nftables: bool) -> None:
    """Each comes to rest, and what one removes is its own."""
    network, subnet = IPv4Network("10.88.0.0/16"), IPv4Network("10.88.5.0/24")
    theirs = desired_rules(network, subnet, ip_masq=True)
    nft_router.restore(DOCKER_28)
    first, second = (
        Firewall(owner=device, enable_nftables=enable_nftables, tools=nft_router.tools)
        for device in ("flannel0", "fifteen-letters")
    )
    first.reconcile(BOTH)

    def everything() -> str:
        return nft_router.rules() + nft_router.inside("router", "nft", "-s", "list", "ruleset")

    alone = everything()
    assert second.reconcile(theirs)
    assert first.reconcile(BOTH) == []
    assert second.reconcile(theirs) == []
    assert nft_router.reaches()
    second.remove()
    assert everything() == alone
    second.reconcile(theirs)
    first.remove()
    assert second.reconcile(theirs) == []


def test_nftables_mode_and_back_leaves_no_rule_twice(nft_router: Router) -> None:
    Firewall(tools=nft_router.tools).reconcile(BOTH)
    in_nft = Firewall(enable_nftables=True, tools=nft_router.tools)
    assert in_nft.reconcile(BOTH)
    assert in_nft.reconcile(BOTH) == []
    rules = nft_router.rules()
    assert "FLANNEL" not in rules
    assert "table ip flannel-ipv4" in rules
    assert nft_router.inside("router", "nft", "list", "table", "ip", "flannel-ipv4").count("flanneld masq") == 6
    nft_router.inside("router", "nft", "flush chain ip flannel-ipv4 postrtg")
    assert in_nft.reconcile(BOTH) == ["nftables: table ip flannel-ipv4 rewritten"]

    in_iptables = Firewall(tools=nft_router.tools)
    in_iptables.reconcile(BOTH)
    rules = nft_router.rules()
    assert "flannel-ipv4" not in rules
    assert rules.count("-j FLANNEL-POSTRTG") == 1


def test_without_iptables_it_is_nftables(nft_router: Router) -> None:
    firewall = Firewall(tools=Tools(None, None, nft_router.tools.nft))
    assert firewall.backend == "nftables"
    firewall.reconcile(BOTH)
    assert (
        nft_router.inside("router", "nft", "list", "table", "ip", "flannel-ipv4").count("masquerade fully-random") == 2
    )
    firewall.remove()
    assert "flannel" not in nft_router.inside("router", "nft", "list", "ruleset")


def test_without_any_tool_the_error_names_the_package() -> None:
    firewall = Firewall(tools=Tools(None, None, None))
    assert firewall.reconcile(Ruleset()) == []
    with pytest.raises(NodeError, match="apt-get install nftables"):
        firewall.reconcile(BOTH)


def test_rules_made_with_nft_in_iptables_own_table_survive(nft_router: Router) -> None:
    firewall = Firewall(tools=nft_router.tools)
    nft_router.restore(DOCKER_28)
    nft_router.inside("router", "nft", "add set ip filter guests { type ipv4_addr; }")
    nft_router.inside("router", "nft", "add rule ip filter FORWARD ip saddr @guests drop")
    firewall.reconcile(BOTH)
    firewall.remove()
    assert "ip saddr @guests drop" in nft_router.inside("router", "nft", "list", "table", "ip", "filter")


def test_a_table_that_iptables_cannot_use_is_one_clear_line(nft_router: Router) -> None:
    firewall = Firewall(tools=nft_router.tools)
    nft_router.inside("router", "nft", "add table ip filter")
    nft_router.inside("router", "nft", "add chain ip filter FORWARD { type filter hook forward priority 5; }")
    with pytest.raises(NodeError) as raised:
        firewall.reconcile(BOTH)
    assert "\n" not in str(raised.value)
    assert str(raised.value).startswith("iptables-nft-restore: line ")
    assert "table of its own" in str(raised.value)


ISOLATED = """\
*filter
:FORWARD DROP [0:0]
:DOCKER-FORWARD - [0:0]
:DOCKER-ISOLATION-STAGE-1 - [0:0]
-A FORWARD -j DOCKER-FORWARD
-A DOCKER-FORWARD -j DOCKER-ISOLATION-STAGE-1
-A DOCKER-FORWARD ! -i d1 -o d1 -j DROP
COMMIT
"""


def test_the_interface_of_peers_packets_may_change(nft_router: Router) -> None:
    """As it does where a node goes over to another backend: no jump from the former interface is left."""

    def jumps() -> list[str]:
        rules = nft_router.inside("router", "iptables", "-S", "FORWARD").splitlines()
        return [rule.partition(" -m ")[0] for rule in rules if "FLANNEL-FWD" in rule]

    nft_router.restore(ISOLATED)
    Firewall(tools=nft_router.tools).reconcile(BOTH)
    assert "-A FORWARD -i flannel0" in jumps()
    by_link = Firewall(interface=nft_router.outside, tools=nft_router.tools)
    by_link.reconcile(BOTH)
    assert [rule for rule in jumps() if " -i " in rule] == [f"-A FORWARD -i {nft_router.outside}"]
    assert nft_router.reaches()
    by_link.remove()
    assert jumps() == []


BY_OTHERS = {
    "iptables": ("iptables-nft", "-I", "FORWARD", "1", "-j", "ACCEPT"),
    "the other iptables": ("iptables-legacy", "-P", "FORWARD", "DROP"),
    "a jump of ours": ("iptables-nft", "-t", "nat", "-F", "POSTROUTING"),
    "nft": ("nft", "add table ip others; add chain ip others forward { type filter hook forward priority 0; }"),
    "nft flushes": ("nft", "flush ruleset"),
}  # fmt: skip


@pytest.mark.parametrize("change", BY_OTHERS)
def test_rules_are_read_again_once_anybody_has_changed_one_and_not_before(
    monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    commands: list[str] = []
    run = netfilter._run

    def noting(command: Sequence[str], text: str = "") -> str:
        commands.append(os.path.basename(command[0]))
        return run(command, text)

    monkeypatch.setattr(netfilter, "_run", noting)
    with namespace("still") as still:
        firewall = Firewall()

        def looked() -> bool:
            commands.clear()
            still.call(lambda: firewall.reconcile(BOTH))
            return bool(commands)

        while still.call(lambda: firewall.reconcile(BOTH)):
            pass
        still.run("nft", "add table ip packets; add set ip packets seen { type ipv4_addr; flags dynamic; size 9; }; "
                  "add chain ip packets out { type filter hook output priority 0; }; "
                  "add rule ip packets out counter update @seen { ip daddr }")  # fmt: skip
        assert looked()
        for _ in range(3):
            still.run("ping", "-c1", "127.0.0.1")  # what counts packets is no change
            assert not looked()
        if still.attempt(*BY_OTHERS[change]).returncode:
            assert change == "the other iptables"
            pytest.skip("this kernel has no older iptables")
        assert looked()
        assert still.call(lambda: Firewall().reconcile(BOTH)) == [], "and what is wrong then is mended"
