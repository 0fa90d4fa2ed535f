"""What follows from a lab's description: names, addresses, and the JSON that survives a crash."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Interface, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.errors import LabError, UsageError
from overlay.lab.topology import NAME, LabSpec, SubnetFile

specs = st.builds(
    LabSpec,
    name=st.from_regex(NAME, fullmatch=True),
    nodes=st.integers(1, 99),
    pods=st.integers(0, 100),
    network=st.sampled_from([IPv4Network("10.0.0.0/16"), IPv4Network("10.3.0.0/20")]),
    config=st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5), max_size=2),
    agent_arguments=st.lists(st.text(max_size=8), max_size=3).map(tuple),
    mtu=st.integers(576, 9000),
    wire=st.booleans(),
    trains=st.booleans(),
    gro=st.booleans(),
)


@given(specs)
def test_description_survives_json(spec: LabSpec) -> None:
    assert LabSpec.from_json(spec.to_json()) == spec


def test_cards_survive_json_and_are_one_for_etcd_and_for_each_node() -> None:
    spec = LabSpec(nodes=2, cards=("c1", "c2", "c3"))
    assert LabSpec.from_json(spec.to_json()) == spec
    for cards in (("c1", "c2"), ("c1", "c2", "c2"), ("c1", "c2", "c3", "c4")):
        with pytest.raises(UsageError, match=f"cards {' '.join(cards)}: .*etcd and 2 nodes need 3"):
            LabSpec(nodes=2, cards=cards)


@given(specs)
def test_names_and_addresses_are_unique_and_fit_the_kernel(spec: LabSpec) -> None:
    assert len(set(spec.namespaces)) == len(spec.namespaces) == 2 + spec.nodes * (1 + spec.pods)
    underlay = [spec.etcd_address, *(node.address for node in spec.node_specs)]
    assert len(set(underlay)) == len(underlay)
    assert all(address.ip in spec.underlay for address in underlay)
    # IFNAMSIZ is 16 with the final zero.
    assert all(len(pod.port) <= 15 for pod in spec.pod_specs)


@given(specs, specs)
def test_no_labs_prefix_begins_another_labs_names(one: LabSpec, other: LabSpec) -> None:
    if one.name != other.name:
        assert not any(name.startswith(one.prefix) for name in other.namespaces)


def test_machines_by_the_names_of_the_command_line() -> None:
    spec = LabSpec(name="x", nodes=2, pods=1)
    assert spec.machines == {
        "sw": "x-sw",
        "etcd": "x-etcd",
        "n1": "x-n1",
        "n2": "x-n2",
        "n1p1": "x-n1p1",
        "n2p1": "x-n2p1",
    }
    assert spec.endpoint == "http://172.31.0.100:2379"


def test_config_members_replace_ours() -> None:
    spec = LabSpec(config={"SubnetLen": 28, "Backend": {"Type": "udp", "Port": 7000}})
    assert spec.network_config() == {
        "Network": "10.0.0.0/16",
        "SubnetLen": 28,
        "Backend": {"Type": "udp", "Port": 7000},
    }


def test_pods_follow_the_bridge_in_the_subnet() -> None:
    first, second = LabSpec(nodes=1, pods=2).pod_specs
    gateway = IPv4Interface("10.0.39.1/24")
    assert first.address_in(gateway) == IPv4Interface("10.0.39.2/24")
    assert second.address_in(gateway) == IPv4Interface("10.0.39.3/24")


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "a-b"},
        {"name": ""},
        {"name": "averyverylongname"},
        {"nodes": 0},
        {"nodes": 100},
        {"pods": -1},
        {"mtu": 100},
        {"network": IPv4Network("172.16.0.0/12")},
        {"underlay": IPv4Network("172.31.0.0/26")},
    ],
)
def test_what_cannot_be_is_refused_with_a_remedy(fields: dict[str, object]) -> None:
    with pytest.raises(UsageError) as caught:
        LabSpec(**fields)  # type: ignore[arg-type]
    assert caught.value.about
    assert caught.value.remedy


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"network": "x"}', LabSpec().to_json()[:-20]])
def test_damaged_description_is_a_lab_error(text: str) -> None:
    with pytest.raises(LabError):
        LabSpec.from_json(text)


def test_subnet_file_is_read_as_docker_would() -> None:
    subnet = SubnetFile.parse("FLANNEL_NETWORK=10.0.0.0/16\nFLANNEL_SUBNET=10.0.39.1/24\nFLANNEL_MTU=1472\n")
    assert subnet == SubnetFile(IPv4Interface("10.0.39.1/24"), 1472)
    assert subnet.base == IPv4Address("10.0.39.0")


@pytest.mark.parametrize("text", ["", "FLANNEL_SUBNET=10.0.39.1/24\n", "FLANNEL_SUBNET=x\nFLANNEL_MTU=1472\n"])
def test_unusable_subnet_file_is_a_lab_error(text: str) -> None:
    with pytest.raises(LabError, match="subnet file"):
        SubnetFile.parse(text)
