"""When drops and the slow path are a problem, and what it says."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest

from overlay.datapath.causes import LOSSES, SLOW, Cause, Minute, judge, slow_path_share
from overlay.datapath.kernel.findings import causes_of, problems_of, slow_path_counters
from overlay.datapath.kernel.state import OBSTACLE, WAITING, State
from overlay.datapath.kernel.underlays import Surroundings, underlays
from overlay.linux.device_drops import Growth
from overlay.linux.netlink import Address, Link
from overlay.problem import Problem
from tests.support.problems import shown

CARRIED = {"tx_packets": 50_000, "rx_packets": 50_000}


@pytest.mark.parametrize("counter", LOSSES)
def test_each_loss_is_told_from_a_promille_on(counter: str) -> None:
    assert list(judge({**CARRIED, counter: 100})) == []
    (problem,) = judge({**CARRIED, counter: 102})
    assert shown([problem], "drops")
    assert f"102 {LOSSES[counter].phrase}" in problem.sentence
    assert problem.remedy == LOSSES[counter].remedy
    assert str(problem) == f"drops: {problem.sentence}; {problem.remedy}"


@pytest.mark.parametrize("counter", SLOW)
def test_each_cause_of_the_slow_path_is_told(counter: str) -> None:
    assert list(judge({**CARRIED, counter: 1000})) == []
    (problem,) = judge({**CARRIED, counter: 1001})
    assert shown([problem], "slow-path", SLOW[counter].remedy)
    (problem,) = judge({**CARRIED, counter: 1001}, {counter: Cause("by eth7", "name it")})
    assert problem.sentence.endswith("1,001 by eth7")
    assert problem.remedy == "name it"


def test_what_anybody_can_make_grow_is_no_problem() -> None:
    strangers = ("drop_outer_source", "drop_malformed", "drop_inner_source", "slow_rx_options", "slow_rx_fragment")
    assert list(judge({**CARRIED, **dict.fromkeys(strangers, 10**6)})) == []


def test_a_few_packets_are_no_share() -> None:
    assert list(judge({"tx_packets": 20, "drop_tx_send": 9, "slow_rx_unseen": 9})) == []


def test_the_largest_cause_comes_first_and_has_the_remedy() -> None:
    (problem,) = judge({"drop_tun_queue": 900, "drop_rx_memory": 20, "drop_bridge_tx": 80, "rx_packets": 1000})
    assert problem.sentence.startswith("50.0% of packets were dropped within a minute: 900 for which the TUN")
    assert problem.sentence.index("80 refused") < problem.sentence.index("20 for which")
    assert problem.remedy == LOSSES["drop_tun_queue"].remedy


def test_growth_within_the_window_alone_counts() -> None:
    minute = Minute(60)
    seen = {}
    for now in range(0, 600, 5):
        minute.add({"a": now, "b": 7}, now)
        seen[now] = minute.gained({"a": now, "b": 7}, now)
    assert all(seen[now] == {} for now in range(0, 60, 5)), "not known yet"
    assert all(60 <= seen[now]["a"] <= 65 and seen[now]["b"] == 0 for now in range(60, 600, 5))
    assert minute.gained({"a": 3, "new": 2}, 595) == {"a": 3, "new": 2}, "begun anew, and a new one"


def test_snapshots_are_bounded_however_often_it_is_asked() -> None:
    minute = Minute(60)
    for step in range(100_000):
        minute.add({"a": step}, step / 1000)
    assert len(minute._snapshots) <= 14


def test_a_device_that_is_made_anew_counts_from_zero() -> None:
    growth = Growth()
    assert [growth.add("drops", value) for value in (500, 500, 520, 3, 10)] == [0, 0, 20, 23, 30]


def test_what_never_met_a_program_is_what_nothing_else_explains() -> None:
    slow = {"tx_packets": 10, "rx_packets": 100, "drop_outer_source": 5, "drop_tx_no_peer": 3, "icmp_sent": 2}
    left = {"slow_tx_no_peer": 3, "slow_tx_ttl": 8, "slow_rx_train": 60, "rx_packets": 10**9}
    counted = slow_path_counters(slow, left)
    assert counted == {"slow_tx_packets": 10, "slow_rx_packets": 100, "slow_tx_unseen": 0, "slow_rx_unseen": 45}


def test_the_share_of_the_slow_path_has_its_reasons_largest_first() -> None:
    counters = {"tx_packets": 900, "rx_packets": 100, "slow_rx_packets": 30, "slow_rx_ttl": 3, "slow_rx_unseen": 25}
    assert slow_path_share(counters, {"slow_rx_unseen": Cause("by eth7", "")}) == (
        "3.00% of packets: 25 by eth7, 3 a TTL that ends"
    )
    assert slow_path_share({"tx_packets": 5}) == ""


def test_a_program_before_ours_is_named_and_else_an_interface_without() -> None:
    around = Surroundings(ahead=("bpf filter x on ingress of eth0",), bare=("eth7",))
    assert "bpf filter x on ingress of eth0" in causes_of(around)["slow_rx_unseen"].phrase
    assert "slow_tx_unseen" not in causes_of(around)
    assert "eth7" in causes_of(Surroundings(bare=("eth7",)))["slow_rx_unseen"].phrase


def test_what_keeps_packets_from_the_programs_is_told_in_its_parts() -> None:
    told = Problem(OBSTACLE, "IP forwarding is off", "set net.ipv4.ip_forward=1")
    assert problems_of(State(problem=told)) == (told,)
    (untold,) = problems_of(State(problem=Problem(OBSTACLE, "eth0: is gone")))
    assert untold.text == "kernel-path: eth0: is gone; it is tried again every second"


def test_what_solves_itself_is_no_problem() -> None:
    assert problems_of(State(problem=WAITING)) == problems_of(State(problem=None)) == ()


def device(index: int, kind: str = "", *, up: bool = True, master: int = 0, master_kind: str = "") -> Link:
    return Link(index, f"if{index}", 1500, up, kind, master=master or None, master_kind=master_kind, ethernet=True)


def test_interfaces_that_packets_from_peers_may_come_by() -> None:

    outside, inside = IPv4Address("192.168.7.1"), IPv4Address("10.0.1.1")
    cases = {
        "hardware": (device(1), outside, True),
        "down": (device(2, up=False), outside, False),
        "without an address": (device(3), None, False),
        "of the overlay": (device(4), inside, False),
        "a bridge, with containers": (device(5, "bridge"), outside, False),
        "a port of a bond": (device(6, master=9, master_kind="bond"), outside, False),
        "in a VRF": (device(7, master=9, master_kind="vrf"), outside, True),
        "a VLAN": (device(8, "vlan"), outside, True),
        "another tunnel": (device(10, "tun"), outside, False),
        "a bridge by which a route to a peer leaves": (device(11, "bridge"), None, True),
    }
    found = underlays(
        [each for each, _, _ in cases.values()],
        [Address(each.index, address, 24) for each, address, _ in cases.values() if address is not None],
        {11},
        IPv4Network("10.0.0.0/16"),
    )
    assert {name: each in found for name, (each, _, _) in cases.items()} == {
        name: expected for name, (_, _, expected) in cases.items()
    }
