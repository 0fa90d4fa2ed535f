"""Services' addresses, from everywhere, in every proxy mode, against the table's oracle.

See :mod:`tests.support.services_lab` for the machines.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from overlay.lab.cluster import Lab
from overlay.lab.topology import LabSpec
from overlay.services.table import Answer
from tests.support.services_lab import BALANCER, EXTERNAL, ServicesLab, services_lab

pytestmark = [pytest.mark.root, pytest.mark.etcd]

MODES = ("nftables",)

VIP, NODE_PORT = "10.96.7.1", 30080
EVERYWHERE = {
    "type": "LoadBalancer",
    "externalIPs": [EXTERNAL],
    "ports": [
        {"name": "tcp", "port": 80, "targetPort": 8080, "nodePort": NODE_PORT},
        {"name": "udp", "port": 80, "targetPort": 8080, "nodePort": NODE_PORT, "protocol": "UDP"},
    ],
}
INGRESS = {"ingress": [{"ip": BALANCER}]}
SOURCES = {"a pod": "n1p1", "the node": "n1", "outside": "etcd"}


@pytest.fixture(scope="module", params=MODES)
def lab(request: pytest.FixtureRequest) -> Iterator[ServicesLab]:
    """One for all tests of a mode; each leaves pods and Services as they were."""
    with (
        Lab.running(LabSpec(name=f"s{os.getpid()}", nodes=2, pods=2)) as made,
        services_lab(made, request.param) as lab,
    ):
        yield lab


@pytest.fixture
def services(lab: ServicesLab) -> Iterator[ServicesLab]:
    yield lab
    for name in list(lab.services):
        lab.delete_service(name)


def places(lab: ServicesLab) -> list[tuple[str, int]]:
    """Every address of the Service, and two that are none."""
    own = str(lab.lab.node("n1").address)
    return [(VIP, 80), (VIP, 81), ("10.96.99.99", 80), (EXTERNAL, 80), (BALANCER, 80), (own, NODE_PORT)]


def check(lab: ServicesLab, source: str, node: str, address: str, port: int, protocol: str = "TCP") -> None:
    """One cell: many connections, and what each met, against the oracle."""
    expected = lab.meets(source, node, address, port, protocol)
    what = f"{source} → {address}:{port}/{protocol}"
    if expected.answer is not Answer.BALANCE:
        patience = 1.0 if expected.answer is Answer.DROP else 10.0
        (answer,) = lab.client(source).ask(protocol, address, port, patience=patience)
        assert answer == ("refused" if expected.answer is Answer.REJECT else "silence"), what
        return
    names = {lab.pod_named(each.address): each in expected.masqueraded for each in expected.backends}
    met: dict[str, str] = {}
    for _ in range(10):
        for each in lab.client(source).ask(protocol, address, port, count=3 * len(names)):
            assert isinstance(each, dict), f"{what}: {each}"
            met[each["name"]] = each["client"]
        if met.keys() >= names.keys():
            break
    assert met.keys() == names.keys(), what
    hidden = {name: client != str(lab.source(source)) for name, client in met.items()}
    assert hidden == names, f"{what}: saw {met}"


@pytest.mark.parametrize("policies", list(itertools.product(("Cluster", "Local"), repeat=2)), ids="-".join)
@pytest.mark.parametrize("local", ["here-and-there", "there", "nowhere"])
def test_every_source_meets_what_the_table_says_at_every_address(
    services: ServicesLab, policies: tuple[str, str], local: str
) -> None:
    selector = {"here-and-there": {"app": "web"}, "there": {"name": "n2p1"}, "nowhere": {"app": "none"}}[local]
    internal, external = policies
    services.put_service(
        "web", INGRESS, **EVERYWHERE, clusterIP=VIP, selector=selector,
        internalTrafficPolicy=internal, externalTrafficPolicy=external,
        loadBalancerSourceRanges=["10.0.0.0/16", "172.31.0.1/32"],
    )  # fmt: skip

    def from_one(source: str) -> None:
        for address, port in places(services):
            check(services, source, "n1", address, port)
            if (address, port) not in ((VIP, 81), ("10.96.99.99", 80)):
                check(services, source, "n1", address, port, "UDP")

    with ThreadPoolExecutor() as pool:
        list(pool.map(from_one, SOURCES.values()))
