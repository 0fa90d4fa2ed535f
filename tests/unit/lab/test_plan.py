"""A lab's description as commands."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface
from typing import ClassVar

import pytest

from overlay.errors import LabError, UsageError
from overlay.lab import faults, plan, shell
from overlay.lab.topology import LabSpec, SubnetFile

SPEC = LabSpec(name="x", nodes=2, pods=1, mtu=1400, agent_arguments=("--datapath", "userspace"))
NODE = SPEC.node_specs[0]


def test_switch_has_a_port_for_every_machine_on_the_underlay() -> None:
    assert plan.switch_batch(SPEC) == [
        "link add underlay mtu 1400 type bridge forward_delay 0",
        "link set underlay up",
        "link add etcd mtu 1400 type veth peer name eth0 mtu 1400 netns x-etcd",
        "link set etcd master underlay up",
        "link add n1 mtu 1400 type veth peer name eth0 mtu 1400 netns x-n1",
        "link set n1 master underlay up",
        "link add n2 mtu 1400 type veth peer name eth0 mtu 1400 netns x-n2",
        "link set n2 master underlay up",
    ]


def test_machines_with_cards_need_no_switch() -> None:
    spec = replace(SPEC, cards=("c1", "c2", "c3"))
    assert plan.switch_batch(spec) == [
        "link add underlay mtu 1400 type bridge forward_delay 0",
        "link set underlay up",
    ]
    assert plan.take_batch(spec) == [
        "link set dev c1 netns x-etcd name eth0 mtu 1400",
        "link set dev c2 netns x-n1 name eth0 mtu 1400",
        "link set dev c3 netns x-n2 name eth0 mtu 1400",
    ]
    assert [(where, argv[2]) for where, argv in plan.offload_commands(spec)] == [
        ("x-etcd", "eth0"), ("x-n1", "eth0"), ("x-n2", "eth0"),
    ]  # fmt: skip
    assert plan.take_batch(SPEC) == []


def test_node_has_an_underlay_address_and_a_bridge_for_its_pods() -> None:
    assert plan.node_batch(SPEC, NODE) == [
        "addr add 172.31.0.1/24 dev eth0",
        "link set eth0 up",
        "route add default via 172.31.0.100 dev eth0",
        "link add docker0 type bridge forward_delay 0",
        "link set docker0 up",
        "link add vn1p1 type veth peer name eth0 netns x-n1p1",
        "link set vn1p1 master docker0 up",
    ]


def test_pods_get_what_the_subnet_file_says() -> None:
    subnet = SubnetFile(IPv4Interface("10.0.39.1/24"), 1372)
    assert plan.connect_node_batch(NODE, subnet) == [
        "link set vn1p1 mtu 1372",
        "link set docker0 mtu 1372",
        "addr flush dev docker0 scope global",
        "addr add 10.0.39.1/24 dev docker0",
    ]
    assert list(plan.connect_pod_batches(NODE, subnet)) == [
        (
            "x-n1p1",
            [
                "link set eth0 mtu 1372 up",
                "addr flush dev eth0 scope global",
                "addr add 10.0.39.2/24 dev eth0",
                "route replace default via 10.0.39.1 dev eth0",
            ],
        )
    ]


@pytest.mark.parametrize(
    ("wire", "gro", "segmentation", "merging"), [(True, True, "off", "on"), (False, False, "on", "off")]
)
def test_wire_mode_is_set_at_both_ends_of_every_underlay_link(
    wire: bool, gro: bool, segmentation: str, merging: str
) -> None:
    spec = LabSpec(name="x", nodes=1, wire=wire, gro=gro)
    set_ = ["tso", segmentation, "gso", segmentation, "tx-udp-segmentation", segmentation]
    assert list(plan.offload_commands(spec)) == [
        ("x-sw", ["ethtool", "-K", "etcd", *set_]),
        ("x-etcd", ["ethtool", "-K", "eth0", *set_, "gro", merging]),
        ("x-sw", ["ethtool", "-K", "n1", *set_]),
        ("x-n1", ["ethtool", "-K", "eth0", *set_, "gro", merging]),
    ]


def test_trains_of_datagrams_may_cross_whole() -> None:
    argv = next(argv for _, argv in plan.offload_commands(LabSpec(name="x", nodes=1, wire=True, trains=True)))
    assert argv[3:] == ["tso", "off", "gso", "off", "tx-udp-segmentation", "on"]


def test_agent_is_called_as_a_user_would() -> None:
    assert plan.agent_command(SPEC, "/opt/overlay", "/run/x/n1", ["--ip-masq"]) == [
        *("/opt/overlay", "agent", "--etcd-endpoints", "http://172.31.0.100:2379", "--iface", "eth0"),
        *("--subnet-file", "/run/x/n1/subnet.env", "--state-dir", "/run/x/n1"),
        *("--datapath", "userspace", "--ip-masq"),
    ]


def test_failed_batch_names_the_line_that_failed() -> None:
    error = shell.batch_error(["link add a", "link set b up"], 'Cannot find device "b"\nCommand failed -:2\n')
    assert str(error) == 'ip link set b up: Cannot find device "b"'


def test_missing_programs_are_named_together_with_their_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(LabError, match=r"missing etcd, ip; apt-get install etcd-server iproute2"):
        shell.require_programs("etcd", "ip")


def test_without_root_the_remedy_is_sudo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(LabError, match=r"needs root.*sudo"):
        shell.require_root()


def test_flanneld_variables_do_not_reach_the_labs_agents(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLANNELD_IFACE", "eth9")
    assert "FLANNELD_IFACE" not in shell.clean_environment()


def test_failing_command_is_one_line_with_its_last_complaint() -> None:
    with pytest.raises(LabError, match=r"^sh -c .*: second$"):
        shell.run(["sh", "-c", "echo first >&2; echo second >&2; exit 3"])


def test_hanging_command_is_given_up() -> None:
    with pytest.raises(LabError, match=r"did not end within 0\.1 s"):
        shell.run(["sleep", "60"], timeout=0.1)


class TestFaults:
    """Faults as nftables' and tc's input."""

    PORTS: ClassVar = {
        IPv4Address("172.31.0.1"): "n1",
        IPv4Address("172.31.0.2"): "n2",
        IPv4Address("172.31.0.100"): "etcd",
    }

    def rules(self, *injected: faults.Fault) -> list[str]:
        return [line.strip() for line in faults.nft_script(injected, self.PORTS).splitlines() if "chain" in line]

    def test_script_replaces_what_was_in_force(self) -> None:
        assert faults.nft_script([], self.PORTS).startswith("table netdev faults {}\ndelete table netdev faults\n")

    def test_faults_of_one_source_share_its_chain(self) -> None:
        (chain,) = self.rules(
            faults.Fault("n1", IPv4Address("172.31.0.2"), drop=100), faults.Fault("n1", drop=1.5, reorder=2)
        )
        assert chain == (
            "chain n1 { type filter hook ingress device n1 priority 0; ip daddr 172.31.0.2 drop ; "
            "numgen random mod 10000 < 150 drop ; numgen random mod 10000 < 200 meta priority set 1:2 ; }"
        )

    def test_duplicates_go_to_the_port_of_their_destination(self) -> None:
        (chain,) = self.rules(faults.Fault("n1", duplicate=1))
        assert "ip daddr 172.31.0.2 numgen random mod 10000 < 100 dup to n2" in chain
        assert "dup to n1" not in chain

    @pytest.mark.parametrize("percent", [-1, 100.5])
    def test_no_percentage(self, percent: float) -> None:
        with pytest.raises(UsageError):
            faults.Fault("n1", drop=percent)
